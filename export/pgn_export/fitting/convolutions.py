"""The gradients of a convolution, written with what runtimes for inference have.

And the convolution itself as products of matrices, for a runtime that is slow or at a loss when
weights are no constants. Dilation is 1; no tensor has more than four axes.
Shapes: x (N, C, H, W), weight (O, C/groups, kh, kw), output and its gradient g (N, O, h, w).
Reference: Dumoulin and Visin, arXiv 1603.07285 (the gradients are convolutions, too).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]  # along height, along width


@dataclass(frozen=True)
class Geometry:
    """All of a convolution but its weights."""

    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    groups: int = 1


Convolve = Callable[[Tensor, Tensor, Geometry], Tensor]  # x and weight, no bias


@dataclass(frozen=True)
class Lowering:
    """How a runtime computes with weights that are no constants."""

    convolve: Convolve
    transposes: bool = False  # it has the transposed convolution, strided or not


def whole(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """A convolution as the runtime's own, (N, O, h, w)."""
    return F.conv2d(x, weight, None, geometry.stride, geometry.padding, 1, geometry.groups)


def by_taps(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """The same as a sum of products of matrices, one for each tap of the kernel."""
    height, width = (
        (side + 2 * padding - taps) // stride + 1
        for side, padding, taps, stride in zip(
            x.shape[2:], geometry.padding, weight.shape[2:], geometry.stride, strict=True
        )
    )
    groups, (outputs, inputs) = geometry.groups, weight.shape[:2]
    # a matrix for each group of each image: LiteRT's converter mistakes products that broadcast
    kernel = torch.cat([weight.reshape(groups, outputs // groups, inputs, -1)] * len(x))
    x = _padded(_apart(x, groups), 2, geometry.padding)
    taps = _taps(x, 2, _places(weight), geometry.stride, (height, width))
    terms = (matrix @ tap.flatten(2) for matrix, tap in zip(kernel.unbind(3), taps, strict=True))
    return reduce(torch.add, terms).reshape(-1, outputs, height, width)


def input_gradient(
    g: Tensor, x: Tensor, weight: Tensor, geometry: Geometry, lowering: Lowering
) -> Tensor:
    """The gradient of x: g, spread by the stride, convolved with the flipped weights.

    Or the transposed convolution, whose time is in adding up columns: it is the faster one where
    to spread g or to flip the weights takes longer.
    """
    if lowering.transposes and (geometry.stride != (1, 1) or weight.numel() > g.numel()):
        return _transposed(g, x, weight, geometry)
    for axis, stride, padding in zip((2, 3), geometry.stride, geometry.padding, strict=True):
        g = _spread(g, axis, stride, x.shape[axis] + 2 * padding - weight.shape[axis] + 1)
    size = len(weight) // geometry.groups
    parts = [weight[k : k + size].transpose(0, 1) for k in range(0, len(weight), size)]
    transposed = torch.cat(parts)  # (C, O/groups, kh, kw)
    back = Geometry((1, 1), _padding_back(weight, geometry), geometry.groups)
    return lowering.convolve(g, transposed.flip(2, 3), back)


def weight_gradient(g: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """The gradient of the weights, of all images together, (O, C/groups, kh, kw).

    A product of matrices for each tap; what has fewer channels is shifted, where both can be.
    Channels of x come last: LiteRT takes ten times as long for a product with a transpose.
    """
    x, g = (_apart(image, geometry.groups) for image in (x, g))
    columns = x.permute(0, 2, 3, 1)  # (N*groups, H, W, C/groups)
    if geometry.stride == (1, 1) and g.shape[1] < x.shape[1]:
        g = _padded(g, 2, _padding_back(weight, geometry))
        places = _places(weight)[::-1]
        taps = _taps(g, 2, places, geometry.stride, x.shape[2:])
        found = [tap.flatten(2) @ columns.flatten(1, 2) for tap in taps]
    else:
        columns = _padded(columns, 1, geometry.padding)
        taps = _taps(columns, 1, _places(weight), geometry.stride, g.shape[2:])
        found = [g.flatten(2) @ tap.flatten(1, 2) for tap in taps]
    rows = torch.cat(found, 2)  # (N*groups, O/groups, kh*kw*C/groups)
    rows = rows.reshape(-1, len(weight), rows.shape[2]).sum(0)  # of all images
    rows = rows.reshape(len(weight), len(found), weight.shape[1])
    return rows.transpose(1, 2).reshape(weight.shape)


def _transposed(g: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    left_over = [
        (side + 2 * padding - taps) % stride
        for side, padding, taps, stride in zip(
            x.shape[2:], geometry.padding, weight.shape[2:], geometry.stride, strict=True
        )
    ]
    how = (geometry.stride, geometry.padding, left_over, geometry.groups)
    return F.conv_transpose2d(g, weight, None, *how)


def _apart(x: Tensor, groups: int) -> Tensor:
    """(N, C, H, W) -> (N*groups, C/groups, H, W)."""
    return x.reshape(-1, x.shape[1] // groups, *x.shape[2:])


def _padding_back(weight: Tensor, geometry: Geometry) -> Pair:
    """Padding of the convolution that goes back over one of stride 1."""
    height, width = (
        taps - 1 - padding for taps, padding in zip(weight.shape[2:], geometry.padding, strict=True)
    )
    if min(height, width) < 0:
        raise NotImplementedError("padding that is as wide as the kernel")
    return height, width


def _padded(x: Tensor, axis: int, padding: Pair) -> Tensor:
    """Zeros around height and width, which are `axis` and the next one."""
    top, left = padding
    return F.pad(x, (*[0, 0] * (2 - axis), left, left, top, top)) if top or left else x


def _places(weight: Tensor) -> list[Pair]:
    """Row and column of each tap of the kernel, row by row."""
    return [(i, j) for i in range(weight.shape[2]) for j in range(weight.shape[3])]


def _taps(
    x: Tensor, axis: int, places: Sequence[Pair], stride: Pair, size: Sequence[int]
) -> Iterator[Tensor]:
    """What the tap at each place sees; height is `axis` of x.

    One by one: runtimes that keep our order of operations then hold one at a time.
    """
    (down, right), before = stride, (slice(None),) * axis
    height, width = (size[0] - 1) * down + 1, (size[1] - 1) * right + 1
    for i, j in places:
        yield x[(*before, slice(i, i + height, down), slice(j, j + width, right))]


def _spread(g: Tensor, axis: int, stride: int, side: int) -> Tensor:
    """stride - 1 zeros after every row (axis 2) or column (axis 3), then cut to `side`."""
    if stride == 1:
        return g
    n, channels, height, width = g.shape
    length = width if axis == 2 else 1  # of what zeros follow
    parts = F.pad(g.reshape(n, channels, -1, length), (0, (stride - 1) * length))
    scaled = (stride * height, width) if axis == 2 else (height, stride * width)
    return parts.reshape(n, channels, *scaled).narrow(axis, 0, side)
