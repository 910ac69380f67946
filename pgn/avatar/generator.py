"""The generator of a talking head: a drawing of landmarks and a style make the image of a person.

References: Zakharov et al., arXiv 1905.08233, section 3 and supplement (residual blocks, no skip
from encoder to decoder); AdaIN: Huang and Belongie, arXiv 1703.06868. Thinner than there, at full
resolution above all, without attention and without spectral norm, so that a phone can draw and
fit it: convolutions, means, rsqrt, ReLU and nearest upsampling are all it is made of, and no
tensor has more than four dimensions. A convolution has a bias only where no mean is taken out
after it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgn.errors import PgnError, unknown_name

EPSILON = 1e-5  # of a variance
TRAINABLE = {  # what fitting to a person may change: patterns of PersonalGenerator's names
    "all": ("*",),
    "decoder": ("decoder.*", "last.*"),
    "adain": ("*.style",),
    "last": ("last.*",),
}


@dataclass(frozen=True)
class GeneratorConfig:
    """All that is needed to build a generator without its weights."""

    size: int = 128  # pixels of a side of the images it is trained on
    widths: Sequence[int] = (16, 32, 64, 128)  # channels, from full resolution, each side halved
    blocks: int = 4  # residual blocks at the coarsest resolution

    def __post_init__(self) -> None:
        listed = isinstance(self.widths, (list, tuple)) and len(self.widths) >= 2
        counts = (self.size, self.blocks, *self.widths) if listed else ()
        if not (listed and all(type(count) is int and count > 0 for count in counts)):
            raise PgnError(
                f"generator: got {self}, expected positive whole numbers and two widths or more."
            )
        if self.size % self.multiple:
            raise PgnError(
                f"generator: got size {self.size} with {len(self.widths)} widths, expected a "
                f"multiple of {self.multiple}."
            )

    @property
    def multiple(self) -> int:
        """What the sides of an image must be multiples of, pixels."""
        return int(2 ** (len(self.widths) - 1))


CONFIGS = {128: GeneratorConfig(), 256: GeneratorConfig(256, (16, 24, 32, 64, 128))}  # by size


class Generator(nn.Module):
    """Draws anybody: the style, of `style_size` numbers, says whom."""

    def __init__(self, config: GeneratorConfig = CONFIGS[128]) -> None:
        super().__init__()
        self.config = config
        finest, *widths = config.widths
        deepest = widths[-1]
        self.encoder = _encoder(widths)
        self.bottleneck = nn.ModuleList(StyledBlock(deepest, deepest) for _ in range(config.blocks))
        self.decoder = nn.ModuleList(
            StyledBlock(coarse, fine, scale=2) for coarse, fine in pairwise(reversed(widths))
        )
        self.last = LastBlock(widths[0], finest)
        self.style_sizes = [block.style_size for block in self._styled()]
        self.style_size = sum(self.style_sizes)

    def forward(self, condition: Tensor, style: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [0, 1].

        Args:
            condition: (N, 3, H, W) in [0, 1], landmarks as drawn by pgn.avatar.landmarks.
            style: (N, style_size), or (1, style_size) for all; for every AdaIN in turn its scales
                less one, then its biases. Zeros are plain instance norm.

        Raises:
            PgnError: sides that are no multiples of config.multiple; a style of another size.
        """
        _check_condition(condition, self.config)
        _check_style(style, self.style_size)
        parts = torch.split(style, self.style_sizes, dim=1)
        x: Tensor = self.encoder(condition)
        for block, part in zip(self._styled(), parts, strict=True):
            x = block(x, part)
        return x

    def _styled(self) -> list[StyledBlock | LastBlock]:
        return [*self.bottleneck, *self.decoder, self.last]


class PersonalGenerator(nn.Module):
    """Draws one person: every block's part of the style is a parameter of its own."""

    def __init__(self, generator: Generator, style: Tensor) -> None:
        super().__init__()
        generator = copy.deepcopy(generator)
        parts = iter(torch.split(style, generator.style_sizes))
        self.config = generator.config
        self.encoder = generator.encoder
        self.bottleneck = nn.Sequential(*(_Personal(b, next(parts)) for b in generator.bottleneck))
        self.decoder = nn.Sequential(*(_Personal(b, next(parts)) for b in generator.decoder))
        self.last = _Personal(generator.last, next(parts))

    def forward(self, condition: Tensor) -> Tensor:
        """Landmarks drawn on (N, 3, H, W) -> images (N, 3, H, W) in [0, 1].

        Raises:
            PgnError: sides that are no multiples of config.multiple.
        """
        _check_condition(condition, self.config)
        image: Tensor = self.last(self.decoder(self.bottleneck(self.encoder(condition))))
        return image


def personalise(generator: Generator, style: Tensor) -> PersonalGenerator:
    """The generator of one person, a copy that draws what `generator` draws with this style.

    Args:
        style: (style_size,), as the embedder predicts it.

    Raises:
        PgnError: a style of another shape.
    """
    _check_style(style[None], generator.style_size)
    return PersonalGenerator(generator, style)


