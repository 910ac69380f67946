"""The paper's UNet of BlazeFace blocks: five levels, separable convolutions, bilinear upsampling.

Reference: Nikulin et al., arXiv 2105.01957, section 4 and Table 1. Parameter names are those of
the official checkpoints, hence `layer{i}`, `layer{i}_1x1`, `conv_up{i}`, `conv_original_size{i}`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pgn.backbones.blocks import DoubleBlazeBlock, separable
from pgn.backbones.padding import Backbone

FULL_SIZE_CHANNELS = 64


class UNet(Backbone):
    """`down` and `up` are the channels of the five levels, finest first."""

    multiple = 32

    def __init__(
        self,
        down: Sequence[int] = (64, 64, 128, 256, 512),
        up: Sequence[int] = (64, 128, 256, 256, 512),
    ) -> None:
        super().__init__()
        self.layer0 = nn.Sequential(
            nn.Conv2d(6, down[0], 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(down[0]),
            nn.ReLU(),
        )
        self.layer1 = nn.Sequential(
            nn.MaxPool2d(3, stride=2, padding=1), DoubleBlazeBlock(down[0], down[1])
        )
        self.layer2 = DoubleBlazeBlock(down[1], down[2], stride=2)
        self.layer3 = DoubleBlazeBlock(down[2], down[3], stride=2)
        self.layer4 = DoubleBlazeBlock(down[3], down[4], stride=2)

        self.conv_original_size0 = separable(6, FULL_SIZE_CHANNELS, 3)
        self.conv_original_size1 = separable(FULL_SIZE_CHANNELS, FULL_SIZE_CHANNELS, 3)
        self.layer0_1x1 = separable(down[0], down[0], 1)
        self.layer1_1x1 = separable(down[1], down[1], 1)
        self.layer2_1x1 = separable(down[2], down[2], 1)
        self.layer3_1x1 = separable(down[3], down[3], 1)
        self.layer4_1x1 = separable(down[4], down[4], 1)

        self.conv_up3 = separable(down[4] + down[3], up[4], 3)
        self.conv_up2 = separable(up[4] + down[2], up[3], 3)
        self.conv_up1 = separable(up[3] + down[1], up[2], 3)
        self.conv_up0 = separable(up[2] + down[0], up[1], 3)
        self.conv_original_size2 = separable(up[1] + FULL_SIZE_CHANNELS, up[0], 3)
        self.conv_last = nn.Conv2d(up[0], 3, 1)
        self.upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)

    def predict(self, u_generated: Tensor, u_target: Tensor) -> Tensor:
        images = torch.cat([u_generated, u_target], dim=1)
        full = self.conv_original_size1(self.conv_original_size0(images))
        half = self.layer0(images)
        quarter = self.layer1(half)
        eighth = self.layer2(quarter)
        sixteenth = self.layer3(eighth)
        x = self.layer4_1x1(self.layer4(sixteenth))
        x = self._up(self.conv_up3, x, self.layer3_1x1(sixteenth))
        x = self._up(self.conv_up2, x, self.layer2_1x1(eighth))
        x = self._up(self.conv_up1, x, self.layer1_1x1(quarter))
        x = self._up(self.conv_up0, x, self.layer0_1x1(half))
        x = self._up(self.conv_original_size2, x, full)
        out: Tensor = self.conv_last(x)
        return out

    def _up(self, conv: nn.Module, coarse: Tensor, skip: Tensor) -> Tensor:
        out: Tensor = conv(torch.cat([self.upsample(coarse), skip], dim=1))
        return out
