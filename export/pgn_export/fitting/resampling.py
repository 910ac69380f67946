"""The gradients of upsampling, pooling and shuffling of pixels.

Shapes: x (N, C, H, W), out and its gradient g (N, C, h, w).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pgn_export.fitting import convolutions
from pgn_export.fitting.convolutions import Geometry, Lowering, Pair


def nearest_gradient(g: Tensor, x: Tensor) -> Tensor:
    """Every pixel of x collects its copies."""
    (down, rest_down), (right, rest_right) = (
        divmod(g.shape[axis], x.shape[axis]) for axis in (2, 3)
    )
    if rest_down or rest_right:
        raise NotImplementedError("a scale that is no whole number")
    return F.avg_pool2d(g, (down, right)) * (down * right)


def bilinear_gradient(g: Tensor, x: Tensor, align_corners: bool) -> Tensor:
    """out = R x C with constant matrices, hence R^T g C^T."""
    rows, columns = (
        _interpolation(x.shape[axis], g.shape[axis], align_corners, g) for axis in (2, 3)
    )
    return rows.T @ g @ columns


def mean_pool_gradient(g: Tensor, x: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> Tensor:
    """A mean over a window is a convolution of each channel with a constant."""
    channels = x.shape[1]
    weight = g.new_full((channels, 1, *kernel), 1 / (kernel[0] * kernel[1]))
    geometry = Geometry(stride, padding, channels)
    return convolutions.input_gradient(g, x, weight, geometry, Lowering(convolutions.whole))


def shuffle_gradient(g: Tensor, factor: int) -> Tensor:
    """Pixels back to channels, each picked by a convolution: reshaping would need six axes."""
    channels, count = g.shape[1], factor**2
    # numbers, not torch.eye: that is computed on the device, with more axes
    picks = torch.tensor([[float(i == j) for j in range(count)] for i in range(count)] * channels)
    kernel = picks.to(g.dtype).reshape(-1, 1, factor, factor)
    return F.conv2d(g, kernel, stride=factor, groups=channels)


def _interpolation(before: int, after: int, align_corners: bool, like: Tensor) -> Tensor:
    """The matrix (after, before) of linear interpolation along one axis."""
    rows = []
    for k in range(after):
        if align_corners:
            position = k * (before - 1) / max(after - 1, 1)
        else:
            position = max((k + 0.5) * before / after - 0.5, 0.0)
        low = min(int(position), before - 1)
        row = [0.0] * before
        row[low] += 1 - (position - low)
        row[min(low + 1, before - 1)] += position - low
        rows.append(row)
    return torch.tensor(rows, dtype=like.dtype)
