"""Layers that are traced as the means and products of which they are made.

So they need no rules of their own for the way back, and no operation that a runtime lacks.
Shapes: x (N, C, H, W); weight, bias, mean and variance (C,), the first two may be None.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload


def instance_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, *settings: Any) -> Tensor:
    mean, variance, of_the_image, _, epsilon, _ = settings
    if of_the_image:
        return _affine(_standardise(x, (2, 3), epsilon), weight, bias)
    return _affine((x - _channels(mean)) * _channels(torch.rsqrt(variance + epsilon)), weight, bias)


def batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, *settings: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """In evaluation: with the mean and variance that were measured in training."""
    mean, variance, _, epsilon = settings
    whitened = (x - _channels(mean)) * _channels(torch.rsqrt(variance + epsilon))
    return _affine(whitened, weight, bias), x.new_empty(0), x.new_empty(0)


def group_norm(
    x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, *settings: Any
) -> Tensor:
    epsilon, _ = settings
    parts = x.reshape(x.shape[0], groups, -1)
    return _affine(_standardise(parts, (2,), epsilon).reshape(x.shape), weight, bias)


DECOMPOSITIONS: dict[OpOverload, Callable[..., Any]] = {
    torch.ops.aten.instance_norm.default: instance_norm,
    torch.ops.aten._native_batch_norm_legit_no_training.default: batch_norm,
    torch.ops.aten.group_norm.default: group_norm,
}


def _standardise(x: Tensor, axes: tuple[int, ...], epsilon: float) -> Tensor:
    centred = x - x.mean(axes, keepdim=True)
    return centred * torch.rsqrt((centred * centred).mean(axes, keepdim=True) + epsilon)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is not None:
        x = x * _channels(weight)
    return x if bias is None else x + _channels(bias)


def _channels(values: Tensor) -> Tensor:
    return values.reshape(1, -1, 1, 1)
