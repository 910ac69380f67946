"""Sums over axes: reductions, normalisations, products of matrices. coremltools' reduction.py,
normalization.py and linear.py define them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from pgn_export.mil.arguments import Arguments

_EPSILON = 1e-5
Reduce = Callable[[Tensor, list[int], bool], Tensor]


def reduction(function: Reduce) -> Callable[[Arguments], Tensor]:
    """An operation over `axes`, all of them if none are given."""

    def reduce(given: Arguments) -> Tensor:
        x = given.tensor("x")
        axes = given.integers("axes", range(x.dim()))
        return function(x, axes, given.flag("keep_dims", False))

    return reduce


def mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """That of integers is cut towards zero, as their declared type says."""
    wide = x if x.is_floating_point() else x.double()
    return wide.mean(axes, keep).to(x.dtype)


def batch_norm(given: Arguments) -> Tensor:
    return F.batch_norm(
        given.tensor("x"),
        given.tensor("mean"),
        given.tensor("variance"),
        given.optional("gamma"),
        given.optional("beta"),
        eps=given.number("epsilon", _EPSILON),
    )


def instance_norm(given: Arguments) -> Tensor:
    x = given.tensor("x")
    axes = list(range(2, x.dim()))
    normalised = _normalise(x, axes, given.number("epsilon", _EPSILON))
    return _scale_and_shift(given, normalised, [1, -1, *[1] * len(axes)])


def layer_norm(given: Arguments) -> Tensor:
    x = given.tensor("x")
    axes = [axis % x.dim() for axis in given.integers("axes", range(x.dim()))]
    normalised = _normalise(x, axes, given.number("epsilon", _EPSILON))
    shape = [side if axis in axes else 1 for axis, side in enumerate(x.shape)]
    return _scale_and_shift(given, normalised, shape)


def linear(given: Arguments) -> Tensor:
    return F.linear(given.tensor("x"), given.tensor("weight"), given.optional("bias"))


def matmul(given: Arguments) -> Tensor:
    x, y = given.tensor("x"), given.tensor("y")
    x = x.mT if given.flag("transpose_x", False) and x.dim() > 1 else x
    y = y.mT if given.flag("transpose_y", False) and y.dim() > 1 else y
    return torch.matmul(x, y)


def _normalise(x: Tensor, axes: list[int], epsilon: float) -> Tensor:
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    return (x - mean) / torch.sqrt(variance + epsilon)


def _scale_and_shift(given: Arguments, x: Tensor, shape: list[int]) -> Tensor:
    gamma, beta = given.optional("gamma"), given.optional("beta")
    x = x if gamma is None else x * gamma.reshape(shape)
    return x if beta is None else x + beta.reshape(shape)


REDUCTIONS: dict[str, Callable[[Arguments], Tensor]] = {
    "batch_norm": batch_norm,
    "instance_norm": instance_norm,
    "layer_norm": layer_norm,
    "linear": linear,
    "matmul": matmul,
    "reduce_l2_norm": reduction(lambda x, axes, keep: x.square().sum(axes, keep).sqrt()),
    "reduce_max": reduction(torch.amax),
    "reduce_mean": reduction(mean),
    "reduce_min": reduction(torch.amin),
    "reduce_sum": reduction(lambda x, axes, keep: x.sum(axes, keep)),
    "reduce_sum_square": reduction(lambda x, axes, keep: x.square().sum(axes, keep)),
}
