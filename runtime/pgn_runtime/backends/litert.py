"""LiteRT (the TensorFlow Lite interpreter) on the CPU, with XNNPACK."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pgn_runtime.backends import Session, Shape
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
        runner = interpreter.get_signature_runner()
    except (ValueError, RuntimeError) as error:
        raise RuntimeInputError(f"model: LiteRT refuses {path} ({error}).") from None

    def run(inputs: Mapping[str, Pixels]) -> dict[str, Pixels]:
        outputs: dict[str, Pixels] = runner(**inputs)
        return outputs

    details = runner.get_input_details()
    shapes: dict[str, Shape] = {
        name: tuple(int(side) for side in entry["shape"]) for name, entry in details.items()
    }
    return Session(run, shapes, tuple(runner.get_output_details()), "litert")
