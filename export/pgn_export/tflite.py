"""TFLite (LiteRT): litert-torch at a fixed size, NCHW kept."""

from __future__ import annotations

import sys
from pathlib import Path

from pgn import MissingExtraError, PgnError
from pgn_export.graph import ProxyGraph, Size, example

SUFFIX = ".tflite"
FIXED_SIZE = True
PACKAGES = ("torch", "litert-torch", "ai-edge-litert")


def export(graph: ProxyGraph, size: Size, path: Path) -> None:
    """Write a .tflite file of batch 1 whose signature has our names."""
    try:
        import litert_torch
    except ImportError as error:
        if sys.platform != "linux":
            raise PgnError("tflite: litert-torch exists for Linux only. Export there.") from None
        raise MissingExtraError(error.name or "litert-torch", "export") from None
    litert_torch.convert(graph, sample_kwargs=example(size)).export(str(path))
