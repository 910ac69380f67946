"""Augmentation on the device: random resized crops with flips, and random degradations.

A result is a function of the images and `seed` alone; no global generator is read or changed. What
an image gets is drawn on the host, so that a GPU never has to be waited for; only noise is drawn
on the device.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from kornia.enhance import adjust_contrast_with_mean_subtraction, jpeg_codec_differentiable
from kornia.filters import gaussian_blur2d
from torch import Tensor

Range = tuple[float, float]
Kind = Callable[[Tensor, np.random.Generator], Tensor]  # pixels (n, 3, H, W) -> degraded ones

BLUR: Range = (0.5, 5.0)  # standard deviation in pixels
NOISE: Range = (0.02, 0.15)  # standard deviation
QUALITY: Range = (5.0, 50.0)  # of JPEG
CHANNEL_GAIN: Range = (0.4, 1.2)  # of each channel, about its mean
CHANNEL_SHIFT: Range = (-0.15, 0.15)
CONTRAST: Range = (0.3, 1.2)  # gain of all channels, about the mean brightness
SHARE: Range = (0.3, 1.0)  # of the way from the image to the degraded one

BLUR_TAPS = 31  # three standard deviations to both sides


def crop_and_flip(images: Tensor, size: int, scales: Range, seed: int) -> Tensor:
    """A random square crop of each image, scaled to `size`; every other one is mirrored.

    The crop's side is size * s, log-uniform for s in `scales`, at most the image; its place is
    uniform. PyTorch's antialiased bicubic filter shrinks it as Pillow's would: of stripes that the
    crop cannot hold it leaves a tenth to a half of what kornia's crop does, in a fifth of the time.

    Args:
        images: uint8 (N, 3, canvas, canvas), on any device.

    Returns:
        float32 (N, 3, size, size), pixels in [0, 1].
    """
    random = np.random.default_rng((*b"crop", seed))
    count, canvas = len(images), images.shape[-1]
    shortest, longest = np.log(scales)
    sides = (size * np.exp(random.uniform(shortest, longest, count))).round().astype(int)
    sides = np.minimum(sides, canvas)
    corners = random.integers(canvas - sides + 1, size=(2, count))
    crops = [
        _resize(image[:, top : top + side, left : left + side], size)
        for image, side, top, left in zip(images, sides, *corners, strict=True)
    ]
    mirrored = torch.from_numpy(random.random((count, 1, 1, 1)) < 0.5).to(images.device)
    crop = torch.stack(crops)
    return torch.where(mirrored, crop.flip(-1), crop)


def _resize(image: Tensor, size: int) -> Tensor:
    pixels = image[None].float() / 255.0
    scaled = F.interpolate(pixels, (size, size), mode="bicubic", antialias=True)
    return scaled[0].clamp(0, 1)  # bicubic overshoots


def degrade(images: Tensor, seed: int) -> Tensor:
    """One of KINDS for each image, of random strength, moved back by a random share.

    Args:
        images: float (N, 3, H, W), pixels in [0, 1], sides over BLUR_TAPS // 2.

    Returns:
        The same shape; noise and colour leave [0, 1], as generators do.
    """
    random = np.random.default_rng((*b"degrade", seed))
    kinds = random.integers(len(KINDS), size=len(images))
    degraded = images.clone()
    for number, kind in enumerate(KINDS.values()):
        chosen = torch.from_numpy(np.flatnonzero(kinds == number)).to(images.device)
        if len(chosen):
            degraded[chosen] = kind(images[chosen], random)
    return torch.lerp(images, degraded, _draw(random, SHARE, (len(images), 1, 1, 1)).to(images))


def _blur(images: Tensor, random: np.random.Generator) -> Tensor:
    sigma = _draw(random, BLUR, (len(images), 1)).expand(-1, 2)
    return gaussian_blur2d(images, BLUR_TAPS, sigma)


def _noise(images: Tensor, random: np.random.Generator) -> Tensor:
    generator = torch.Generator(images.device).manual_seed(int(random.integers(2**63)))
    normal = torch.randn(
        images.shape, generator=generator, device=images.device, dtype=images.dtype
    )
    return images + _draw(random, NOISE, (len(images), 1, 1, 1)).to(images) * normal


def _jpeg(images: Tensor, random: np.random.Generator) -> Tensor:
    return jpeg_codec_differentiable(images, _draw(random, QUALITY, (len(images),)))


def _colour(images: Tensor, random: np.random.Generator) -> Tensor:
    gain, shift = (
        _draw(random, bounds, (len(images), 3, 1, 1)).to(images)
        for bounds in (CHANNEL_GAIN, CHANNEL_SHIFT)
    )
    mean = images.mean((2, 3), keepdim=True)
    return mean + gain * (images - mean) + shift


def _contrast(images: Tensor, random: np.random.Generator) -> Tensor:
    return adjust_contrast_with_mean_subtraction(images, _draw(random, CONTRAST, (len(images),)))


KINDS: dict[str, Kind] = {  # each draws a strength for each image
    "blur": _blur,
    "noise": _noise,
    "JPEG": _jpeg,
    "colour": _colour,
    "contrast": _contrast,
}


def _draw(random: np.random.Generator, bounds: Range, shape: tuple[int, ...]) -> Tensor:
    """Uniform in `bounds`, float32, on the host."""
    return torch.from_numpy(random.uniform(*bounds, shape).astype(np.float32))
