"""Resizing of the last two dimensions. coremltools' image_resizing.py defines where the samples
lie; reading at them is the same for all.

Nearest neighbours: the definitions leave open how a sample between two pixels is rounded where the
factor is no whole number, and TensorFlow's converter and PyTorch's assume differently. Such an
operation is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pgn import ConversionError
from pgn_export.mil.arguments import Arguments

_MAX_SIDE = 2**20
Grid = Callable[[int, int], Tensor]  # (input side, output side) -> positions of the samples


def aligned(side: int, wanted: int) -> Tensor:
    """The first and last samples lie on the first and last pixels."""
    return _steps(wanted) * ((side - 1) / max(wanted - 1, 1))


def aligned_or_centre(side: int, wanted: int) -> Tensor:
    """A single sample lies in the middle."""
    return aligned(side, wanted) if wanted > 1 else torch.tensor([(side - 1) / 2]).double()


def from_corner(side: int, wanted: int) -> Tensor:
    """The first sample lies on the first pixel, the spacing is the ratio of the sides."""
    return _steps(wanted) * (side / wanted)


def half_pixel(side: int, wanted: int) -> Tensor:
    """Pixels are squares whose borders coincide."""
    return (_steps(wanted) + 0.5) * (side / wanted) - 0.5


def offset(side: int, wanted: int) -> Tensor:
    return (_steps(wanted) + 0.5) * (max(1, side - 1) / wanted)


GRIDS: dict[str, Grid] = {
    "STRICT_ALIGN_CORNERS": aligned,
    "ALIGN_CORNERS": aligned_or_centre,
    "DEFAULT": from_corner,
    "OFFSET_CORNERS": offset,
    "UNALIGN_CORNERS": half_pixel,
}


def upsample_nearest_neighbor(given: Arguments) -> Tensor:
    """Output pixel i shows the pixel floor(i / factor)."""
    x = given.tensor("x")
    for axis, side, factor in _factors(given, x):
        positions = (_steps(int(side * factor)) / factor).floor().long()
        x = x.index_select(axis, positions.clamp(max=side - 1).to(x.device))
    return x


def upsample_bilinear(given: Arguments) -> Tensor:
    corners = given.flag("align_corners", True)
    half = given.flag("half_pixel_centers", not corners)
    if corners and half:
        raise ConversionError("align_corners and half_pixel_centers exclude each other")
    grid = aligned if corners else half_pixel if half else from_corner
    x = given.tensor("x")
    for axis, side, factor in _factors(given, x):
        x = _interpolate(x, axis, grid(side, int(side * factor)))
    return x


def resize_nearest_neighbor(given: Arguments) -> Tensor:
    return _repeat(given.tensor("x"), _target(given))


def resize_bilinear(given: Arguments) -> Tensor:
    grid = _grid(given)
    return _resample(given.tensor("x"), _target(given), grid)


def resize(given: Arguments) -> Tensor:
    """Resize the last `resized_dims` dimensions to the last of `shape`; 0 keeps a side."""
    x = given.tensor("x")
    shape, count = given.integers("shape"), given.integer("resized_dims")
    if not 0 < count <= min(len(shape), x.dim()):
        raise ConversionError(f"resized_dims {count} does not fit shape {shape}")
    sides = [new or old for new, old in zip(shape[-count:], x.shape[-count:], strict=True)]
    mode, grid = given.text("interpolation_mode", "LINEAR"), _grid(given)
    if mode == "LINEAR":
        return _resample(x, sides, grid)
    if mode != "NEAREST_NEIGHBOR" or grid not in (from_corner, half_pixel):
        raise ConversionError(f"interpolation_mode '{mode}' is not understood with its samples")
    return _repeat(x, sides)


def crop(given: Arguments) -> Tensor:
    x = given.tensor("x")
    for axis, name in ((-2, "crop_height"), (-1, "crop_width")):
        before, after = given.integers(name)
        x = x.narrow(axis, before, x.shape[axis] - before - after)
    return x


def _interpolate(x: Tensor, axis: int, positions: Tensor) -> Tensor:
    """Read between the pixels of one axis; positions outside are those of the border."""
    side = x.shape[axis]
    positions = positions.clamp(0, side - 1)
    low = positions.floor().long().clamp(max=max(side - 2, 0))
    share = (positions - low).to(x.dtype).reshape(-1, *[1] * (-1 - axis)).to(x.device)
    high = (low + 1).clamp(max=side - 1)
    first, second = (x.index_select(axis, index.to(x.device)) for index in (low, high))
    return first * (1 - share) + second * share


def _resample(x: Tensor, sides: Sequence[int], grid: Grid) -> Tensor:
    for axis, side in zip(range(-len(sides), 0), sides, strict=True):
        x = _interpolate(x, axis, grid(x.shape[axis], side))
    return x


def _repeat(x: Tensor, sides: Sequence[int]) -> Tensor:
    for axis, side in zip(range(-len(sides), 0), sides, strict=True):
        if side % x.shape[axis]:
            raise ConversionError(f"nearest neighbours of {x.shape[axis]} pixels at {side}")
        x = x.repeat_interleave(side // x.shape[axis], axis)
    return x


def _factors(given: Arguments, x: Tensor) -> list[tuple[int, int, float]]:
    """Axis, side and factor, of the height and of the width."""
    factors = [given.number(f"scale_factor_{name}", 1.0) for name in ("height", "width")]
    if not all(0 < factor < float("inf") for factor in factors):
        raise ConversionError(f"scale factors must be positive, got {factors}")
    return [(axis, x.shape[axis], factors[axis]) for axis in (-2, -1)]


def _target(given: Arguments) -> list[int]:
    return [given.integer(f"target_size_{name}", 1) for name in ("height", "width")]


def _grid(given: Arguments) -> Grid:
    name = given.text("sampling_mode", "DEFAULT")
    if name not in GRIDS:
        raise ConversionError(f"sampling_mode '{name}' is unknown, expected {', '.join(GRIDS)}")
    return GRIDS[name]


def _steps(count: int) -> Tensor:
    if not 0 < count <= _MAX_SIDE:
        raise ConversionError(f"a side of {count} pixels is not supported")
    return torch.arange(count, dtype=torch.float64)


RESIZING: dict[str, Callable[[Arguments], Tensor]] = {
    "crop": crop,
    "resize": resize,
    "resize_bilinear": resize_bilinear,
    "resize_nearest_neighbor": resize_nearest_neighbor,
    "upsample_bilinear": upsample_bilinear,
    "upsample_nearest_neighbor": upsample_nearest_neighbor,
}
