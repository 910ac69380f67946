"""Degradations on which the gradient's quality is measured: blur, noise, JPEG, and others.

All take and give pixels (3, H, W) in [0, 1]; noise leaves that range, as generators do.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor


def to_pil(image: Tensor) -> Image.Image:
    """(3, H, W) in [0, 1] to an 8-bit picture."""
    array = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(array)


def from_pil(picture: Image.Image) -> Tensor:
    """An 8-bit RGB picture to (3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(picture, dtype=np.float32) / 255.0).permute(2, 0, 1)


def blur(image: Tensor, radius: float) -> Tensor:
    """Gaussian blur of `radius` pixels (standard deviation)."""
    return from_pil(to_pil(image).filter(ImageFilter.GaussianBlur(radius)))


def noise(image: Tensor, sigma: float, seed: int = 0) -> Tensor:
    """Gaussian noise of standard deviation `sigma`, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return image + sigma * torch.randn(image.shape, generator=generator)


def jpeg(image: Tensor, quality: int) -> Tensor:
    """JPEG compression at `quality`."""
    buffer = io.BytesIO()
    to_pil(image).save(buffer, "JPEG", quality=quality)
    return from_pil(Image.open(buffer))


def mosaic(image: Tensor, side: int) -> Tensor:
    """Every `side` x `side` pixels become their mean."""
    coarse = F.avg_pool2d(image[None], side, ceil_mode=True)
    blocks = F.interpolate(coarse, scale_factor=float(side), mode="nearest")[0]
    return blocks[:, : image.shape[1], : image.shape[2]]


def shift(image: Tensor, pixels: int) -> Tensor:
    """Moved to the right and down by `pixels`; the first row and column fill the gap."""
    padded = F.pad(image[None], (pixels, 0, pixels, 0), mode="replicate")[0]
    return padded[:, : image.shape[1], : image.shape[2]]


SUITE: dict[str, Callable[[Tensor], Tensor]] = {
    "blur 1.5": lambda image: blur(image, 1.5),
    "blur 4": lambda image: blur(image, 4.0),
    "noise 0.1": lambda image: noise(image, 0.1),
    "JPEG 10": lambda image: jpeg(image, 10),
}
BESIDE: dict[str, Callable[[Tensor], Tensor]] = {  # of the last two kinds training shows nothing
    "half contrast": lambda image: 0.5 * image + 0.25,
    "mosaic 4": lambda image: mosaic(image, 4),
    "shift 3": lambda image: shift(image, 3),
}
