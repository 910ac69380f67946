"""ResNet-N of the paper: one stride-2 level, N residual blocks, nearest upsampling.

Reference: Nikulin et al., arXiv 2105.01957, section 4 and Table 1; layers as in CycleGAN's
generator. Parameter names are those of the official checkpoints (one Sequential `model`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pgn.backbones.padding import Backbone

LEAK = 0.2


def _conv_bn_act(in_channels: int, out_channels: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.LeakyReLU(LEAK),
    ]


class ResidualBlock(nn.Module):
    """x + BN(conv(LeakyReLU(BN(conv(x))))), zero padding, nothing after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.LeakyReLU(LEAK),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv_block(x)
        return out


class ResNet(Backbone):
    """ResNet-`blocks`; `down` and `up` are the channels of the levels, finest first."""

    def __init__(
        self, blocks: int, down: Sequence[int] = (64, 128), up: Sequence[int] = (64,)
    ) -> None:
        super().__init__()
        self.multiple = 2 ** len(up)
        layers = _conv_bn_act(6, down[0])
        channels = down[0]
        for wider in down[1:]:
            layers += _conv_bn_act(channels, wider, stride=2)
            channels = wider
        layers += [ResidualBlock(channels) for _ in range(blocks)]
        for narrower in up:
            layers += [nn.Upsample(scale_factor=2, mode="nearest")]
            layers += _conv_bn_act(channels, narrower)
            channels = narrower
        layers += [nn.Conv2d(channels, 3, 3, padding=1)]
        self.model = nn.Sequential(*layers)

    def predict(self, u_generated: Tensor, u_target: Tensor) -> Tensor:
        out: Tensor = self.model(torch.cat([u_generated, u_target], dim=1))
        return out
