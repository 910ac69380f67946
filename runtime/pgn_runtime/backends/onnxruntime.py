"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pgn_runtime.backends import Session
from pgn_runtime.errors import MissingBackendError, RuntimeInputError
from pgn_runtime.files import Pixels


def load(path: Path, threads: int) -> Session:
    """Open an .onnx file."""
    try:
        import onnxruntime
    except ImportError:
        raise MissingBackendError("onnxruntime", "onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its exceptions share no base class of their own
        raise RuntimeInputError(f"model: ONNX Runtime refuses {path} ({error}).") from None
    outputs = tuple(output.name for output in session.get_outputs())

    def run(inputs: Mapping[str, Pixels]) -> dict[str, Pixels]:
        return dict(zip(outputs, session.run(outputs, dict(inputs)), strict=True))

    shapes = {
        value.name: tuple(side if isinstance(side, int) else None for side in value.shape)
        for value in session.get_inputs()
    }
    return Session(run, shapes, outputs, "onnxruntime")
