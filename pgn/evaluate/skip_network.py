"""The generator of Deep Image Prior: a skip network that draws one photo from fixed noise.

Reference: Ulyanov et al., arXiv 1711.10925; widths and layers as Nikulin et al., arXiv 2105.01957,
section 4, use it to compare losses: 5 levels, stride-2 convolutions down, bilinear up, reflection
padding, and no sigmoid at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pgn.errors import PgnError

WIDTHS = (8, 16, 32, 64, 128)  # channels of each level, finest first
SKIPS = (0, 0, 0, 4, 4)  # channels that pass each level beside the deeper ones
MIN_SIDE = 33  # pixels; the deepest level is 1/32 of it, and reflection needs 2 pixels there
NOISE = 0.1  # largest value of the input


class SkipNetwork(nn.Module):
    """Noise (N, 3, H, W) -> pixels (N, 3, H, W), which may leave [0, 1]; sides of any size >= 33.

    Batch norm always works on the image at hand: leave the network in training mode.
    """

    def __init__(self) -> None:
        super().__init__()
        self.levels = _Level(3, WIDTHS, SKIPS)
        self.last = nn.Conv2d(WIDTHS[0], 3, 1)

    def forward(self, noise: Tensor) -> Tensor:
        """Raises PgnError: a side under 33 pixels."""
        if min(noise.shape[-2:]) < MIN_SIDE:
            raise PgnError(
                f"skip network: got shape {tuple(noise.shape)}, expected sides of at least "
                f"{MIN_SIDE} pixels."
            )
        out: Tensor = self.last(self.levels(noise))
        return out


class _Level(nn.Module):
    """Halve, pass through the deeper levels, enlarge, and join what skipped them."""

    def __init__(self, in_channels: int, widths: Sequence[int], skips: Sequence[int]) -> None:
        super().__init__()
        width, *deeper = widths
        joined = skips[0] + (deeper or [width])[0]
        self.skip = _unit(in_channels, skips[0], kernel=1) if skips[0] else None
        self.down = nn.Sequential(_unit(in_channels, width, stride=2), _unit(width, width))
        self.deeper = _Level(width, deeper, skips[1:]) if deeper else nn.Identity()
        self.enlarge = nn.Upsample(scale_factor=2, mode="bilinear")
        self.up = nn.Sequential(
            nn.BatchNorm2d(joined), _unit(joined, width), _unit(width, width, kernel=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        deep = self.enlarge(self.deeper(self.down(x)))[..., :height, :width]  # odd sides grew by 1
        joined = deep if self.skip is None else torch.cat([self.skip(x), deep], dim=1)
        out: Tensor = self.up(joined)
        return out


def _unit(in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, padding_mode="reflect"),
        nn.BatchNorm2d(out_channels),
        nn.LeakyReLU(0.2),
    )


def seeded_start(seed: int, height: int, width: int) -> tuple[SkipNetwork, Tensor]:
    """A network with random weights and its noise (1, 3, H, W), the same for the same seed.

    The global random state stays as it is.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SkipNetwork(), NOISE * torch.rand(1, 3, height, width)
