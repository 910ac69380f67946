"""Talking heads: persons an avatar has never seen are fitted to a few photos, once with each loss.

What a loss is worth shows on the fitted frames, and on others of the same person. References:
Nikulin et al., arXiv 2105.01957, section 4 and Tables 3 and 8 (8 photos and 8 held-out ones, 50
steps of Adam); Zakharov et al., arXiv 1905.08233.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pgn.avatar.finetune import DivergedError, FineTuneOptions, FineTuneReport, fine_tune
from pgn.avatar.generator import PersonalGenerator
from pgn.avatar.guidance import Guidance, exact, mean_squared, predicted
from pgn.avatar.landmarks import draw
from pgn.avatar.model import Avatar
from pgn.avatar.people import Person
from pgn.errors import PgnError
from pgn.evaluate.study import fingerprint
from pgn.model import PGN
from pgn.teachers import PerceptualLoss

BEFORE = "before"
MSE = "mse"
EXACT = "vgg19"
TRAIN, HOLDOUT = SPLITS = ("train", "holdout")

Drawn = dict[str, Tensor]  # {one of SPLITS: images (F, 3, S, S)}


@dataclass(frozen=True, eq=False)  # tensors do not compare to one truth
class Frames:
    """Frames of a person, (F, 3, S, S) each, in [0, 1]."""

    conditions: Tensor  # drawn landmarks
    photos: Tensor


@dataclass(frozen=True, eq=False)
class Sitter:
    """A person to fit: frames to learn from, and as many to judge by."""

    name: str
    splits: dict[str, Frames]  # by name, SPLITS
    sha256: str  # of images and landmarks


@dataclass(frozen=True)
class Run:
    """One loss to fit with; without guidance the person is drawn as it was embedded."""

    name: str
    guidance: Callable[[], Guidance] | None = None
    net: PGN | None = None  # of a PGN


@dataclass(frozen=True, eq=False)
class Fit:
    """What a fit came to. Where it diverged to NaN, `drawn` is what was drawn before."""

    drawn: Drawn
    report: FineTuneReport
    diverged: bool = False


def seat(person: Person, frames: int) -> Sitter:
    """The first 2 * `frames` frames, taken in turn to learn from and to judge by.

    Raises:
        PgnError: the person has fewer.
    """
    if len(person.images) < 2 * frames:
        raise PgnError(
            f"person {person.name}: got {len(person.images)} usable frames, expected "
            f"{2 * frames}: {frames} to fit and {frames} held out. Use fewer --frames, give more "
            f"photos, or choose others by --person."
        )
    images, landmarks = person.images[: 2 * frames], person.landmarks[: 2 * frames]
    photos = images.float() / 255.0  # (2F, 3, S, S)
    conditions = draw(landmarks, images.shape[-1])
    splits = {
        split: Frames(conditions[start::2].contiguous(), photos[start::2].contiguous())
        for start, split in enumerate(SPLITS)
    }
    return Sitter(person.name, splits, fingerprint([images, landmarks]))


def baselines(teacher: PerceptualLoss, mse_weight: float) -> list[Run]:
    """No fit, MSE, and the exact gradient: what a PGN is judged by.

    Raises:
        PgnError: a weight that is negative or not finite.
    """
    exact(teacher, mse_weight)  # refuses the weight now, not at the first fit
    return [Run(BEFORE), Run(MSE, mean_squared), Run(EXACT, partial(exact, teacher, mse_weight))]


def pgn_run(name: str, net: PGN, mse_weight: float) -> Run:
    """The predicted gradient, with an MSE term."""
    return Run(name, partial(predicted, net, mse_weight), net)


def fit(
    avatar: Avatar,
    sitter: Sitter,
    run: Run,
    options: FineTuneOptions,
    advance: Callable[[], None] = lambda: None,
) -> Fit:
    """Embed the person by the training frames, and fit its generator to them.

    Args:
        advance: called after each step.
    """
    shown = sitter.splits[TRAIN]
    personal = avatar.person(shown.photos, shown.conditions)
    if run.guidance is None:
        return Fit(_draw(personal, sitter), FineTuneReport())
    before = _draw(personal, sitter)
    try:
        report = fine_tune(
            personal,
            shown.conditions,
            shown.photos,
            run.guidance(),
            options,
            lambda step, mse: advance(),
        )
        drawn = _draw(personal, sitter)
        if not all(torch.isfinite(images).all() for images in drawn.values()):
            raise DivergedError("fine-tuning: the last step led to NaN.")
    except DivergedError:
        return Fit(before, FineTuneReport(), diverged=True)
    return Fit(drawn, report)


@torch.no_grad()
def judge(teacher: PerceptualLoss, drawn: Drawn, sitter: Sitter) -> dict[str, dict[str, float]]:
    """{split: {figure: its mean over the split's frames}} of VGG-19 loss and MSE."""
    found = {}
    for split, images in drawn.items():
        photos = sitter.splits[split].photos
        found[split] = {
            EXACT: float(teacher(images, photos).mean()),
            MSE: float((images - photos).square().mean()),
        }
    return found


@torch.no_grad()
def _draw(personal: PersonalGenerator, sitter: Sitter) -> Drawn:
    return {split: personal(frames.conditions) for split, frames in sitter.splits.items()}
