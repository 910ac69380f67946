"""Alignment: the cosine of a predicted gradient with the teacher's, on degraded photos.

Mean over photos of the cosine over all of an image's values. MSE's gradient, measured beside it,
is what one has without a PGN. Scale is judged too: the norm of the prediction over the truth's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pgn.degrade import SUITE, UNSEEN
from pgn.errors import PgnError
from pgn.files import read_image
from pgn.images import MIN_SIZE, centre_crop
from pgn.model import PGN
from pgn.teachers import PerceptualLoss

DEGRADATIONS = {**SUITE, **UNSEEN}
HALF_STEP = 1.0 / 510.0  # half a step of 8-bit pixels


@dataclass(frozen=True)
class Row:
    """One degradation; means over photos."""

    degradation: str
    photos: int  # measured; those that the degradation leaves as they are do not count
    cosine: float
    mse_cosine: float
    norm_ratio: float  # |predicted| / |true|


def alignment(
    net: PGN,
    teacher: PerceptualLoss,
    paths: Sequence[Path],
    size: int,
    advance: Callable[[], None] = lambda: None,
) -> list[Row]:
    """Measure every degradation of SUITE and UNSEEN on central crops of `size` pixels.

    Args:
        advance: called after each photo.

    Raises:
        PgnError: a size under 32, or a photo that cannot be read.
    """
    if size < MIN_SIZE:
        raise PgnError(f"--size: got {size}, expected at least {MIN_SIZE} pixels.")
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in DEGRADATIONS}
    for path in paths:
        photo = centre_crop(read_image(path), size)[None]
        with torch.no_grad():
            features = teacher.features(photo)
        for name, degrade in DEGRADATIONS.items():
            generated = degrade(photo[0])[None]
            if (generated - photo).abs().max() < HALF_STEP:
                continue  # a featureless photo, which this degradation leaves as it was
            truth = teacher.gradient(generated, features).flatten()
            predicted = net.gradient(generated, photo).flatten()
            towards_target = (generated - photo).flatten()
            ratio = float(predicted.norm() / truth.norm())
            found[name].append((_cosine(predicted, truth), _cosine(towards_target, truth), ratio))
        advance()
    if not all(found.values()):
        raise PgnError("images: no photo has any structure to measure a gradient on.")
    return [Row(name, len(values), *_means(values)) for name, values in found.items()]


def mean_cosine(rows: Sequence[Row]) -> float:
    """The one figure: the mean over SUITE, without the unseen ones."""
    return sum(row.cosine for row in rows if row.degradation in SUITE) / len(SUITE)


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(F.cosine_similarity(a, b, dim=0))


def _means(values: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    first, second, third = (sum(column) / len(values) for column in zip(*values, strict=True))
    return first, second, third
