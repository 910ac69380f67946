"""The preview of a meta-training: how a few persons are drawn so far, beside the truth."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from pgn.avatar.episodes import Cast
from pgn.avatar.landmarks import draw
from pgn.avatar.model import Avatar
from pgn.avatar.people import Person
from pgn.avatar.rendered import HELD_OUT, rendered_person
from pgn.degrade import to_pil
from pgn.files import atomic_path

PERSONS = 2  # of each source that are trained on, and of each that are held out
DRAWN = 2  # frames of each


class Sheet:
    """Rows of persons, those trained on first; a white bar; those held out, synthetic ones first.

    A row shows, for each of a person's last DRAWN frames, its landmarks, the truth, and what the
    avatar draws of whom it has seen in the first frames.
    """

    def __init__(self, cast: Cast, shots: int, size: int) -> None:
        self.shots = shots
        seeds = range(HELD_OUT, HELD_OUT + PERSONS)
        strangers = [rendered_person(seed, shots + DRAWN, size) for seed in seeds]
        self.trained = [person for people in cast.training for person in islice(people, PERSONS)]
        held_out = [person for people in cast.held_out for person in islice(people, PERSONS)]
        self.held_out = [*strangers, *held_out]

    def write(self, avatar: Avatar, path: Path) -> None:
        """Draw everybody and write a PNG, by rename."""
        above, below = (
            torch.cat([self._row(avatar, person) for person in group], dim=1)
            for group in (self.trained, self.held_out)
        )
        bar = torch.ones(3, 4, above.shape[2])
        with atomic_path(path) as temporary:
            to_pil(torch.cat([above, bar, below], dim=1)).save(temporary, "PNG")

    @torch.no_grad()
    def _row(self, avatar: Avatar, person: Person) -> Tensor:
        """(3, S, DRAWN * 3 * S)."""
        device = next(avatar.parameters()).device
        images = person.images.to(device).float() / 255.0
        conditions = draw(person.landmarks.to(device), images.shape[-1])
        shown = avatar.person(images[: self.shots], conditions[: self.shots])
        drawn = shown(conditions[-DRAWN:])
        cells = torch.stack([conditions[-DRAWN:], images[-DRAWN:], drawn], dim=1).flatten(0, 1)
        return torch.cat(list(cells.cpu()), dim=2)
