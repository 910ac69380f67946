"""The surrogate generators whose mistakes a PGN learns from: autoencoders of three depths.

Reference: Nikulin et al., arXiv 2105.01957, section 4. Parameter names: official checkpoints.
"""

from __future__ import annotations

from torch import Tensor, nn

from pgn.backbones.blocks import DoubleBlazeBlock, separable

DEPTHS = (0, 1, 2)
CHANNELS = 128


class Autoencoder(nn.Module):
    """Depth 0, 1 or 2: normalised images (N, 3, H, W) -> (N, 3, H, W); H, W multiples of 8."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        channels = CHANNELS
        layers: list[nn.Module] = [
            nn.Sequential(
                nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
            )
        ]
        if depth >= 1:
            layers += [
                nn.Sequential(
                    nn.MaxPool2d(3, stride=2, padding=1), DoubleBlazeBlock(channels, channels)
                )
            ]
        if depth == 2:
            layers += [DoubleBlazeBlock(channels, 2 * channels, stride=2)]
            channels *= 2
        layers += [separable(channels, channels, 1)]
        if depth == 2:
            layers += [_upsample(), separable(channels, channels, 3)]
        if depth >= 1:
            layers += [_upsample(), separable(channels, CHANNELS, 3)]
        layers += [_upsample(), separable(CHANNELS, CHANNELS, 3), nn.Conv2d(CHANNELS, 3, 1)]
        self.model = nn.Sequential(*layers)

    def forward(self, u: Tensor) -> Tensor:
        out: Tensor = self.model(u)
        return out


def _upsample() -> nn.Module:
    return nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
