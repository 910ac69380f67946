"""Synthetic people for training: rendered once by worker processes into memory-mapped files.

Seeds from HELD_OUT on are never trained on.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pgn import command
from pgn.avatar.landmarks import POINTS
from pgn.avatar.people import People, Person
from pgn.avatar.synthetic import identity, poses, render
from pgn.errors import PgnError
from pgn.files import atomic_path, first_line

HELD_OUT = 1_000_000  # the first seed of those kept for judging
FRAMES_APART = 16  # of the trajectory, so that poses are plainly different
IMAGES_NAME, LANDMARKS_NAME = "images.npy", "landmarks.npy"


class Plan(NamedTuple):
    """What is rendered: the people of seeds 0 to identities - 1."""

    identities: int
    poses: int  # frames of each
    size: int  # pixels

    @property
    def images_shape(self) -> tuple[int, ...]:
        return self.identities, self.poses, 3, self.size, self.size

    @property
    def landmarks_shape(self) -> tuple[int, ...]:
        return self.identities, self.poses, len(POINTS), 2


def rendered_person(seed: int, count: int, size: int) -> Person:
    """The person of this seed in `count` poses."""
    trajectory = poses(seed, count * FRAMES_APART)[::FRAMES_APART]
    return Person(f"synthetic-{seed}", *render(identity(seed), trajectory, size))


def render_people(folder: Path, plan: Plan, workers: int) -> None:
    """Render into `folder`, unless what it holds is of this plan; by rename.

    Raises:
        PgnError: the folder cannot be written.
    """
    if _holds(folder, plan):
        return
    everybody = DataLoader(
        _Seeds(plan), batch_size=None, num_workers=workers, generator=torch.Generator()
    )
    with (
        atomic_path(folder / LANDMARKS_NAME) as landmarks_path,
        atomic_path(folder / IMAGES_NAME) as images_path,
    ):
        images = np.lib.format.open_memmap(images_path, "w+", np.uint8, plan.images_shape)
        landmarks = np.lib.format.open_memmap(
            landmarks_path, "w+", np.float32, plan.landmarks_shape
        )
        shown = track(everybody, "rendering people", plan.identities, console=command.stderr)
        for seed, (person_images, person_landmarks) in enumerate(shown):
            images[seed], landmarks[seed] = person_images.numpy(), person_landmarks.numpy()
        images.flush()
        landmarks.flush()


def planned_people(plan: Plan) -> People:
    """The people of a plan, each rendered when asked for."""
    return People(
        {
            f"synthetic-{seed}": partial(rendered_person, seed, plan.poses, plan.size)
            for seed in range(plan.identities)
        }
    )


def rendered_people(folder: Path) -> People:
    """The people in `folder`, each read from the disk when asked for."""
    count = len(_open(folder / IMAGES_NAME))
    return People({f"synthetic-{seed}": partial(_read, folder, seed) for seed in range(count)})


class _Seeds(Dataset[tuple[Tensor, Tensor]]):
    """Images and landmarks by seed."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def __len__(self) -> int:
        return self.plan.identities

    def __getitem__(self, seed: int) -> tuple[Tensor, Tensor]:
        person = rendered_person(seed, self.plan.poses, self.plan.size)
        return person.images, person.landmarks


def _holds(folder: Path, plan: Plan) -> bool:
    shapes = {IMAGES_NAME: plan.images_shape, LANDMARKS_NAME: plan.landmarks_shape}
    # both: a run may be killed between the two renames, beside files of another plan
    return all(
        (folder / name).exists() and _open(folder / name).shape == shape
        for name, shape in shapes.items()
    )


def _read(folder: Path, seed: int) -> Person:
    images, landmarks = (
        torch.from_numpy(np.array(_open(folder / name)[seed]))
        for name in (IMAGES_NAME, LANDMARKS_NAME)
    )
    return Person(f"synthetic-{seed}", images, landmarks)


def _open(path: Path) -> np.memmap:
    try:
        return np.lib.format.open_memmap(path, "r")
    except (OSError, ValueError) as error:
        raise PgnError(
            f"synthetic: {path} is damaged ({first_line(error)}). Remove it; it is rendered again."
        ) from None
