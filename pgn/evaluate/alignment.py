"""Alignment: how near gradients come to the teacher's exact one, on photos made worse.

Every photo is degraded, drawn by autoencoders, and drawn by a generator on its way to it; at each
of these images a PGN's gradient and other losses' are compared with the true one. What one has
without a PGN stands beside it: Nikulin et al., arXiv 2105.01957, compare with MSE.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from pgn.degrade import SUITE
from pgn.errors import PgnError
from pgn.evaluate.measures import Interval, compare, interval
from pgn.evaluate.peers import Pull, Towards
from pgn.evaluate.situations import Situation
from pgn.files import read_image
from pgn.images import centre_crop

HALF_STEP = 1.0 / 510.0  # half a step of 8-bit pixels


@dataclass(frozen=True)
class Row:
    """One gradient in one situation at one size: a value of every measure for every photo."""

    gradient: str  # whose
    situation: str
    size: int  # pixels
    photos: list[int] = field(default_factory=list)  # indices of those that were measured
    values: dict[str, list[float]] = field(default_factory=dict)  # by measure

    def add(self, photo: int, values: Mapping[str, float]) -> None:
        self.photos.append(photo)
        for measure, value in values.items():
            self.values.setdefault(measure, []).append(value)

    def interval(self, measure: str) -> Interval:
        return interval(self.values[measure])


def with_structure(paths: Sequence[Path]) -> list[Path]:
    """The photos that are not of one colour: there is no gradient to speak of in the others.

    Raises:
        PgnError: a photo cannot be read, or all are of one colour.
    """
    found = [path for path in paths if _span(read_image(path)) > 0]
    if not found:
        raise PgnError("images: no photo has any structure to measure a gradient on.")
    return found


def alignment(
    truth: Towards,
    gradients: Mapping[str, Towards],
    situations: Sequence[Situation],
    paths: Sequence[Path],
    advance: Callable[[], None] = lambda: None,
) -> list[Row]:
    """Compare `gradients` with `truth` on central crops of photos.

    A generated image within half an 8-bit step of its photo is left out: it has no true gradient.

    Args:
        gradients: by name; all see the same generated images.
        advance: called after each photo at each size.

    Returns:
        one row for every size, situation and gradient, in this order.

    Raises:
        PgnError: a photo cannot be read, or a gradient is not finite.
    """
    rows: dict[tuple[int, str, str], Row] = {}
    for size in sorted({size for situation in situations for size in situation.sizes}):
        for index, path in enumerate(paths):
            photo = centre_crop(read_image(path), size)
            exact = truth(photo[None])
            pulls = {name: towards(photo[None]) for name, towards in gradients.items()}
            for drawn, generated in _drawn(situations, photo, index):
                true = exact(generated)
                for name, pull in pulls.items():
                    row = rows.setdefault((size, drawn, name), Row(name, drawn, size))
                    row.add(index, compare(_finite(name, pull, generated), true))
            advance()
    return list(rows.values())


def suite_cosine(rows: Sequence[Row], gradient: str) -> Interval:
    """The one figure of a gradient: the cosine at the largest size, averaged over SUITE.

    The interval is that of the photos' averages.

    Raises:
        PgnError: a degradation of SUITE was measured on no photo.
    """
    largest = max(row.size for row in rows)
    found = {
        row.situation: row
        for row in rows
        if row.size == largest and row.gradient == gradient and row.situation in SUITE
    }
    if found.keys() != SUITE.keys():
        raise PgnError("images: no photo has structure that every degradation of the suite alters.")
    by_photo: dict[int, list[float]] = {}
    for row in found.values():
        for photo, value in zip(row.photos, row.values["cosine"], strict=True):
            by_photo.setdefault(photo, []).append(value)
    return interval([sum(values) / len(values) for values in by_photo.values()])


def _span(image: Tensor) -> float:
    """The largest difference within a channel."""
    return float((image.amax(dim=(1, 2)) - image.amin(dim=(1, 2))).max())


def _drawn(
    situations: Sequence[Situation], photo: Tensor, index: int
) -> Iterator[tuple[str, Tensor]]:
    """Names and generated images (1, 3, H, W) of the situations that cover this photo and size."""
    for situation in situations:
        covered = situation.photos is None or index < situation.photos
        if covered and photo.shape[-1] in situation.sizes:
            for name, generated in situation.draw(photo).items():
                if (generated - photo).abs().max() >= HALF_STEP:
                    yield name, generated[None]


def _finite(name: str, pull: Pull, generated: Tensor) -> Tensor:
    gradient = pull(generated)
    if not torch.isfinite(gradient).all():
        raise PgnError(f"{name}: its gradient holds NaN or infinite values. Train it again.")
    return gradient
