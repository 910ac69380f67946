"""ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path

from pgn_runtime.backends import Session
from pgn_runtime.errors import MissingBackendError, RuntimeInputError
from pgn_runtime.files import Pixels


def load(path: Path, threads: int) -> Session:
    """Open an .onnx file with inputs `generated`, `target` and output `proxy`."""
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

    def run(generated: Pixels, target: Pixels) -> Pixels:
        outputs = session.run(["proxy"], {"generated": generated, "target": target})
        proxy: Pixels = outputs[0]
        return proxy

    shape = session.get_inputs()[0].shape
    return Session(run, tuple(s if isinstance(s, int) else None for s in shape), "onnxruntime")
