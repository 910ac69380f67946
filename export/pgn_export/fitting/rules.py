"""The way back through an operation: one function for each argument that a gradient may reach.

Each takes (g, out, *arguments) of its operation, g being the gradient of `out`, and gives that
argument's gradient, in its shape or in one that broadcasts to it: a vector-Jacobian product,
written with what every runtime has. An argument without a function cannot be differentiated.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pgn_export.fitting import convolutions, enlarged, resampling
from pgn_export.fitting.convolutions import Geometry, Lowering

Rule = Callable[..., Any]

STEEP = 1e30  # makes any activation that is not 0 larger than 1

aten = torch.ops.aten


def unbroadcast(g: Tensor, like: Tensor) -> Tensor:
    """The sum of g over the axes along which `like` was repeated."""
    if g.ndim > like.ndim:
        g = g.sum(tuple(range(g.ndim - like.ndim)))
    repeated = [axis for axis, side in enumerate(like.shape) if side != g.shape[axis]]
    return g.sum(repeated, keepdim=True) if repeated else g


def repeated(g: Tensor, like: Tensor) -> Tensor:
    """g along the axes where its length is 1 as often as `like` is long."""
    return g if g.shape == like.shape else g.expand(like.shape)


def _positive(x: Tensor) -> Tensor:
    """1 where x is positive, else 0: of numbers alone, and three times as fast as Sign in ORT."""
    return torch.clamp(x * STEEP, 0.0, 1.0)


def _mean(
    g: Tensor, _: Tensor, x: Tensor, axes: Sequence[int] | None = None, keepdim: bool = False
) -> Tensor:
    taken = {axis % x.ndim for axis in axes or range(x.ndim)}
    kept = [1 if axis in taken else side for axis, side in enumerate(x.shape)]
    return g.reshape(kept) * (1 / math.prod(x.shape[axis] for axis in taken))


def _power(g: Tensor, _: Tensor, x: Tensor, exponent: float) -> Tensor:
    if exponent != 2:
        raise NotImplementedError(f"exponent {exponent}")
    return (g * 2.0) * x


def _concatenate(g: Tensor, _: Tensor, parts: Sequence[Tensor], axis: int = 0) -> Sequence[Tensor]:
    return torch.split(g, [part.shape[axis] for part in parts], axis)


def _slice(
    g: Tensor,
    _: Tensor,
    x: Tensor,
    axis: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Tensor:  # the arguments of aten.slice
    if step != 1:
        raise NotImplementedError(f"step {step}")
    first, last = slice(start, end).indices(x.shape[axis])[:2]
    widths = [0, 0] * (x.ndim - 1 - axis % x.ndim) + [first, x.shape[axis] - last]
    return F.pad(g, widths)


def _pad(
    g: Tensor,
    _: Tensor,
    x: Tensor,
    widths: Sequence[int],
    mode: str = "constant",
    value: Any = None,
) -> Tensor:
    if mode != "constant" or min(widths) < 0:
        raise NotImplementedError(f"mode '{mode}' and widths {list(widths)}")
    for axis, before in enumerate(widths[::2]):  # from the last axis
        g = g.narrow(-1 - axis, before, x.shape[-1 - axis])
    return g


def _pool(
    g: Tensor,
    _: Tensor,
    x: Tensor,
    kernel: Any,
    stride: Any = (),
    padding: Any = (0, 0),
    *more: Any,
) -> Tensor:
    return resampling.mean_pool_gradient(g, x, kernel, stride or kernel, padding)


def _same(g: Tensor, _: Tensor, x: Tensor, *settings: Any, **more: Any) -> Tensor:
    return g.reshape(x.shape)


RULES: dict[Any, Sequence[Rule]] = {
    aten.add.Tensor: (
        lambda g, out, x, y, alpha=1: unbroadcast(g, x),
        lambda g, out, x, y, alpha=1: unbroadcast(g * alpha, y),
    ),
    aten.sub.Tensor: (
        lambda g, out, x, y, alpha=1: unbroadcast(g, x),
        lambda g, out, x, y, alpha=1: unbroadcast(g, y) * -alpha,
    ),
    aten.rsub.Scalar: (lambda g, out, x, y, alpha=1: g * -alpha,),
    aten.mul.Tensor: (
        lambda g, out, x, y: unbroadcast(repeated(g * y, out), x),
        lambda g, out, x, y: unbroadcast(repeated(g * x, out), y),
    ),
    aten.div.Tensor: (
        lambda g, out, x, y: unbroadcast(g / y, x),
        lambda g, out, x, y: unbroadcast(g * out / y, y) * -1.0,
    ),
    aten.neg.default: (lambda g, out, x: g * -1.0,),
    aten.pow.Tensor_Scalar: (_power,),
    aten.sqrt.default: (lambda g, out, x: g * 0.5 / out,),
    aten.rsqrt.default: (lambda g, out, x: g * -0.5 * (out * out * out),),
    aten.relu.default: (lambda g, out, x: g * _positive(out),),
    aten.leaky_relu.default: (
        lambda g, out, x, slope=0.01: g * (_positive(x) * (1 - slope) + slope),
    ),
    aten.sigmoid.default: (lambda g, out, x: g * (out * (1.0 - out)),),
    aten.tanh.default: (lambda g, out, x: g * (1.0 - out * out),),
    aten.mean.default: (_mean,),
    aten.mean.dim: (_mean,),
    aten.cat.default: (_concatenate,),
    aten.split.Tensor: (lambda g, out, x, sizes, axis=0: torch.cat(g, axis),),
    aten.split_with_sizes.default: (lambda g, out, x, sizes, axis=0: torch.cat(g, axis),),
    operator.getitem: (
        lambda g, out, parts, k: [g if i == k else None for i in range(len(parts))],
    ),
    aten.slice.Tensor: (_slice,),
    aten.pad.default: (_pad,),
    aten.constant_pad_nd.default: (lambda g, out, x, widths, *_: _pad(g, out, x, widths),),
    aten.expand.default: (lambda g, out, x, *_: unbroadcast(g, x),),
    **dict.fromkeys(
        (
            aten.view.default,
            aten.reshape.default,
            aten._unsafe_view.default,
            aten.unsqueeze.default,
            aten.squeeze.dim,
            aten.squeeze.dims,
            aten.flatten.using_ints,
            aten.clone.default,
            aten.alias.default,
        ),
        (_same,),
    ),
    aten.linear.default: (
        lambda g, out, x, weight, bias=None: g @ weight,
        lambda g, out, x, weight, bias=None: g.flatten(0, -2).T @ x.flatten(0, -2),
        lambda g, out, x, weight, bias: unbroadcast(g, bias),
    ),
    aten.upsample_nearest2d.vec: (lambda g, out, x, *_: resampling.nearest_gradient(g, x),),
    aten.upsample_bilinear2d.vec: (
        lambda g, out, x, size, align_corners, *_: resampling.bilinear_gradient(
            g, x, align_corners
        ),
    ),
    aten.avg_pool2d.default: (_pool,),
    aten.pixel_shuffle.default: (lambda g, out, x, factor: resampling.shuffle_gradient(g, factor),),
}


# Rules that repeat g along its axes of length 1 themselves. LiteRT's converter fails where a mean's
# gradient is repeated first and multiplied then.
REPEATING = {aten.mul.Tensor}


class Convolution:
    """aten.conv2d and its rules, lowered for a runtime."""

    def __init__(self, lowering: Lowering) -> None:
        self.lowering = lowering
        self.rules = (self._input, self._weight, _bias)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, *how: Any) -> Tensor:
        out = self.lowering.convolve(x, weight, _geometry(*how))
        return out if bias is None else out + bias.reshape(1, -1, 1, 1)

    def _input(self, g: Tensor, _: Tensor, x: Tensor, weight: Tensor, *more: Any) -> Tensor:
        return convolutions.input_gradient(g, x, weight, _geometry(*more[1:]), self.lowering)

    def _weight(self, g: Tensor, _: Tensor, x: Tensor, weight: Tensor, *more: Any) -> Tensor:
        return convolutions.weight_gradient(g, x, weight, _geometry(*more[1:]))


class EnlargedConvolution:
    """enlarged.convolve and its rules, lowered for a runtime."""

    def __init__(self, lowering: Lowering) -> None:
        self.lowering = lowering
        self.rules = (self._input, self._weight, _bias)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return enlarged.convolve(x, weight, bias, lowering=self.lowering)

    def _input(self, g: Tensor, _: Tensor, x: Tensor, weight: Tensor, *more: Any) -> Tensor:
        return enlarged.input_gradient(g, x, weight, self.lowering)

    def _weight(self, g: Tensor, _: Tensor, x: Tensor, weight: Tensor, *more: Any) -> Tensor:
        return enlarged.weight_gradient(g, x, weight)


LOWERED: dict[Any, type[Convolution | EnlargedConvolution]] = {  # by operation
    aten.conv2d.default: Convolution,
    enlarged.convolve: EnlargedConvolution,
}


def _bias(g: Tensor, *_: Any) -> Tensor:
    return g.sum((0, 2, 3))


def _geometry(
    stride: Any = (1, 1), padding: Any = (0, 0), dilation: Any = (1, 1), groups: int = 1
) -> Geometry:
    if set(dilation) != {1}:
        raise NotImplementedError(f"dilation {tuple(dilation)}")
    return Geometry(tuple(stride), tuple(padding), groups)
