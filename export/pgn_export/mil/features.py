"""The interface of a package: names, types and shapes of its inputs, from FeatureTypes.proto."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pgn import ConversionError

_DTYPES = {65568: "float32", 65552: "float16", 131104: "int32", 131080: "int8"}  # ArrayDataType
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Feature:
    """An array that goes in or comes out."""

    dtype: str  # of numpy
    shape: Shape  # the default one
    ranges: tuple[tuple[int, int | None], ...] = ()  # first and last of every side; None: no last
    choices: tuple[Shape, ...] = ()  # enumerated shapes

    def accepts(self, shape: Shape) -> bool:
        """Whether an array of `shape` may be given."""
        if self.ranges:
            return len(shape) == len(self.ranges) and all(
                low <= side and (high is None or side <= high)
                for side, (low, high) in zip(shape, self.ranges, strict=True)
            )
        return shape == self.shape or shape in self.choices

    def __str__(self) -> str:
        if self.ranges:
            sides = [
                str(low) if low == high else f"{low}..{'' if high is None else high}"
                for low, high in self.ranges
            ]
            return f"{self.dtype} ({', '.join(sides)})"
        shapes = dict.fromkeys((self.shape, *self.choices))
        return f"{self.dtype} {' or '.join(map(str, shapes))}"


def read_feature(description: Any) -> Feature:
    """An input from its FeatureDescription.

    Raises:
        ConversionError: it is no array, or of an element type that is not understood.
    """
    kind = description.type.WhichOneof("Type")
    if kind != "multiArrayType":
        raise ConversionError(f"input '{description.name}': is {kind}, expected multiArrayType.")
    array = description.type.multiArrayType
    if array.dataType not in _DTYPES:
        raise ConversionError(f"input '{description.name}': its type {array.dataType} is unknown.")
    ranges = tuple(
        (r.lowerBound, None if r.upperBound < 0 else r.upperBound)
        for r in array.shapeRange.sizeRanges
    )
    choices = tuple(tuple(choice.shape) for choice in array.enumeratedShapes.shapes)
    feature = Feature(_DTYPES[array.dataType], tuple(array.shape), ranges, choices)
    if not feature.accepts(feature.shape) or min(feature.shape, default=1) < 1:
        raise ConversionError(f"input '{description.name}': is {feature}, yet {feature.shape}.")
    return feature
