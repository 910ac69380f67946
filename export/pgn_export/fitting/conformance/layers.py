"""Every supported layer, small: what the lowering is measured on, one at a time.

Sizes are odd, sides unequal, and there are three images, lest one axis passes for another.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgn.avatar.generator import adain

IMAGES = (3, 4, 7, 5)  # (N, C, H, W)


class Layer(nn.Module):
    """`layer`(*inputs), its inputs being parameters, so that they have gradients as weights have.

    What does not require a gradient stays a constant. The condition, of any shape, is not used.
    """

    def __init__(self, layer: Callable[..., Tensor], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.layer = layer
        self.inputs = nn.ParameterList(torch.randn(shape) for shape in shapes or (IMAGES,))
        self.eval()  # a norm must not go on measuring

    def forward(self, condition: Tensor) -> Tensor:
        return self.layer(*self.inputs)


def families() -> list[dict[str, Layer]]:
    """All of them by name, in groups of a kind, with the same numbers at every call."""
    kinds = (_plain, _strided, _grouped, _norms, _activations, _resampling, _arithmetic, _shapes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [kind() for kind in kinds]


def _plain() -> dict[str, Layer]:
    frozen = nn.Conv2d(4, 6, 3, padding=1).requires_grad_(False)
    enlarged = nn.Sequential(nn.UpsamplingNearest2d(scale_factor=2), nn.Conv2d(4, 2, 3, padding=1))
    many = nn.Conv2d(8, 8, 3, padding=1)
    return {
        "convolution 1x1": Layer(nn.Conv2d(4, 2, 1)),
        "convolution 3x3": Layer(nn.Conv2d(4, 6, 3, padding=1)),
        "convolution 3x3, fewer channels out": Layer(nn.Conv2d(4, 2, 3, padding=1)),
        "convolution 3x3, more weights than pixels": Layer(many, (1, 8, 3, 3)),
        "convolution 3x3, frozen": Layer(frozen),
        "convolution 3x3 of nearest upsampling x2": Layer(enlarged),
        "convolution 1x3, no bias": Layer(nn.Conv2d(4, 6, (1, 3), padding=(0, 1), bias=False)),
        "convolution 5x5": Layer(nn.Conv2d(4, 6, 5, padding=2)),
        "linear": Layer(nn.Linear(4, 6), (3, 4)),
        "linear, of sequences": Layer(nn.Linear(4, 6), (3, 5, 4)),
    }


def _strided() -> dict[str, Layer]:
    return {
        "convolution 1x1, stride 2": Layer(nn.Conv2d(4, 6, 1, stride=2)),
        "convolution 3x3, stride 2": Layer(nn.Conv2d(4, 6, 3, stride=2, padding=1)),
        "convolution 3x3, stride 2, no padding, even sides": Layer(
            nn.Conv2d(4, 6, 3, stride=2), (3, 4, 8, 6)
        ),
        "convolution 4x4, stride 2": Layer(nn.Conv2d(4, 6, 4, stride=2, padding=1)),
    }


def _grouped() -> dict[str, Layer]:
    return {
        "convolution 3x3, 2 groups": Layer(nn.Conv2d(4, 6, 3, padding=1, groups=2)),
        "convolution 3x3, 2 groups, stride 2": Layer(
            nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)
        ),
        "convolution 3x3, depthwise": Layer(nn.Conv2d(4, 4, 3, padding=1, groups=4)),
        "convolution 5x5, depthwise, stride 2": Layer(
            nn.Conv2d(4, 4, 5, stride=2, padding=2, groups=4)
        ),
    }


def _norms() -> dict[str, Layer]:
    return {
        "instance norm": Layer(nn.InstanceNorm2d(4, affine=True)),
        "instance norm, measured in training": Layer(
            _measured(nn.InstanceNorm2d(4, affine=True, track_running_stats=True))
        ),
        "AdaIN": Layer(adain, IMAGES, (1, 8)),
        "batch norm, in evaluation": Layer(_measured(nn.BatchNorm2d(4))),
        "group norm": Layer(nn.GroupNorm(2, 4)),
    }


def _measured(norm: nn.BatchNorm2d | nn.InstanceNorm2d) -> nn.Module:
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    return norm


def _activations() -> dict[str, Layer]:
    return {
        "ReLU": Layer(nn.ReLU()),
        "ReLU, in place": Layer(lambda x: F.relu_(x * 2)),
        "LeakyReLU": Layer(nn.LeakyReLU(0.2)),
        "sigmoid": Layer(nn.Sigmoid()),
        "tanh": Layer(nn.Tanh()),
    }


def _resampling() -> dict[str, Layer]:
    return {
        "nearest upsampling x2": Layer(nn.UpsamplingNearest2d(scale_factor=2)),
        "nearest upsampling x3 and x2": Layer(nn.UpsamplingNearest2d((21, 10))),
        "bilinear upsampling x2": Layer(nn.Upsample(scale_factor=2, mode="bilinear")),
        "bilinear resampling to 13x4": Layer(nn.Upsample((13, 4), mode="bilinear")),
        "bilinear upsampling x2, corners aligned": Layer(nn.UpsamplingBilinear2d(scale_factor=2)),
        "average pooling 2x2": Layer(nn.AvgPool2d(2)),
        "average pooling 3x3, stride 2, padding": Layer(nn.AvgPool2d(3, 2, 1)),
        "pixel shuffle x2": Layer(nn.PixelShuffle(2), (3, 8, 5, 3)),
    }


def _arithmetic() -> dict[str, Layer]:
    channels, one_image = (1, 4, 1, 1), (4, 7, 5)
    return {
        "add": Layer(lambda x, y: x + y, IMAGES, IMAGES),
        "add, broadcast": Layer(lambda x, y: x + y + 0.5, IMAGES, channels),
        "subtract": Layer(lambda x, y: 1 - (x - y), IMAGES, one_image),
        "multiply": Layer(lambda x, y: x * y, IMAGES, IMAGES),
        "multiply, broadcast": Layer(lambda x, y: x * y * 3, channels, IMAGES),
        "divide": Layer(lambda x, y: x / (y * y + 1) / 2, IMAGES, channels),
        "negative": Layer(lambda x: -x),
        "square": Layer(lambda x: x**2),
        "square root": Layer(lambda x: torch.sqrt(x * x + 1)),
        "reciprocal square root": Layer(lambda x: torch.rsqrt(x * x + 1)),
        "mean of an image": Layer(lambda x: x.mean((2, 3), keepdim=True)),
        "mean of channels": Layer(lambda x: x.mean(1)),
    }


def _shapes() -> dict[str, Layer]:
    return {
        "concatenate": Layer(lambda x, y: torch.cat([x, y, x], 1), IMAGES, (3, 2, 7, 5)),
        "split": Layer(lambda x: _product(x.split([1, 3], 1))),
        "chunk": Layer(lambda x: _product(x.chunk(2, 1))),
        "slice": Layer(lambda x: x[:, 1:3, 2:, :-1]),
        "pad": Layer(lambda x: F.pad(x, (1, 2, 0, 3))),
        "pad with a number": Layer(lambda x: F.pad(x, (1, 0, 2, 1), value=0.5)),
        "reshape": Layer(lambda x: x.reshape(3, 2, -1, 5)),
        "flatten": Layer(lambda x: x.flatten(1)),
        "squeeze and unsqueeze": Layer(lambda x: x.squeeze(2)[:, :, None, None], (3, 4, 1)),
        "expand": Layer(lambda x: x.expand(3, 4, 7, 5), (1, 4, 1, 1)),
    }


def _product(parts: tuple[Tensor, ...]) -> Tensor:
    """Of parts of which one broadcasts, so that each has another gradient."""
    return parts[0] * parts[1]
