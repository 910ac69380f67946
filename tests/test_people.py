"""Persons are read when drawn, and kept; shots are distinct; nobody is on both sides of a split."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pgn import PgnError
from pgn.avatar.landmarks import POINTS
from pgn.avatar.people import ATTEMPTS, People, Person, few_shot, split
from pgn.errors import MissingExtraError

SIZE = 32


def person(name: str, frames: int = 3, skipped: tuple[str, ...] = ()) -> Person:
    images = torch.zeros(frames, 3, SIZE, SIZE, dtype=torch.uint8)
    return Person(name, images, torch.zeros(frames, len(POINTS), 2), skipped)


def broken() -> Person:
    raise PgnError("nothing in it")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_person_is_read_when_first_asked_for_and_kept() -> None:
    reads: list[str] = []

    def read(name: str) -> Person:
        reads.append(name)
        return person(name, skipped=("frame 3 (dark)",))

    people = People({name: partial(read, name) for name in "abc"})
    assert (len(people), reads) == (3, [])
    assert people[1] is people[1]
    assert reads == ["b"] and people.skipped == ["frame 3 (dark)"]
    assert [one.name for one in people] == ["a", "b", "c"]
    assert sorted(reads) == ["a", "b", "c"]


def test_draws_pass_over_the_unreadable_and_depend_on_the_generator_alone() -> None:
    names = "abcdefgh"
    readers = {name: broken if name in "bdf" else partial(person, name) for name in names}
    people, other = People(readers), People(readers)
    random = generator(1)
    states = [(random.get_state(), people.draw(random)) for _ in range(60)]
    drawn = [found for _, (index, found) in states if people.names[index] == found.name]
    assert len(drawn) == 60 and {one.name for one in drawn} == set("aceghe")
    for state, (index, found) in reversed(states):  # with another history
        random.set_state(state)
        again = other.draw(random)
        assert (again[0], again[1].name) == (index, found.name)
    assert sorted(people.skipped) == [f"{name} (nothing in it)" for name in "bdf"]
    assert [one.name for one in people] == list("acegh")
    with pytest.raises(PgnError, match="nothing in it"):
        people[1]


def test_a_broken_source_is_refused() -> None:
    people = People({str(number): broken for number in range(ATTEMPTS + 5)})
    with pytest.raises(PgnError, match=f"{ATTEMPTS} in a row .* last was .* \\(nothing in it\\)"):
        people.draw(generator())
    assert len(people.skipped) == ATTEMPTS


def test_a_missing_package_is_no_fault_of_a_person() -> None:
    def missing() -> Person:
        raise MissingExtraError("av", "avatar")

    people = People({"a": missing})
    for use in (lambda: people[0], lambda: people.draw(generator()), lambda: list(people)):
        with pytest.raises(MissingExtraError, match=r"pgn-edge\[avatar\]"):
            use()
    assert people.skipped == []


@given(frames=st.integers(1, 20), data=st.data())
def test_few_shots_are_distinct_frames(frames: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, frames))
    indices = few_shot(person("a", frames), generator(frames), count)
    assert indices.shape == (count,) and len(set(indices.tolist())) == count
    assert set(indices.tolist()) <= set(range(frames))
    assert torch.equal(indices, few_shot(person("a", frames), generator(frames), count))


def test_each_frame_is_drawn_as_often() -> None:
    one, random = person("a", 5), generator()
    times = torch.zeros(5)
    for _ in range(1000):
        times[few_shot(one, random, 2)] += 1
    assert (times - 400).abs().max() < 4 * math.sqrt(1000 * 0.4 * 0.6), times


@pytest.mark.parametrize("count", [0, 4, -1])
def test_fewer_photos_than_asked_are_refused(count: int) -> None:
    with pytest.raises(PgnError, match=rf"got {count} to draw of anna, expected 1 to 3"):
        few_shot(person("anna"), generator(), count)


@given(count=st.integers(2, 30), share=st.floats(0.01, 0.99), seed=st.integers(0, 9))
def test_nobody_is_on_both_sides(count: int, share: float, seed: int) -> None:
    wanted = max(1, round(share * count))
    people = People({f"p{number}": broken for number in range(count)})
    if wanted == count:
        with pytest.raises(PgnError, match="or more left to train on"):
            split(people, share, seed)
        return
    training, held_out = split(people, share, seed)
    assert len(held_out) == wanted
    assert sorted(training.names + held_out.names) == sorted(people.names)
    shuffled = People(dict.fromkeys(reversed(people.names), broken))
    assert set(split(shuffled, share, seed)[1].names) == set(held_out.names)


def test_seeds_hold_out_others() -> None:
    people = People({f"p{number}": broken for number in range(30)})
    assert len({tuple(split(people, 0.2, seed)[1].names) for seed in range(5)}) == 5


def test_names_are_held_out() -> None:
    people = People({name: partial(person, name) for name in ("ann", "ben", "cleo")})
    training, held_out = split(people, ["cleo", "ann"])
    assert [one.name for one in training] == ["ben"]
    assert [one.name for one in held_out] == ["ann", "cleo"]


@pytest.mark.parametrize(
    ("holdout", "message"),
    [
        (["clea"], "expected one of ann, cleo. Did you mean 'cleo'"),
        ([], "got 0 of 2"),
        (["ann", "cleo"], "got 2 of 2"),
        (1.5, "got 1.5, expected names, or a share"),
        (0, "got 0, expected"),
        (math.nan, "got nan"),
    ],
)
def test_a_bad_holdout_is_refused(holdout: list[str] | float, message: str) -> None:
    with pytest.raises(PgnError, match=message):
        split(People({"ann": broken, "cleo": broken}), holdout)
