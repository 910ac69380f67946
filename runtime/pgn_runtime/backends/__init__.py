"""One file a runtime, each with `load(path, threads) -> Session`; imported only when chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np

from pgn_runtime.errors import RuntimeInputError
from pgn_runtime.files import Pixels, exists

_BACKENDS = {".onnx": "onnxruntime", ".tflite": "litert", ".mlpackage": "coreml"}  # by suffix
MAX_THREADS = 256

Shape = tuple[int | None, ...]  # None for a free dimension
Arrays = Mapping[str, Pixels]


class Run(Protocol):
    """Computes a graph's outputs from its inputs, both contiguous float32 arrays by name."""

    def __call__(self, inputs: Arrays, outputs: Arrays | None = None, /) -> dict[str, Pixels]:
        """The outputs: new arrays, or `outputs`, written into.

        Args:
            outputs: an array for each output; none may share memory with an input.

        Raises:
            RuntimeInputError: `outputs` are not those of the graph; nothing was written.
        """


@dataclass(frozen=True)
class Session:
    """A graph that is ready to run."""

    run: Run
    inputs: dict[str, Shape]
    outputs: tuple[str, ...]
    backend: str


def find(path: Path) -> str:
    """The backend of an artifact, by its suffix.

    Raises:
        RuntimeInputError: no such file, or no backend for its suffix.
    """
    if not exists(path):
        raise RuntimeInputError(f"model: no file {path}. Make it with pgn-export.")
    if path.suffix not in _BACKENDS:
        raise RuntimeInputError(
            f"model: got {path.name}, expected a name ending in {', '.join(_BACKENDS)}."
        )
    return _BACKENDS[path.suffix]


def load(path: Path, threads: int) -> Session:
    """Open an artifact with the runtime of its suffix.

    Raises:
        RuntimeInputError: as `find`; an impossible thread count; no graph in the file.
        MissingBackendError: the runtime is not installed.
    """
    backend = find(path)
    if not 1 <= threads <= MAX_THREADS:
        raise RuntimeInputError(f"threads: got {threads}, expected 1 to {MAX_THREADS}.")
    session: Session = import_module(f"pgn_runtime.backends.{backend}").load(path, threads)
    return session


def check_buffers(outputs: Arrays, shapes: Mapping[str, Shape]) -> None:
    """See that a runtime can write a graph's outputs, of these shapes, into arrays of the caller.

    Raises:
        RuntimeInputError: other names; an array of another shape or type, or in pieces.
    """
    if outputs.keys() != shapes.keys():
        raise RuntimeInputError(
            f"outputs: got arrays for {', '.join(outputs) or 'none'}, expected one for each of "
            f"{', '.join(shapes)}."
        )
    for name, shape in shapes.items():
        array = outputs[name]
        fits = array.ndim == len(shape) and all(
            side in (None, got) for side, got in zip(shape, array.shape, strict=True)
        )
        whole = array.flags.c_contiguous and array.flags.writeable
        if not (fits and whole and array.dtype == np.float32):
            raise RuntimeInputError(
                f"outputs: got {array.dtype} {array.shape} for {name}, expected a contiguous, "
                f"writeable float32 array of shape {shape}."
            )
