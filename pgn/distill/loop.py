"""Distil a perceptual loss into a PGN: a run whose lessons come from photos, or from a bank.

With replay its folder holds a bank of the teacher's gradients for each process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from lightning.fabric import Fabric
from torch import Tensor

from pgn.checkpoint import save
from pgn.distill import bank as banks
from pgn.distill import run as runs
from pgn.distill.data import Batch, Stream, photo_batches
from pgn.distill.distiller import Distiller, Learnt
from pgn.distill.options import DistillOptions
from pgn.distill.run import TRIAL_STEPS, check_output, execute, median_seconds, start_fabric
from pgn.images import denormalise

__all__ = ["Figures", "Report", "Run", "distil", "seconds_per_step", "start_fabric"]

REPORT_EVERY = 40  # steps
INITIAL_PIXELS = 96 * 96 * 96  # from which the network is prepared: 96 crops of 96x96
BANK_NAME = "bank"


@dataclass(frozen=True)
class Figures:
    """What a line of the log says; means over the last REPORT_EVERY steps and all processes."""

    images: int  # new crops so far
    loss: float
    cosine: float  # with the teacher's gradient, before the step that learns it
    autoencoder_l1: tuple[float, ...]
    images_per_second: float  # new ones
    seconds: float  # of training so far, over all runs


Report = Callable[[Figures], None]


class Run(runs.Run[Learnt, Figures]):
    """One distillation in one process: the distiller, its photos or bank, its folder."""

    def __init__(self, options: DistillOptions, fabric: Fabric) -> None:
        self.options = options
        self.source = banks.load(options.data) if banks.is_bank(options.data) else None
        self.distiller = Distiller(options, fabric, self.source)
        super().__init__(self.distiller, REPORT_EVERY)
        if not self.source:
            self._batches(0)  # a source without photos is told before work begins

    @property
    def path(self) -> Path:
        return self.output / f"pgn-{self.options.backbone}.safetensors"

    def begin(self) -> None:
        """Prepare a new network."""
        distiller, options = self.distiller, self.options
        count = max(1, INITIAL_PIXELS // options.crop**2)
        if self.source:
            lesson = self.source.lesson(torch.arange(min(count, self.source.size)))
            distiller.begin_from(denormalise(lesson.u_target), denormalise(lesson.u_generated))
        else:
            batches = islice(self._photos(0), -(-count // options.batch))
            distiller.prepare([batch.to(self.fabric.device) for batch in batches])
        distiller.set_up()
        if options.bank and not self.source:
            card = {"teacher": distiller.teacher.source, "alpha": distiller.net.config.alpha}
            folder = self._bank_folder
            distiller.bank = banks.create(folder, options.bank, options.crop, card)

    def resume(self) -> None:
        """Go on from the folder's state and bank.

        Raises:
            PgnError: one is damaged, or of a run with other options.
        """
        self.distiller.set_up()
        if self.options.bank and not self.source:
            self.distiller.bank = banks.load(self._bank_folder, writable=True)
        self.restore_state()

    def save_state(self) -> None:
        """Write state.pt, and what the bank has only in memory."""
        if self.distiller.bank and self.options.bank:
            self.distiller.bank.flush()
        super().save_state()

    def finish(self) -> Path:
        """Write the checkpoint; returns its path."""
        self.save_state()
        net = self.distiller.net
        self.distiller.average.copy_to(net.parameters())
        net.info["training"] = {**self.summary(), "skipped_photos": len(self.skipped)}
        if self.options.licence:
            net.info["licence"] = self.options.licence
        if self.fabric.is_global_zero:
            save(net, self.path)
        self.fabric.barrier()
        return self.path

    def steps(self) -> Iterator[Learnt]:
        """Every step that is left, as it is done."""
        distiller = self.distiller
        remaining = self.options.steps - distiller.done
        if self.source:
            return (distiller.step_from_bank() for _ in range(remaining))
        photos = islice(self._photos(distiller.done), remaining)
        return (distiller.step(images) for images in photos)

    def figures(self, recent: list[Learnt], images_per_second: float) -> Figures:
        """A line of the log: means over the last steps and all processes."""
        rows = [[learnt.loss, learnt.cosine, *learnt.autoencoder_l1] for learnt in recent]
        sums = map(sum, zip(*rows, strict=True))
        loss, cosine, *autoencoder_l1 = self.mean([value / len(rows) for value in sums])
        return Figures(
            images=self.images,
            loss=loss,
            cosine=cosine,
            autoencoder_l1=tuple(autoencoder_l1),
            images_per_second=images_per_second,
            seconds=self.distiller.seconds,
        )

    @property
    def _bank_folder(self) -> Path:
        folder = self.output / BANK_NAME
        rank = self.fabric.global_rank
        return folder / f"rank{rank}" if self.fabric.world_size > 1 else folder

    def _photos(self, start: int) -> Iterator[Tensor]:
        """Endless uint8 (batch, 3, canvas, canvas), from step `start` on."""
        for batch in self._batches(start):
            self.name_skipped(batch.corrupt)
            yield batch.images

    def _batches(self, start: int) -> Iterator[Batch]:
        options, fabric = self.options, self.fabric
        stream = Stream(options.seed, options.batch, start, fabric.global_rank, fabric.world_size)
        return photo_batches(options.data, options.canvas, stream, options.workers)


def distil(
    options: DistillOptions, report: Report = lambda figures: None, *, resume: bool = False
) -> Path:
    """Run a distillation to its end; returns the checkpoint's path.

    A killed run loses what was done since the last save (`options.save_every` seconds); with
    `resume` it goes on from there, as if it had not been killed.

    Raises:
        PgnError: the output already holds a run; nothing to resume, or a run with other options.
    """
    check_output(options.output, resume=resume)
    return execute(Run(options, start_fabric(options)), report, resume=resume)


def seconds_per_step(options: DistillOptions) -> float:
    """Median time of a few steps with `options`; nothing stays on disk."""
    with tempfile.TemporaryDirectory() as folder:
        bank = TRIAL_STEPS * options.batch if options.replay else 0
        trial = replace(options, output=Path(folder), bank=bank, workers=0)
        return median_seconds(Run(trial, start_fabric(trial)))
