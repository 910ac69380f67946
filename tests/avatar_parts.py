"""Tiny persons, options and episodes for the tests of the avatar's training."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pgn.avatar.episodes import Episode
from pgn.avatar.landmarks import POINTS
from pgn.avatar.meta import MetaLearner, Pair
from pgn.avatar.options import AvatarOptions
from pgn.avatar.people import People, Person
from pgn.avatar.rendered import rendered_person
from pgn.distill.run import start_fabric

TINY: dict[str, Any] = {
    "images": 12,
    "batch": 2,
    "shots": 2,
    "identities": 3,
    "poses": 4,
    "size": 32,
    "widths": [8, 16],
    "blocks": 1,
    "perceptual": "ncc",
    "precision": "fp32",
    "workers": 0,
}


def tiny_options(tmp_path: Path) -> AvatarOptions:
    return AvatarOptions("synthetic", tmp_path / "run", **TINY)


def folder_of_persons(tmp_path: Path) -> Path:
    """Three persons of four frames: ann, bob and cy."""
    for seed, name in enumerate(("ann", "bob", "cy"), start=10):
        person = rendered_person(seed, 4, 32)
        place = tmp_path / "people" / name
        place.mkdir(parents=True)
        for k, image in enumerate(person.images):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / f"{k}.png")
        np.savez(place / "landmarks.npz", landmarks=person.landmarks.numpy())
    return tmp_path / "people"


def marked_people(count: int, frames: int, first: int = 0) -> People:
    """Persons whose pixels are 16 times their number (from `first` on) plus that of the frame."""

    def read(number: int) -> Person:
        values = torch.arange(frames, dtype=torch.uint8) + 16 * number
        images = values.view(-1, 1, 1, 1).expand(-1, 3, 32, 32)
        generator = torch.Generator().manual_seed(number)
        return Person(str(number), images, torch.rand(frames, len(POINTS), 2, generator=generator))

    return People({str(first + k): partial(read, first + k) for k in range(count)})


def learner(options: AvatarOptions, persons: int = 3) -> MetaLearner:
    return MetaLearner(options, start_fabric(options), persons)


def episode(options: AvatarOptions, seed: int = 0) -> Episode:
    generator = torch.Generator().manual_seed(seed)
    shape = (options.batch, options.shots + 1, 3, options.size, options.size)
    images = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    return Episode(
        torch.arange(options.batch) % 3, images, torch.rand(shape, generator=generator), []
    )


def gradients(meta: MetaLearner) -> dict[str, Tensor]:
    """Of the avatar's weights, after a step that is stopped before they move."""
    found = {
        name: parameter.grad.clone()
        for name, parameter in meta.avatar.named_parameters()
        if parameter.grad is not None
    }
    meta.avatar.zero_grad()
    return found


def held_still(meta: MetaLearner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meta.optimiser, "step", lambda factor: None)


def drawn(meta: MetaLearner, shown: Episode) -> tuple[Pair, Tensor]:
    """What the step must draw, image by image, and the identities (B, E)."""
    images, conditions = shown.images.float() / 255, shown.conditions
    generated, identities = [], []
    for k in range(len(images)):
        identity = meta.avatar.embedder(images[k, :-1], conditions[k, :-1]).mean(0)
        style = meta.avatar.embedder.style(identity[None])
        generated.append(meta.avatar.generator(conditions[k, -1:], style))
        identities.append(identity)
    pair = Pair(torch.cat(generated), images[:, -1], conditions[:, -1], shown.persons)
    return pair, torch.stack(identities)
