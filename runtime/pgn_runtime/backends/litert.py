"""LiteRT (the TensorFlow Lite interpreter) on the CPU, with XNNPACK."""

from __future__ import annotations

from pathlib import Path

from pgn_runtime.backends import Session
from pgn_runtime.errors import MissingBackendError, RuntimeInputError
from pgn_runtime.files import Pixels


def load(path: Path, threads: int) -> Session:
    """Open a .tflite file with inputs `generated`, `target` and output `proxy`."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise MissingBackendError("ai-edge-litert", "litert") from None
    try:
        interpreter = Interpreter(str(path), num_threads=threads)
        runner = interpreter.get_signature_runner()
    except (ValueError, RuntimeError) as error:
        raise RuntimeInputError(f"model: LiteRT refuses {path} ({error}).") from None

    def run(generated: Pixels, target: Pixels) -> Pixels:
        proxy: Pixels = runner(generated=generated, target=target)["proxy"]
        return proxy

    shape = runner.get_input_details()["generated"]["shape"]
    return Session(run, tuple(int(side) for side in shape), "litert")
