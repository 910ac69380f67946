"""Pixels and normalised images: conversion, checks at the door, crops.

Shapes: N images, C = 3 channels (RGB), H x W pixels.
Public images are float32 pixels in [0, 1]; networks work on u = (pixels - mean) / std (ImageNet).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pgn.errors import PgnError

MEAN = (0.485, 0.456, 0.406)  # ImageNet, RGB, pixels in [0, 1]
STD = (0.229, 0.224, 0.225)
MIN_SIZE = 32  # pixels; the deepest backbone divides by 32
MAX_VALUE = 4.0  # no generator that is worth a gradient leaves [0, 1] by more; 8-bit pixels do


def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, 3, 1, 1)


def pixel_per_u(like: Tensor) -> Tensor:
    """d pixels / d u, the standard deviations (1, 3, 1, 1), in the dtype and place of `like`."""
    return _channels(STD, like)


def normalise(pixels: Tensor) -> Tensor:
    """Pixels (N, 3, H, W) in [0, 1] to ImageNet-normalised values (N, 3, H, W)."""
    return (pixels - _channels(MEAN, pixels)) / _channels(STD, pixels)


def denormalise(u: Tensor) -> Tensor:
    """ImageNet-normalised values (N, 3, H, W) back to pixels (N, 3, H, W)."""
    return u * _channels(STD, u) + _channels(MEAN, u)


def check_pair(generated: Tensor, target: Tensor) -> None:
    """Refuse what is no pair of pixel images of one shape.

    Raises:
        PgnError: wrong rank, channels, shape, dtype or size; NaN or infinity; values of 0..255.
    """
    for name, image in (("generated", generated), ("target", target)):
        _check_pixels(name, image)
    if generated.dtype != target.dtype or generated.device != target.device:
        raise PgnError(
            f"target: got {target.dtype} on {target.device}, expected that of generated, "
            f"{generated.dtype} on {generated.device}. Convert one: target.to(generated)."
        )
    if generated.shape != target.shape:
        raise PgnError(
            f"target: got shape {tuple(target.shape)}, expected that of generated, "
            f"{tuple(generated.shape)}. Resize or crop one of them."
        )


def _check_pixels(name: str, image: Tensor) -> None:
    if not isinstance(image, Tensor):
        raise PgnError(
            f"{name}: got {type(image).__name__}, expected a torch.Tensor: torch.from_numpy(image)."
        )
    shape = tuple(image.shape)
    if image.ndim != 4 or shape[1] != 3:
        raise PgnError(
            f"{name}: got shape {shape}, expected (N, 3, H, W). One image of (3, H, W) becomes "
            f"a batch with image[None]; (N, H, W, 3) with image.permute(0, 3, 1, 2)."
        )
    if shape[0] == 0 or min(shape[2:]) < MIN_SIZE:
        raise PgnError(
            f"{name}: got shape {shape}, expected an image or more with sides of at least "
            f"{MIN_SIZE} pixels."
        )
    if not image.is_floating_point():
        raise PgnError(
            f"{name}: got {image.dtype}, expected float pixels in [0, 1]: image / 255.0."
        )
    low, high = (float(value) for value in torch.aminmax(image.detach()))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise PgnError(
            f"{name}: got NaN or infinite values, expected pixels in [0, 1]. "
            f"The generator has diverged: lower its learning rate, or start again."
        )
    if max(high, -low) > MAX_VALUE:
        raise PgnError(
            f"{name}: got values from {low:.3g} to {high:.3g}, expected pixels in [0, 1]. "
            f"If they are 0..255, divide by 255; if a generator diverged, lower its learning rate."
        )


def centre_crop(image: Tensor, size: int) -> Tensor:
    """The central (3, size, size) of (3, H, W), enlarged first where a side is shorter."""
    shorter = min(image.shape[-2:])
    if shorter < size:
        scale = size / shorter
        shape = [max(size, round(side * scale)) for side in image.shape[-2:]]
        image = F.interpolate(image[None], shape, mode="bicubic", antialias=True)[0].clamp(0, 1)
    top, left = ((side - size) // 2 for side in image.shape[-2:])
    return image[:, top : top + size, left : left + size]
