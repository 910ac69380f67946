"""The embedder of a talking head: photos of a person and their landmarks make an identity vector.

Reference: Zakharov et al., arXiv 1905.08233, section 3: residual blocks without normalisation and
sum pooling; a person is the mean over photos; a linear layer P predicts all styles. Two changes,
as measured at the start of training: biases begin at zero, or they outweigh what distinguishes
photos; and ReLU comes before the sum (as in Miyato and Koyama, arXiv 1802.05637), not after, where
half of the units are zero for everybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 64  # pixels; who somebody is shows in a small image


class Embedder(nn.Module):
    """Who is it, and in what style is that person drawn?

    Args:
        style_size: of the generator that is to draw.
        widths: channels of the residual blocks; each halves the sides.
    """

    def __init__(self, style_size: int, widths: Sequence[int] = (24, 48, 96, 128)) -> None:
        super().__init__()
        self.embedding_size = widths[-1]
        self.blocks = nn.Sequential(
            *(HalvingBlock(fine, coarse) for fine, coarse in pairwise((6, *widths)))
        )
        self.projection = nn.Linear(self.embedding_size, style_size)

    def forward(self, images: Tensor, conditions: Tensor) -> Tensor:
        """Embeddings (N, E), at least 0; a person's identity is their mean over its photos.

        Args:
            images, conditions: (N, 3, H, W) in [0, 1] of any size: photos, and drawn landmarks.
        """
        seen = F.adaptive_avg_pool2d(torch.cat([images, conditions], dim=1), SIDE)
        return pooled(self.blocks(seen))

    def style(self, identity: Tensor) -> Tensor:
        """Identities (N, E) -> styles (N, style_size) of the generator."""
        style: Tensor = self.projection(identity)
        return style


class HalvingBlock(nn.Module):
    """x + conv(ReLU(conv(ReLU(x)))), then the mean of every 2x2 pixels.

    (N, in, H, W) -> (N, out, H/2, W/2).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.first = _conv(in_channels, out_channels, 3)
        self.second = _conv(out_channels, out_channels, 3)
        self.shortcut = _conv(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.second(torch.relu(self.first(torch.relu(x))))
        out: Tensor = F.avg_pool2d(inner, 2) + self.shortcut(F.avg_pool2d(x, 2))
        return out


def pooled(features: Tensor) -> Tensor:
    """Sum of the positive features of all places, (N, C, H, W) -> (N, C)."""
    return torch.relu(features).sum((2, 3))


def _conv(in_channels: int, out_channels: int, kernel: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv
