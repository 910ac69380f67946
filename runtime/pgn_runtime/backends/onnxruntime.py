"""ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pgn_runtime.backends import Arrays, Session, Shape, check_buffers
from pgn_runtime.errors import MissingBackendError, RuntimeInputError
from pgn_runtime.files import Pixels


def load(path: Path, threads: int) -> Session:
    """Open an .onnx file."""
    try:
        import onnxruntime
    except ImportError:
        raise MissingBackendError("onnxruntime", "onnxruntime") from None
    try:
        session = onnxruntime.InferenceSession(
            str(path), session_options(threads), providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its exceptions share no base class of their own
        raise RuntimeInputError(f"model: ONNX Runtime refuses {path} ({error}).") from None
    shapes, output_shapes = _shapes(session.get_inputs()), _shapes(session.get_outputs())

    def run(inputs: Arrays, outputs: Arrays | None = None, /) -> dict[str, Pixels]:
        if outputs is None:
            return dict(zip(output_shapes, session.run(None, dict(inputs)), strict=True))
        check_buffers(outputs, output_shapes)
        binding = session.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        session.run_with_iobinding(binding)
        return dict(outputs)

    return Session(run, shapes, tuple(output_shapes), "onnxruntime")


def session_options(threads: int) -> Any:
    """How every graph is run; onnxruntime must be installed."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Memory is what lives at a time, no more: a pattern is one more block for all tensors, beside
    # those of the first run; reuse keeps a block between the tensors that take turns in it. Both
    # off, pgn-lite takes half the memory, and no call is slower.
    options.enable_mem_pattern = False
    options.enable_mem_reuse = False
    return options


def _shapes(values: list[Any]) -> dict[str, Shape]:
    return {
        value.name: tuple(side if isinstance(side, int) else None for side in value.shape)
        for value in values
    }
