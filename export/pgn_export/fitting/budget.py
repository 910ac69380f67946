"""A fit that keeps to a budget of memory: how much of the generator, how many photos at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pgn import PgnError

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True)
class Choice:
    """What is trained, and the photos at a time."""

    preset: str
    microbatch: int
    peak: int  # bytes, as predicted

    def __str__(self) -> str:
        return f"--trainable {self.preset} --microbatch {self.microbatch}: {in_words(self.peak)}"


def fit_budget(
    predict: Callable[[str, int], int],
    budget: int,
    microbatches: Sequence[int],
    presets: Sequence[str],
) -> Choice:
    """The largest micro-batch with which the first preset fits.

    Args:
        predict: bytes that a fit takes, from preset and micro-batch; it is asked as seldom as can
            be, for it may have to convert a graph.
        budget: bytes.
        presets: the wished one, and others to suggest.

    Raises:
        PgnError: the wished one does not fit; what all others take is told.
    """
    wished, *others = presets
    tried = []
    for microbatch in sorted(microbatches, reverse=True):
        tried.append(Choice(wished, microbatch, predict(wished, microbatch)))
        if tried[-1].peak <= budget:
            return tried[-1]
    smallest = min(microbatches)
    tried += [Choice(preset, smallest, predict(preset, smallest)) for preset in others]
    fitting = [str(choice) for choice in tried if choice.peak <= budget]
    way_out = f"Take {' or '.join(fitting)}." if fitting else "Nothing fits: raise the budget."
    raise PgnError(
        f"memory-budget: got {in_words(budget)}, expected room for one of "
        f"{'; '.join(map(str, tried))}. {way_out}"
    )


def parse_bytes(text: str) -> int:
    """Bytes from a size as people write it: 300MB, 1.5 GiB.

    Raises:
        PgnError: it is no size, or none of at least one byte.
    """
    found = re.fullmatch(
        r"(\d{1,15}(?:\.\d{1,15})?)\s*([a-z]+)", text.strip(), re.IGNORECASE | re.ASCII
    )
    unit = UNITS.get(found[2].upper()) if found else None
    size = int(float(found[1]) * unit) if found and unit else 0
    if size < 1:
        raise PgnError(
            f"memory-budget: got '{text:.40}', expected a number and a unit, such as 300MB or "
            f"1.5GiB."
        )
    return size


def in_words(size: int) -> str:
    """Bytes as people read them."""
    return f"{size / 10**6:.0f} MB"
