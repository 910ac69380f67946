"""Whom a study of talking heads fits: persons of folders and videos, and synthetic ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pgn import command
from pgn.avatar.options import SYNTHETIC
from pgn.avatar.people import Person
from pgn.avatar.readers import person_names, read_people
from pgn.avatar.rendered import HELD_OUT, rendered_person
from pgn.errors import PgnError, unknown_name
from pgn.evaluate.heads import Sitter, seat


def synthetic_sitters(count: int, frames: int, size: int) -> list[Sitter]:
    """The first `count` rendered persons of whom training sees none."""
    seeds = range(HELD_OUT, HELD_OUT + count)
    return [seat(rendered_person(seed, 2 * frames, size), frames) for seed in seeds]


def read_sitters(
    sources: Sequence[Path], wanted: Sequence[str], frames: int, size: int
) -> list[Sitter]:
    """The persons `wanted`, or all, of sources as `pgn.avatar.readers` takes them.

    Frames that cannot be used are named on stderr; so are persons, where none were asked for by
    name.

    Raises:
        PgnError: a source, a name or a wanted person that is not there; the same name twice; a
            person with fewer than 2 * `frames` usable frames.
    """
    sources_people = [read_people(source, size, 2 * frames) for source in sources]
    names = [name for people in sources_people for name in people.names]
    for name in wanted:
        if name not in names:
            raise unknown_name("--person", name, names)
    _check_unique([name for name in names if not wanted or name in wanted])
    persons: list[Person] = []
    for people in sources_people:
        if wanted:
            persons += [people[i] for i, name in enumerate(people.names) if name in wanted]
        else:
            persons += people
        for skipped in people.skipped:
            command.stderr.print(f"skipped: {skipped}", soft_wrap=True, markup=False)
    return [seat(person, frames) for person in persons]


def perhaps_trained_on(info: Mapping[str, Any], sources: Sequence[Path]) -> list[str]:
    """Names of persons in `sources` whom the training of an avatar with this `info` may have seen.

    A checkpoint tells the names of its sources and of the persons held out. A person is taken for
    one of the training's where a folder of a recorded name is on the way to it, also on another
    machine, and its name was not held out.
    """
    training = info.get("training")
    recorded = {Path(name).name for name in _strings(training, "data")} - {SYNTHETIC}
    known = [source for source in sources if recorded & set(source.resolve().parts)]
    names = [name for source in known for name in person_names(source)]
    held_out = _strings(training, "holdout")
    return [name for name in names if name not in held_out]


def _strings(record: Any, key: str) -> list[str]:
    """A list of names in a checkpoint's metadata, which may be anybody's."""
    found = record.get(key) if isinstance(record, dict) else None
    return [item for item in found if isinstance(item, str)] if isinstance(found, list) else []


def _check_unique(names: Sequence[str]) -> None:
    for name, uses in Counter(names).items():
        if uses > 1:
            raise PgnError(
                f"--data: {uses} persons are called '{name}'. Rename the folder of one of them."
            )
