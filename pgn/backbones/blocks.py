"""Building blocks of the paper's UNet and autoencoders (parameter names: official checkpoints)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def separable(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    """Grouped convolution, pointwise convolution, ReLU. (N, in, H, W) -> (N, out, H, W)."""
    groups = math.gcd(in_channels, out_channels)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, groups=groups),
        nn.Conv2d(out_channels, out_channels, 1),
        nn.ReLU(),
    )


class DoubleBlazeBlock(nn.Module):
    """Two depthwise 5x5 + pointwise pairs with a residual sum (BlazeFace, arXiv 1907.05047).

    (N, in, H, W) -> (N, out, H/stride, W/stride). The first "depthwise" convolution already has
    `out_channels` outputs in groups of in_channels, as in the official code.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.cdw1 = nn.Conv2d(
            in_channels, out_channels, 5, stride, padding=2, groups=in_channels, bias=False
        )
        self.cpw1 = nn.Conv2d(out_channels, out_channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.cdw2 = nn.Conv2d(
            out_channels, out_channels, 5, padding=2, groups=out_channels, bias=False
        )
        self.cpw2 = nn.Conv2d(out_channels, out_channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        if stride == 2:
            self.c1 = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.c1(x) if hasattr(self, "c1") else x
        x = torch.relu(self.bn1(self.cpw1(self.cdw1(x))))
        return torch.relu(self.bn2(self.cpw2(self.cdw2(x))) + shortcut)
