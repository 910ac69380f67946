"""What tensors are called in the graphs of the fitting step."""

from __future__ import annotations

VALUE, SUM, MEAN, SQUARE = "value_of_", "sum_of_", "mean_of_", "square_of_"  # of a parameter
NEW = "new_"  # before the name of an input that comes out again


def tensor_name(parameter: str) -> str:
    """What a parameter is called: Core ML and TFLite have no dots in names."""
    return parameter.replace(".", "__")
