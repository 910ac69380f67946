"""Convolutions whose weights are known at run time only, and their two gradients.

Written with what inference runtimes have; how, is chosen by `Lowering`, one for each runtime.
Shapes: x (N, C, H, W), weight (O, C/groups, kh, kw), output and its gradient g (N, O, h, w).
Reference for the identities: Dumoulin and Visin, arXiv 1603.07285.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]  # along height, along width


@dataclass(frozen=True)
class Lowering:
    """What a runtime computes with weights that are no constants."""

    convolutions: bool = True  # whether it has them; else slices and matrix products
    weight_gradient_as_convolution: bool = False  # else a matrix product for each tap


@dataclass(frozen=True)
class Geometry:
    """All of a convolution but its weights; dilation is 1."""

    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    groups: int = 1

    def depthwise(self, weight: Tensor) -> bool:
        return weight.shape[0] == self.groups and weight.shape[1] == 1


def convolve(x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """The convolution as products of shifted slices of x, (N, O, h, w)."""
    parts = x.chunk(geometry.groups, 1), weight.chunk(geometry.groups)
    if geometry.depthwise(weight):
        taps = weight.flatten(2).unbind(2)  # (C, 1) each
        shifted = _shifted(x, weight, geometry)
        return _sum(s * tap[..., None] for s, tap in zip(shifted, taps, strict=True))
    ...
