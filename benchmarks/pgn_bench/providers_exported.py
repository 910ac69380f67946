"""Gradients by files in ONNX Runtime or LiteRT; no torch, so a process that runs one is small."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgn_runtime import backends
from pgn_runtime.files import Pixels
from pgn_runtime.gradient import closed_form

Call = Callable[[], Any]  # gives the gradient (N, 3, H, W): a tensor, or an array


@dataclass(frozen=True)
class Task:
    """What a gradient is asked of; images are (N, 3, H, W) float32 pixels in [0, 1]."""

    generated: Pixels
    target: Pixels
    threads: int
    device: str = "cpu"  # or cuda


@dataclass(frozen=True)
class Files:
    """An exported gradient."""

    graph: Path
    alpha: float  # of the closed form
    of_target: Path | None = None  # target -> features_0, ..., where the graph takes those

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for path in (self.graph, self.of_target) if path)


def run_files(files: Files, task: Task) -> Call:
    """What depends on the target alone is computed here, not at every call.

    Raises:
        RuntimeInputError: the runtime refuses a file.
        MissingBackendError: it is not installed.
    """
    session = backends.load(files.graph, task.threads)
    inputs = inputs_of(files, task)

    def call() -> Pixels:
        outputs = session.run(inputs)
        return closed_form(task.generated, task.target, outputs["proxy"], files.alpha, 0.0)

    return call


def inputs_of(files: Files, task: Task) -> dict[str, Pixels]:
    """What the graph takes; features of the target are computed. Errors as `run_files`."""
    seen = {"target": task.target}
    if files.of_target:
        seen = backends.load(files.of_target, task.threads).run(seen)
    return {"generated": task.generated, **seen}
