"""Seeded mutations of bytes and of JSON, and trials that end in a result or an error of ours."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from hostile import OURS


def mutated(content: bytes, random: Random) -> bytes:
    """One to three changes; half of them near the start, where formats keep their structure."""
    data = bytearray(content)
    for _ in range(random.randint(1, 3)):
        end = len(data) if random.random() < 0.5 else min(len(data), 2000)
        place, size = random.randrange(max(end, 1)), random.choice((1, 4, 8, 64))
        kind = random.choice(("bits", "bits", "extreme", "cut", "swap", "repeat", "drop"))
        if kind == "bits" and place < len(data):
            data[place] ^= 1 << random.randrange(8)
        elif kind == "extreme":
            data[place : place + size] = random.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * size
        elif kind == "cut":
            del data[place:]
        elif kind == "swap":
            other = random.randrange(max(len(data), 1))
            block = data[place : place + size]
            data[place : place + size] = data[other : other + size]
            data[other : other + size] = block
        elif kind == "repeat":
            data[place:place] = data[place : place + size]
        elif kind == "drop":
            del data[place : place + size]
    return bytes(data)


HOSTILE: tuple[Any, ...] = (
    None, True, -1, 0, 3.5, 2**62, 1e300, math.nan, math.inf, "", "x" * 10_000, "..", "../x",
    "/etc/passwd", "\0", "\ud800", [], {}, [[[[]]]], {"a": {"b": None}}, ["proxy"],
)  # fmt: skip


def edited(document: Any, random: Random) -> Any:
    """The JSON document with one part of it replaced, removed or renamed, at any depth."""
    if isinstance(document, (dict, list)) and document and random.random() < 0.8:
        keys = list(document) if isinstance(document, dict) else range(len(document))
        key = random.choice(keys)
        kind = random.random()
        if kind < 0.8:
            document[key] = edited(document[key], random)
        elif kind < 0.9 or isinstance(document, list):
            del document[key]
        else:
            document[random.choice(("", "..", "../x", "graph.onnx"))] = document.pop(key)
        return document
    return random.choice(HOSTILE)


def trials(count: int) -> Iterator[Random]:
    """Random numbers for each trial, the same in every run."""
    for number in range(count):
        yield Random(number)


def try_all(count: int, trial: Callable[[Random], object]) -> Counter[str]:
    """What the trials came to; anything but a result or an error of ours is a hole."""
    found: Counter[str] = Counter()
    holes = []
    for number, random in enumerate(trials(count)):
        try:
            trial(random)
            found["accepted"] += 1
        except OURS as error:
            assert error.exit_code in (2, 3, 4)
            found["refused"] += 1
        except Exception as error:
            holes.append(f"{number}: {type(error).__name__}: {str(error)[:200]}")
    assert not holes, f"{len(holes)} of {count}:\n" + "\n".join(holes[:10])
    return found
