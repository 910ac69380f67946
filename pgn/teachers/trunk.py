"""Convolutional trunks whose ReLU outputs perceptual losses compare.

VGG up to conv5_1 with every MaxPool replaced by AvgPool 2x2 (Nikulin et al. 2020, section 4).
Shapes: pixels (N, 3, H, W) in [0, 1] -> one (N, C_k, H_k, W_k) per convolution, finest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgn.images import MEAN, STD

# One tuple of channel counts a block; pooling stands between the blocks.
VGG_WIDTHS: dict[str, tuple[tuple[int, ...], ...]] = {
    "vgg19": ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,)),
    "vgg16": ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,)),
    "vgg11": ((64,), (128,), (256,) * 2, (512,) * 2, (512,)),
}


def layer_names(name: str) -> list[str]:
    """relu1_1 .. relu5_1: the ReLU outputs of the trunk `name`, one a convolution."""
    blocks = enumerate(VGG_WIDTHS[name], start=1)
    return [f"relu{block}_{k}" for block, widths in blocks for k in range(1, len(widths) + 1)]


@dataclass(frozen=True)
class Preprocessing:
    """What a set of weights expects: (pixels * scale - mean) / std, in RGB or BGR order."""

    scale: float = 1.0
    mean: Sequence[float] = MEAN
    std: Sequence[float] = STD
    bgr: bool = False


TORCHVISION = Preprocessing()
OXFORD = Preprocessing(255.0, (123.68, 116.779, 103.939), (1.0, 1.0, 1.0), bgr=True)


class VGGTrunk(nn.Module):
    """VGG convolutions up to conv5_1."""

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.name = name
        self.layers = layer_names(name)
        widths = VGG_WIDTHS[name]
        flat = [width for block in widths for width in block]
        starts = {sum(len(block) for block in widths[:i]) for i in range(1, len(widths))}
        self.pooled = [k in starts for k in range(len(flat))]
        self.convs = nn.ModuleList(
            nn.Conv2d(in_channels, out_channels, 3, padding=1)
            for in_channels, out_channels in zip([3, *flat], flat, strict=False)
        )
        self.bgr = preprocessing.bgr
        self.scale = preprocessing.scale
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, 3, 1, 1))

    def preactivations(self, pixels: Tensor, depth: int | None = None) -> list[Tensor]:
        """Outputs before ReLU of the first `depth` convolutions (of all), finest first."""
        x = (pixels * self.scale - self.mean) / self.std
        x = x.flip(1) if self.bgr else x
        out: list[Tensor] = []
        for conv, pooled in islice(zip(self.convs, self.pooled, strict=True), depth):
            if out:
                x = torch.relu(out[-1])
            out.append(conv(F.avg_pool2d(x, 2) if pooled else x))
        return out
