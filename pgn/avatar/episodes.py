"""Episodes of meta-training: persons, K frames that show who each is, and one frame to draw.

Reference: Zakharov et al., arXiv 1905.08233, section 3.2. Every source is drawn as often, however
many persons it has. A step of the stream depends on its number alone, so a killed run resumes bit
for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate, count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pgn.avatar.landmarks import draw
from pgn.avatar.options import SYNTHETIC, AvatarOptions
from pgn.avatar.people import People, Person, Reader, few_shot, split
from pgn.avatar.readers import read_people
from pgn.avatar.rendered import Plan, planned_people, rendered_people
from pgn.distill.data import Stream
from pgn.distill.workers import stream_steps
from pgn.errors import PgnError, unknown_name


class Episode(NamedTuple):
    """One step's persons; the last of the K + 1 frames of each is to be drawn."""

    persons: Tensor  # int64 (B,), in the order of the sources' training persons
    images: Tensor  # uint8 (B, K + 1, 3, S, S)
    conditions: Tensor  # float32 (B, K + 1, 3, S, S), drawn landmarks
    skipped: list[str]  # what could not be read on the way, each with the reason


class Cast(NamedTuple):
    """The people of all sources."""

    training: list[People]  # of each source
    held_out: list[People]  # of each source that has some

    @property
    def persons(self) -> int:
        """How many are trained on."""
        return sum(map(len, self.training))


def read_cast(options: AvatarOptions, rendered: Path) -> Cast:
    """The people of the options' sources.

    Args:
        options: sources, and names to hold out.
        rendered: where the synthetic people lie.

    Raises:
        PgnError: no such source, one in which nobody can be read, or a name to hold out that
            none has.
    """
    everybody = [
        rendered_people(rendered) if source == SYNTHETIC else read_people(source, options.size)
        for source in options.sources
    ]
    everybody = [_with_frames(people, options.shots + 1) for people in everybody]
    for people in everybody:
        people.draw(torch.Generator())  # a source without people is told before work begins
    return _divided(everybody, options.holdout)


def check_sources(options: AvatarOptions) -> None:
    """See that there are people, and those to hold out among them, before anything is prepared.

    Raises:
        PgnError: no such source, nothing in it, or a name to hold out that none has.
    """
    plan = Plan(options.identities, options.poses, options.size)
    everybody = [
        planned_people(plan) if source == SYNTHETIC else read_people(source, options.size)
        for source in options.sources
    ]
    _divided(everybody, options.holdout)


def _divided(everybody: Sequence[People], holdout: Sequence[str]) -> Cast:
    """The people of each source, into those to train on and those held out."""
    known = {name for people in everybody for name in people.names}
    for name in sorted(set(holdout) - known):
        raise unknown_name("holdout", name, sorted(known))
    cast = Cast([], [])
    for people in everybody:
        names = [name for name in people.names if name in holdout]
        training, held_out = split(people, names) if names else (people, None)
        cast.training.append(training)
        if held_out:
            cast.held_out.append(held_out)
    return cast


def episodes(
    sources: Sequence[People], shots: int, stream: Stream, workers: int
) -> Iterator[Episode]:
    """Episodes for ever: step `stream.start` and all that follow.

    Args:
        sources: people to train on.
        shots: K.
        stream: whose steps; its batch counts persons.
        workers: processes that read and draw; 0 does it in this one.

    Raises:
        PgnError: later: many persons in a row who cannot be read.
    """
    steps = partial(_episodes, sources, shots, stream)
    return stream_steps(steps, stream.start, workers)


def _episodes(
    sources: Sequence[People], shots: int, stream: Stream, first: int, every: int
) -> Iterator[Episode]:
    """Step `first` and every `every`-th that follows."""
    firsts = list(accumulate((len(people) for people in sources), initial=0))
    for step in count(first, every):
        before = [len(people.skipped) for people in sources]
        generator = _generator(stream, step)
        persons, images, landmarks = [], [], []
        for _ in range(stream.batch):
            source = int(torch.randint(len(sources), (), generator=generator))
            index, person = sources[source].draw(generator)
            frames = few_shot(person, generator, shots + 1)
            persons.append(firsts[source] + index)
            images.append(person.images[frames])
            landmarks.append(person.landmarks[frames])
        size = images[0].shape[-1]
        drawn = draw(torch.cat(landmarks), size).view(stream.batch, -1, 3, size, size)
        together = zip(sources, before, strict=True)
        skipped = [name for people, known in together for name in people.skipped[known:]]
        yield Episode(torch.tensor(persons), torch.stack(images), drawn, skipped)


def _generator(stream: Stream, step: int) -> torch.Generator:
    """The random numbers of a step of one process."""
    sequence = np.random.SeedSequence((*b"episode", stream.seed, stream.rank, step))
    seed = int(sequence.generate_state(1, np.uint64)[0] >> 1)  # torch takes 63 bits
    return torch.Generator().manual_seed(seed)


def _with_frames(people: People, count: int) -> People:
    """The same people; those with fewer than `count` frames cannot be read."""
    return People({name: partial(_enough, read, count) for name, read in people.readers.items()})


def _enough(read: Reader, count: int) -> Person:
    person = read()
    if len(person.images) < count:
        raise PgnError(
            f"got {len(person.images)} frames, expected {count}: shots, and one to draw. Give more "
            f"photos, or --set shots=N with a smaller N."
        )
    return person