def trainable(generator: PersonalGenerator, preset: str) -> list[str]:
    """Names of the parameters that fitting to a person changes.

    Args:
        preset: all | decoder (with its AdaIN, and the last block) | adain (the styles alone) |
            last (the last block, up to the image).

    Raises:
        PgnError: no such preset.
    """
    if preset not in TRAINABLE:
        raise unknown_name("trainable", preset, TRAINABLE)
    names = [name for name, _ in generator.named_parameters()]
    return [n for n in names if any(fnmatchcase(n, pattern) for pattern in TRAINABLE[preset])]


class StyledBlock(nn.Module):
    """x + conv(ReLU(AdaIN(conv(ReLU(AdaIN(x)))))), enlarged by `scale` before the convolutions.

    (N, in, H, W) and a style (N, style_size) -> (N, out, scale*H, scale*W).
    """

    def __init__(self, in_channels: int, out_channels: int, scale: int = 1) -> None:
        super().__init__()
        self.scale = scale
        self.style_sizes = [2 * in_channels, 2 * out_channels]
        self.style_size = sum(self.style_sizes)
        self.first = _conv3(in_channels, out_channels)
        self.second = _conv3(out_channels, out_channels)
        self.shortcut = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Conv2d(in_channels, out_channels, 1, bias=False)
        )

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        before, between = torch.split(style, self.style_sizes, dim=1)
        inner = self.first(enlarge(torch.relu(adain(x, before)), self.scale))
        inner = self.second(torch.relu(adain(inner, between)))
        out: Tensor = inner + enlarge(self.shortcut(x), self.scale)
        return out


class LastBlock(nn.Module):
    """AdaIN, ReLU, enlarge, conv, AdaIN, ReLU, conv, sigmoid: one AdaIN alone at full resolution.

    (N, in, H, W) and a style (N, style_size) -> images (N, 3, 2H, 2W) in [0, 1].
    """

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.style_sizes = [2 * in_channels, 2 * width]
        self.style_size = sum(self.style_sizes)
        self.first = _conv3(in_channels, width)
        self.image = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        before, between = torch.split(style, self.style_sizes, dim=1)
        x = self.first(enlarge(torch.relu(adain(x, before)), 2))
        return torch.sigmoid(self.image(torch.relu(adain(x, between))))


class InstanceNorm(nn.Module):
    """Mean 0 and variance 1 in every channel of every image, (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean((2, 3), keepdim=True)
        return centred * _reciprocal_deviation(centred)


def adain(x: Tensor, style: Tensor) -> Tensor:
    """Instance norm of x (N, C, H, W) with scale and bias from `style` (N or 1, 2C)."""
    scale, bias = style[..., None, None].chunk(2, dim=1)  # (N, C, 1, 1) each
    centred = x - x.mean((2, 3), keepdim=True)
    return centred * (_reciprocal_deviation(centred) * (1.0 + scale)) + bias


def enlarge(x: Tensor, scale: int) -> Tensor:
    """Nearest upsampling, (N, C, H, W) -> (N, C, scale*H, scale*W)."""
    return x if scale == 1 else F.interpolate(x, scale_factor=float(scale), mode="nearest")


class _Personal(nn.Module):
    """A block that brings its part of the style along, (1, style_size)."""

    def __init__(self, block: nn.Module, style: Tensor) -> None:
        super().__init__()
        self.block = block
        self.style = nn.Parameter(style.detach().clone()[None])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x, self.style)
        return out


def _encoder(widths: Sequence[int]) -> nn.Sequential:
    """(N, 3, H, W) -> (N, widths[-1], H / 2^k, W / 2^k), not yet normalised."""
    layers: list[nn.Module] = [_conv3(3, widths[0], stride=2)]
    for fine, coarse in pairwise(widths):
        layers += [InstanceNorm(), nn.ReLU(), _conv3(fine, coarse, stride=2)]
    return nn.Sequential(*layers)


def _conv3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)


def _reciprocal_deviation(centred: Tensor) -> Tensor:
    """(N, C, H, W) of mean 0 -> (N, C, 1, 1)."""
    return torch.rsqrt((centred * centred).mean((2, 3), keepdim=True) + EPSILON)


def _check_condition(condition: Tensor, config: GeneratorConfig) -> None:
    shape, multiple = tuple(condition.shape), config.multiple
    if len(shape) != 4 or shape[1] != 3 or shape[2] % multiple or shape[3] % multiple:
        raise PgnError(
            f"condition: got shape {shape}, expected (N, 3, H, W) with sides that are multiples "
            f"of {multiple} pixels. This generator was made for {config.size}x{config.size}."
        )


def _check_style(style: Tensor, size: int) -> None:
    if style.ndim != 2 or style.shape[1] != size:
        raise PgnError(
            f"style: got {tuple(style.shape)}, expected {size} numbers a person. It must come "
            f"from the embedder that was trained with this generator."
        )
