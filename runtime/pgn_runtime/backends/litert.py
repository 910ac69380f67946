"""LiteRT (the TensorFlow Lite interpreter) on the CPU, with XNNPACK."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pgn_runtime.backends import Arrays, Session, check_buffers
from pgn_runtime.errors import MissingBackendError, RuntimeInputError
from pgn_runtime.files import Pixels


def load(path: Path, threads: int) -> Session:
    """Open a .tflite file of one signature."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise MissingBackendError("ai-edge-litert", "litert") from None
    try:
        interpreter = Interpreter(str(path), num_threads=threads)
        interpreter.allocate_tensors()
        runner = interpreter.get_signature_runner()
    except (ValueError, RuntimeError) as error:
        raise RuntimeInputError(f"model: LiteRT refuses {path} ({error}).") from None
    inputs_of, outputs_of = runner.get_input_details(), runner.get_output_details()
    del runner  # while it lives, no tensor can be looked at without a copy of it
    shapes, output_shapes = _shapes(inputs_of), _shapes(outputs_of)

    def run(inputs: Arrays, outputs: Arrays | None = None, /) -> dict[str, Pixels]:
        if outputs is None:
            outputs = {name: np.empty(shape, np.float32) for name, shape in output_shapes.items()}
        check_buffers(outputs, output_shapes)
        for name, entry in inputs_of.items():
            interpreter.set_tensor(entry["index"], inputs[name])
        interpreter.invoke()
        for name, array in outputs.items():
            np.copyto(array, interpreter.tensor(outputs_of[name]["index"])())
        return dict(outputs)

    return Session(run, dict(shapes), tuple(outputs_of), "litert")


def _shapes(details: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(int(side) for side in entry["shape"]) for name, entry in details.items()}
