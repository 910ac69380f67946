"""What tensors are called in the graphs of the fitting step; the runtime calls them the same."""

from __future__ import annotations

from pgn_runtime.pack import MEAN, NEW, SQUARE, SUM, VALUE

__all__ = ["MEAN", "NEW", "SQUARE", "SUM", "VALUE", "tensor_name"]


def tensor_name(parameter: str) -> str:
    """What a parameter is called: Core ML and TFLite have no dots in names."""
    return parameter.replace(".", "__")
