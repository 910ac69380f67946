"""A training run: it reports, saves its state, and survives being killed at any moment.

A run's folder holds log.jsonl, state.pt, and at the end the checkpoint.
"""

from __future__ import annotations

import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor

from pgn import command
from pgn.distill import state
from pgn.distill.options import RunOptions
from pgn.distill.state import Learner
from pgn.errors import PgnError
from pgn.files import atomic_path, check_folder

TRIAL_STEPS = 4  # of a dry run
STATE_NAME = "state.pt"
LOG_NAME = "log.jsonl"

Learnt = TypeVar("Learnt")  # what a step reports
Figures = TypeVar("Figures")  # what a line of the log says; a dataclass of plain values


class Run(ABC, Generic[Learnt, Figures]):
    """One training in one process: what learns, where from, and its folder.

    Args:
        learner: what is trained.
        report_every: steps between two lines of the log.
    """

    def __init__(self, learner: Learner, report_every: int) -> None:
        self.learner = learner
        self.fabric = learner.fabric
        self.output = learner.options.output
        self.report_every = report_every
        self.skipped: set[str] = set()  # names of what could not be read

    @abstractmethod
    def begin(self) -> None:
        """Prepare what a new run needs."""

    @abstractmethod
    def resume(self) -> None:
        """Go on from the folder's state.

        Raises:
            PgnError: it is damaged, or of a run with other options.
        """

    @abstractmethod
    def steps(self) -> Iterator[Learnt]:
        """Every step that is left, as it is done."""

    @abstractmethod
    def figures(self, recent: list[Learnt], images_per_second: float) -> Figures:
        """A line of the log: means over the last steps and all processes."""

    @abstractmethod
    def finish(self) -> Path:
        """Write the checkpoint; returns its path."""

    def train(self, report: Callable[[Figures], None]) -> None:
        """All steps that are left. Saves every `save_every` seconds and reports."""
        learner = self.learner
        recent: list[Learnt] = []
        before, start = learner.seconds, time.monotonic()
        saved = reported = start
        for learnt in self.steps():
            recent.append(learnt)
            now = time.monotonic()
            learner.seconds = before + now - start
            last = learner.done == learner.options.steps
            if learner.done % self.report_every == 0 or last:
                images = len(recent) * learner.options.world_batch
                self._log(self.figures(recent, images / (now - reported)), report)
                recent.clear()
                reported = now
            # rank 0's clock decides for all: saving needs every process
            due = now - saved > learner.options.save_every
            if self.fabric.broadcast(due) if self.fabric.world_size > 1 else due:
                self.save_state()
                saved = now

    def save_state(self) -> None:
        """Write state.pt, from which `resume` goes on."""
        state.store(self.learner, self.output / STATE_NAME)

    def restore_state(self) -> None:
        """Read state.pt, and drop what the log says of later steps.

        Raises:
            PgnError: it is damaged, or of a run with other options.
        """
        state.restore(self.learner, self.output / STATE_NAME)
        _cut_log(self.output / LOG_NAME, self.images)

    @property
    def images(self) -> int:
        """Images so far, over all processes."""
        return self.learner.done * self.learner.options.world_batch

    def mean(self, values: list[float]) -> list[float]:
        """The means of `values` over all processes."""
        means = self.fabric.all_reduce(torch.tensor(values))
        assert isinstance(means, Tensor)
        found: list[float] = means.tolist()
        return found

    def name_skipped(self, names: list[str]) -> None:
        """Say what cannot be read, once."""
        for name in names:
            if name not in self.skipped:
                told = f"skipped, it cannot be read: {name}"
                command.stderr.print(told, soft_wrap=True, highlight=False, markup=False)
        self.skipped.update(names)

    def summary(self) -> dict[str, Any]:
        """How it was trained, for the checkpoint."""
        return {
            **self.learner.options.identity(),
            "seconds": round(self.learner.seconds),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }

    def _log(self, figures: Figures, report: Callable[[Figures], None]) -> None:
        if self.fabric.is_global_zero:
            with open(self.output / LOG_NAME, "a", encoding="utf-8") as log:
                log.write(json.dumps(vars(figures)) + "\n")
            report(figures)


def check_output(output: Path, *, resume: bool) -> None:
    """See that a new run overwrites none, and that there is one to resume.

    Raises:
        PgnError: it would; there is none.
    """
    begun = (output / STATE_NAME).exists()
    if begun and not resume:
        raise PgnError(
            f"--output: {output} holds a run already. Add --resume to go on with it, or "
            f"give another folder."
        )
    if resume and not begun:
        raise PgnError(f"--resume: no {STATE_NAME} in {output}. Leave --resume out.")


def execute(run: Run[Learnt, Figures], report: Callable[[Figures], None], *, resume: bool) -> Path:
    """Begin or resume a run, and train to its end; returns the checkpoint's path.

    Ctrl-C is passed on, once it is told how to go on.

    Raises:
        PgnError: the output cannot be written; what the run cannot resume from.
    """
    check_folder(run.output)
    if resume:
        run.resume()
    else:
        run.begin()
        run.save_state()
    try:
        run.train(report)
        return run.finish()
    except KeyboardInterrupt:
        if run.fabric.is_global_zero:
            told = f"{run.output} keeps the last save: the same command with --resume goes on."
            command.stderr.print(told, soft_wrap=True, highlight=False, markup=False)
        raise


def median_seconds(run: Run[Learnt, Figures]) -> float:
    """Median time of a few steps of a new run."""
    run.begin()
    times = [time.monotonic()]
    for _ in islice(run.steps(), TRIAL_STEPS):
        times.append(time.monotonic())
    return float(np.median(np.diff(times)))


def start_fabric(options: RunOptions) -> Fabric:
    """Fabric with the processes and the precision that the options ask for, launched."""
    for logger in ("lightning.fabric", "lightning.pytorch"):  # Fabric tells by either
        logging.getLogger(logger).setLevel(logging.WARNING)  # what our settings have said
    bf16 = options.precision == "bf16" or (options.precision == "auto" and _computes_in_bf16())
    fabric = Fabric(
        devices=options.devices,
        num_nodes=options.nodes,
        precision="bf16-mixed" if bf16 else "32-true",
    )
    fabric.launch()
    return fabric


def refuse_divergence(loss: Tensor, step: int) -> None:
    """Stop at a loss that is not finite.

    Raises:
        PgnError: it is not.
    """
    if not torch.isfinite(loss):
        raise PgnError(
            f"training: the loss is {float(loss.detach())} at step {step}. Give a lower "
            f"--set learning_rate=...; the run's state.pt holds the last good state."
        )


def _computes_in_bf16() -> bool:
    """Is bfloat16 faster than float32 on the device that Fabric will take?"""
    on_gpu = torch.accelerator.is_available()
    cpu = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return on_gpu or cpu


def _cut_log(path: Path, images: int) -> None:
    """Drop the lines that a killed run wrote after the state from which it goes on."""
    if path.exists():
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        kept = [line for line in lines if _images_of(line) <= images]
        with atomic_path(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _images_of(line: str) -> float:
    """Of a line of the log; infinite where it broke off as the run was killed."""
    try:
        return float(json.loads(line)["images"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
