"""One file a runtime, each with `load(path, threads) -> Session`; imported only when chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from pgn_runtime.errors import RuntimeInputError
from pgn_runtime.files import Pixels, exists

_BACKENDS = {".onnx": "onnxruntime", ".tflite": "litert", ".mlpackage": "coreml"}  # by suffix
MAX_THREADS = 256

Shape = tuple[int | None, ...]  # None for a free dimension


@dataclass(frozen=True)
class Session:
    """A graph that is ready to run, from and to contiguous float32 arrays by name."""

    run: Callable[[Mapping[str, Pixels]], dict[str, Pixels]]
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
