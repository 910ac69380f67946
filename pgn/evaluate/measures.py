"""How alike two gradients of one image are: direction, length, signs, DC bias, direction per band.

All take gradients (1, 3, H, W) in any unit and work in float64. Bands: the Laplacian pyramid of
Burt and Adelson, "The Laplacian Pyramid as a Compact Image Code", 1983.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from kornia.geometry.transform import pyrdown, pyrup
from torch import Tensor

BANDS = (
    "under 8 px",
    "8-16 px",
    "16-32 px",
    "32-64 px",
    "over 64 px",
)  # periods, the last low-pass
BAND_COSINES = tuple(f"cosine {band}" for band in BANDS)
MEASURES = ("cosine", "norm ratio", "sign agreement", "DC bias", *BAND_COSINES)
_TINY = 1e-30  # a gradient of zeros has cosine 0, not NaN


@dataclass(frozen=True)
class Interval:
    """The mean over photos and half the width of its normal 95 % interval, 1.96 * sd / sqrt(n)."""

    mean: float
    half95: float | None  # None: of one photo


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % interval of one value or more."""
    if len(values) == 1:
        return Interval(values[0], None)
    return Interval(
        statistics.fmean(values), 1.96 * statistics.stdev(values) / math.sqrt(len(values))
    )


def compare(predicted: Tensor, true: Tensor) -> dict[str, float]:
    """All MEASURES of `predicted` against `true`, each (1, 3, H, W) with sides of at least 32."""
    predicted, true = predicted.double(), true.double()
    bands = zip(BAND_COSINES, laplacian_bands(predicted), laplacian_bands(true), strict=True)
    return {
        "cosine": cosine(predicted, true),
        "norm ratio": float(predicted.norm() / true.norm()),
        "sign agreement": float((predicted.sign() == true.sign()).double().mean()),
        "DC bias": dc_bias(predicted, true),
        **{name: cosine(ours, theirs) for name, ours, theirs in bands},
    }


def cosine(a: Tensor, b: Tensor) -> float:
    """Over all values of the two."""
    return float(F.cosine_similarity(a.flatten(), b.flatten(), dim=0, eps=_TINY))


def dc_bias(predicted: Tensor, true: Tensor) -> float:
    """How far the channels' means are off: rms_c(mean_hw(s * p) - mean_hw(g)) / rms(g).

    p is `predicted`, g is `true`, s = |g| / |p| makes them equally long; rms_c runs over the three
    channels. 0 is no bias. An optimiser that follows the gradient drifts in brightness and colour
    by this share of a typical step.
    """
    scaled = predicted * (true.norm() / predicted.norm().clamp_min(_TINY))
    offset = (scaled - true).mean(dim=(2, 3))
    return float(offset.square().mean().sqrt() / true.square().mean().sqrt())


def laplacian_bands(image: Tensor) -> list[Tensor]:
    """Four band-pass images and the low-pass rest of (1, 3, H, W), finest first.

    A wave of a period in BANDS has the largest share of its energy in that band; they overlap.
    Each has half the sides of the one before; a border that makes the sides no multiple of 16 is
    cut off. Enlarged by `pyrup` and summed from the last to the first they are the image.
    """
    octaves = len(BANDS) - 1
    height, width = (side - side % 2**octaves for side in image.shape[-2:])
    rest = image[..., :height, :width]
    bands = []
    for _ in range(octaves):
        coarse = pyrdown(rest)
        bands.append(rest - pyrup(coarse))
        rest = coarse
    return [*bands, rest]
