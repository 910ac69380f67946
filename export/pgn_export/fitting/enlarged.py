"""A 3x3 convolution behind nearest enlargement by 2, computed at the small size.

Every 2x2 pixels of the large image see 2x2 pixels of the small one, each in its own way: four 2x2
convolutions of the small image, one for each phase, do with 16 products what 36 do at the large
size, there and back. Reference: Shi et al., arXiv 1609.07009 (sub-pixel convolution), the other way
round.
Shapes: x (N, C, H, W), weight (O, C, 3, 3), output and its gradient g (N, O, 2H, 2W).
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.fx import Node

from pgn_export.fitting import convolutions
from pgn_export.fitting.convolutions import Geometry, Lowering

aten = torch.ops.aten

PLAIN = [[1, 1], [1, 1], [1, 1], 1]  # stride, padding, dilation and groups of such a convolution
BY_DEFAULT = [[1, 1], [0, 0], [1, 1], 1]
FROZEN = Lowering(convolutions.whole)  # with constant weights
PHASES = ((0, 0), (0, 1), (1, 0), (1, 1))  # row and column in every 2x2 pixels
SIDES = (((1, 0), (0, 1), (0, 1)), ((1, 0), (1, 0), (0, 1)))  # a phase's tap of each of three
SMALL = Geometry(padding=(1, 1))  # of the four 2x2 convolutions, which stand in one


def merge(traced: fx.GraphModule) -> None:
    """Put `convolve` in place of every such pair of enlargement and convolution."""
    for node in list(traced.graph.nodes):
        if node.target is aten.conv2d.default and _is_pair(node, traced):
            enlargement = node.args[0]
            with traced.graph.inserting_before(node):
                arguments = (enlargement.args[0], *node.args[1:3])
                merged = traced.graph.call_function(convolve, arguments)
            merged.meta = node.meta
            node.replace_all_uses_with(merged)
            for gone in (node, enlargement):
                if not gone.users:
                    traced.graph.erase_node(gone)


def _is_pair(node: Node, traced: fx.GraphModule) -> bool:
    x, weight, *rest = cast(Any, node.args)
    how = [*rest[1:], *BY_DEFAULT[len(rest[1:]) :]]
    if not (isinstance(x, Node) and x.target is aten.upsample_nearest2d.vec):
        return False
    kernel = attrgetter(weight.target)(traced).shape[2:]
    return x.args[1:] == (None, [2.0, 2.0]) and how == PLAIN and kernel == (3, 3)


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, lowering: Lowering = FROZEN
) -> Tensor:
    """conv2d(enlarge(x, 2), weight, bias, padding=1)."""
    parts = lowering.convolve(x, _kernels(weight), SMALL)
    out = _interleave(parts, *x.shape[2:])
    return out if bias is None else out + bias.reshape(1, -1, 1, 1)


def input_gradient(g: Tensor, x: Tensor, weight: Tensor, lowering: Lowering) -> Tensor:
    """The gradient of x."""
    return convolutions.input_gradient(_phases(g), x, _kernels(weight), SMALL, lowering)


def weight_gradient(g: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """The gradient of the weights, of all images together."""
    kernels = _kernels(weight)
    found = convolutions.weight_gradient(_phases(g), x, kernels, SMALL)
    rows = found.reshape(len(PHASES), -1, 4).unbind()
    return sum(
        (row @ matrix.T for row, matrix in zip(rows, _matrices(weight), strict=True)),
        start=torch.zeros(()),
    ).reshape(weight.shape)


def _kernels(weight: Tensor) -> Tensor:
    """The 2x2 kernels of all phases, (4*O, C, 2, 2): taps that see the same pixel are added."""
    outputs, inputs = weight.shape[:2]
    taps = weight.reshape(-1, 9)
    return torch.cat([(taps @ m).reshape(outputs, inputs, 2, 2) for m in _matrices(weight)])


def _matrices(like: Tensor) -> list[Tensor]:
    """(9, 4) of each phase: which of the 3x3 taps make which of the 2x2."""
    return [
        torch.tensor(
            [
                [down * right for down in SIDES[row][i] for right in SIDES[column][j]]
                for i in range(3)
                for j in range(3)
            ],
            dtype=like.dtype,
        )
        for row, column in PHASES
    ]


def _interleave(parts: Tensor, height: int, width: int) -> Tensor:
    """(N, 4*O, H+1, W+1), a part of channels for each phase -> (N, O, 2H, 2W).

    Concatenated column by column, then row by row: pixel shuffle takes longer.
    """
    count, outputs = len(parts), parts.shape[1] // len(PHASES)
    columns = [
        part[:, :, row : row + height, column : column + width].reshape(-1, height, width, 1)
        for part, (row, column) in zip(torch.split(parts, outputs, 1), PHASES, strict=True)
    ]
    rows = [
        torch.cat(pair, 3).reshape(-1, height, 1, 2 * width) for pair in (columns[:2], columns[2:])
    ]
    return torch.cat(rows, 2).reshape(count, outputs, 2 * height, 2 * width)


def _phases(g: Tensor) -> Tensor:
    """The way back of `_interleave`."""
    count, outputs, height, width = g.shape
    rows = g.reshape(-1, height // 2, 2, width)
    parts = []
    for row, column in PHASES:
        pixels = rows[:, :, row].reshape(-1, height // 2, width // 2, 2)[:, :, :, column]
        part = pixels.reshape(count, outputs, height // 2, width // 2)
        parts.append(F.pad(part, (column, 1 - column, row, 1 - row)))
    return torch.cat(parts, 1)
