"""Persons to learn talking heads from: frames of each, and the landmarks of the face in them.

An episode of meta-learning is drawn as in Zakharov et al., arXiv 1905.08233, section 3.2: a person,
K frames that show who it is, and one more that is to be drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pgn.errors import MissingExtraError, PgnError, unknown_name

ATTEMPTS = 20  # unreadable persons in a row after which the source is called broken


@dataclass(frozen=True, eq=False)  # tensors do not compare to one truth
class Person:
    """K frames of S x S pixels, each with the L = len(pgn.avatar.landmarks.POINTS) landmarks."""

    name: str
    images: Tensor  # uint8 (K, 3, S, S), RGB
    landmarks: Tensor  # float32 (K, L, 2), x then y, fractions of the side
    skipped: tuple[str, ...] = ()  # frames and clips that could not be used, each with the reason


Reader = Callable[[], Person]  # raises PgnError where there is no person to be had


class People:
    """Persons by index; each is read when it is first asked for, and kept in memory.

    Iteration gives those that can be read. `names` holds all, in the order of the indices.
    """

    def __init__(self, readers: Mapping[str, Reader]) -> None:
        self.readers = dict(readers)
        self.names = list(readers)
        self.skipped: list[str] = []  # what could not be read so far, each with the reason
        self._read: dict[str, Person | str] = {}  # a person, or why there is none

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Person:
        """The person of this index.

        Raises:
            PgnError: that person cannot be read.
        """
        found = self._find(self.names[index])
        if isinstance(found, str):
            raise PgnError(found)
        return found

    def __iter__(self) -> Iterator[Person]:
        return (found for found in map(self._find, self.names) if isinstance(found, Person))

    def draw(self, generator: torch.Generator) -> tuple[int, Person]:
        """A random person and its index; depends on the files and the state of `generator` alone.

        Raises:
            PgnError: ATTEMPTS persons in a row cannot be read, or all.
        """
        tried = torch.randperm(len(self), generator=generator)[:ATTEMPTS].tolist()
        for index in tried:
            found = self._find(self.names[index])
            if isinstance(found, Person):
                return index, found
        raise PgnError(
            f"people: {len(tried)} in a row could not be read; the last was {self.names[index]} "
            f"({found}). Check the source."
        )

    def _find(self, name: str) -> Person | str:
        if name not in self._read:
            try:
                person = self.readers[name]()
                self._read[name] = person
                self.skipped += person.skipped
            except MissingExtraError:  # no fault of this person: the next one would want it too
                raise
            except PgnError as error:
                self._read[name] = str(error)
                self.skipped.append(f"{name} ({error})")
        return self._read[name]


def few_shot(person: Person, generator: torch.Generator, count: int) -> Tensor:
    """Indices (count,) of random frames, no frame twice.

    An episode draws K + 1: K frames to embed, and one to be drawn.

    Raises:
        PgnError: the person has fewer frames.
    """
    frames = len(person.images)
    if not 1 <= count <= frames:
        raise PgnError(
            f"frames: got {count} to draw of {person.name}, expected 1 to {frames}, its frames. "
            f"Use fewer shots, or give more photos."
        )
    return torch.randperm(frames, generator=generator)[:count]


def split(people: People, holdout: Sequence[str] | float, seed: int = 0) -> tuple[People, People]:
    """People to train on, and those held out; nobody is on both sides.

    Args:
        people: persons of one source.
        holdout: names; or a share between 0 and 1, drawn by `seed`, of one person or more.
        seed: of the draw.

    Raises:
        PgnError: an unknown name, a share that is none, or nobody left on a side.
    """
    names = set(holdout) if isinstance(holdout, Sequence) else _drawn(people.names, holdout, seed)
    for name in sorted(names - set(people.names)):
        raise unknown_name("holdout", name, people.names)
    if not 0 < len(names) < len(people):
        raise PgnError(
            f"holdout: got {len(names)} of {len(people)} persons, expected one or more, and one "
            f"or more left to train on."
        )
    training = {name: read for name, read in people.readers.items() if name not in names}
    held_out = {name: read for name, read in people.readers.items() if name in names}
    return People(training), People(held_out)


def _drawn(names: list[str], share: float, seed: int) -> set[str]:
    if not 0 < share < 1:
        raise PgnError(f"holdout: got {share}, expected names, or a share between 0 and 1.")
    order = np.random.default_rng((*b"holdout", seed)).permutation(sorted(names))
    return {str(name) for name in order[: max(1, round(share * len(names)))]}
