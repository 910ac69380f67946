"""Distil a perceptual loss into a PGN: a run that reports, and survives being killed at any moment.

A run's folder holds the checkpoint (at the end), log.jsonl, state.pt and, with replay, a bank of
the teacher's gradients for each process.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor

from pgn import command
from pgn.checkpoint import save
from pgn.distill import bank as banks
from pgn.distill import state
from pgn.distill.data import Batch, Stream, photo_batches
from pgn.distill.distiller import Distiller, Learnt
from pgn.distill.options import DistillOptions
from pgn.errors import PgnError
from pgn.files import atomic_path, check_folder
from pgn.images import denormalise

REPORT_EVERY = 40  # steps
TRIAL_STEPS = 4  # of a dry run
INITIAL_PIXELS = 96 * 96 * 96  # from which the network is prepared: 96 crops of 96x96
STATE_NAME = "state.pt"
LOG_NAME = "log.jsonl"
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


class Run:
    """One distillation in one process: the distiller, its photos or bank, its folder."""

    def __init__(self, options: DistillOptions, fabric: Fabric) -> None:
        self.options = options
        self.fabric = fabric
        self.source = banks.load(options.data) if banks.is_bank(options.data) else None
        self.distiller = Distiller(options, fabric, self.source)
        self.corrupt: set[str] = set()  # names of photos that could not be read
        if not self.source:
            self._batches(0)  # a source without photos is told before work begins

    @property
    def path(self) -> Path:
        return self.options.output / f"pgn-{self.options.backbone}.safetensors"

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
        """Go on from the folder's state.

        Raises:
            PgnError: it is damaged, or of a run with other options.
        """
        self.distiller.set_up()
        if self.options.bank and not self.source:
            self.distiller.bank = banks.load(self._bank_folder, writable=True)
        state.restore(self.distiller, self.options.output / STATE_NAME)
        _cut_log(self.options.output / LOG_NAME, self.images)

    def train(self, report: Report) -> None:
        """All steps that are left. Saves every `save_every` seconds and reports."""
        recent: list[Learnt] = []
        before, start = self.distiller.seconds, time.monotonic()
        saved = reported = start
        for learnt in self.steps():
            recent.append(learnt)
            now = time.monotonic()
            self.distiller.seconds = before + now - start
            last = self.distiller.done == self.options.steps
            if self.distiller.done % REPORT_EVERY == 0 or last:
                self._report(recent, now - reported, report)
                recent.clear()
                reported = now
            # rank 0's clock decides for all: saving needs every process
            due = now - saved > self.options.save_every
            if self.fabric.broadcast(due) if self.fabric.world_size > 1 else due:
                self.save_state()
                saved = now

    def save_state(self) -> None:
        """Write state.pt, from which `resume` goes on."""
        state.store(self.distiller, self.fabric, self.options.output / STATE_NAME)

    def finish(self) -> Path:
        """Write the checkpoint; returns its path."""
        self.save_state()
        net = self.distiller.net
        self.distiller.average.copy_to(net.parameters())
        net.info["training"] = {
            **self.options.identity(),
            "skipped_photos": len(self.corrupt),
            "seconds": round(self.distiller.seconds),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        if self.options.licence:
            net.info["licence"] = self.options.licence
        if self.fabric.is_global_zero:
            save(net, self.path)
        self.fabric.barrier()
        return self.path

    @property
    def images(self) -> int:
        """New crops so far, over all processes."""
        return self.distiller.done * self.options.world_batch

    @property
    def _bank_folder(self) -> Path:
        folder = self.options.output / BANK_NAME
        rank = self.fabric.global_rank
        return folder / f"rank{rank}" if self.fabric.world_size > 1 else folder

    def _photos(self, start: int) -> Iterator[Tensor]:
        """Endless uint8 (batch, 3, canvas, canvas), from step `start` on."""
        for batch in self._batches(start):
            self._name_corrupt(batch.corrupt)
            yield batch.images

    def _batches(self, start: int) -> Iterator[Batch]:
        options, fabric = self.options, self.fabric
        stream = Stream(options.seed, options.batch, start, fabric.global_rank, fabric.world_size)
        return photo_batches(options.data, options.canvas, stream, options.workers)

    def _name_corrupt(self, names: list[str]) -> None:
        for name in names:
            if name not in self.corrupt:
                command.stderr.print(f"skipped, it cannot be read: {name}", highlight=False)
        self.corrupt.update(names)

    def steps(self) -> Iterator[Learnt]:
        """Every step that is left, as it is done."""
        distiller = self.distiller
        remaining = self.options.steps - distiller.done
        if self.source:
            return (distiller.step_from_bank() for _ in range(remaining))
        photos = islice(self._photos(distiller.done), remaining)
        return (distiller.step(images) for images in photos)

    def _report(self, recent: list[Learnt], seconds: float, report: Report) -> None:
        count = len(recent)
        l1 = zip(*(learnt.autoencoder_l1 for learnt in recent), strict=True)
        means = [sum(part) / count for part in l1]
        sums = (sum(learnt.loss for learnt in recent), sum(learnt.cosine for learnt in recent))
        figures = self.fabric.all_reduce(torch.tensor([s / count for s in sums] + means))
        assert isinstance(figures, Tensor)
        loss, cosine, *autoencoder_l1 = figures.tolist()
        done = Figures(
            images=self.images,
            loss=loss,
            cosine=cosine,
            autoencoder_l1=tuple(autoencoder_l1),
            images_per_second=count * self.options.world_batch / seconds,
            seconds=self.distiller.seconds,
        )
        if self.fabric.is_global_zero:
            with open(self.options.output / LOG_NAME, "a", encoding="utf-8") as log:
                log.write(json.dumps(vars(done)) + "\n")
            report(done)


def distil(
    options: DistillOptions, report: Report = lambda figures: None, *, resume: bool = False
) -> Path:
    """Run a distillation to its end; returns the checkpoint's path.

    A killed run loses what was done since the last save (`options.save_every` seconds); with
    `resume` it goes on from there, as if it had not been killed.

    Raises:
        PgnError: the output already holds a run; nothing to resume, or a run with other options.
    """
    begun = (options.output / STATE_NAME).exists()
    if begun and not resume:
        raise PgnError(
            f"--output: {options.output} holds a run already. Add --resume to go on with it, or "
            f"give another folder."
        )
    if resume and not begun:
        raise PgnError(f"--resume: no {STATE_NAME} in {options.output}. Leave --resume out.")
    run = Run(options, start_fabric(options))
    check_folder(options.output)
    if resume:
        run.resume()
    else:
        run.begin()
        run.save_state()
    run.train(report)
    return run.finish()


def seconds_per_step(options: DistillOptions) -> float:
    """Median time of a few steps with `options`; nothing stays on disk."""
    with tempfile.TemporaryDirectory() as folder:
        bank = TRIAL_STEPS * options.batch if options.replay else 0
        trial = replace(options, output=Path(folder), bank=bank, workers=0)
        run = Run(trial, start_fabric(trial))
        run.begin()
        times = [time.monotonic()]
        for _ in islice(run.steps(), TRIAL_STEPS):
            times.append(time.monotonic())
        return float(np.median(np.diff(times)))


def start_fabric(options: DistillOptions) -> Fabric:
    """Fabric with the processes and the precision that the options ask for, launched."""
    bf16 = options.precision == "bf16" or (options.precision == "auto" and _computes_in_bf16())
    fabric = Fabric(
        devices=options.devices,
        num_nodes=options.nodes,
        precision="bf16-mixed" if bf16 else "32-true",
    )
    fabric.launch()
    return fabric


def _computes_in_bf16() -> bool:
    """Is bfloat16 faster than float32 on the device that Fabric will take?"""
    on_gpu = torch.accelerator.is_available()
    cpu = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return on_gpu or cpu


def _cut_log(path: Path, images: int) -> None:
    """Drop the lines that a killed run wrote after the state from which it goes on."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if json.loads(line)["images"] <= images]
        with atomic_path(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
