"""Errors that a user can cause: our commands print the message and leave with `exit_code`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PgnError(ValueError):
    """Bad input or wrong usage: the message says what came, what was expected and the way out."""

    exit_code = 2


class ConversionError(PgnError):
    """A converter or a runtime failed on a graph of ours."""

    exit_code = 3


class GateError(PgnError):
    """A figure lies below its gate: the artifact would mislead an optimiser."""

    exit_code = 4


class MissingExtraError(PgnError):
    """A package of an optional extra is not installed; the message holds the install line."""

    exit_code = 5

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f'{package} is not installed. Install it: pip install "pgn-edge[{extra}]"')


def unknown_name(kind: str, name: str, known: Iterable[str]) -> PgnError:
    """The error for a name that is none of `known`, with the nearest right one suggested."""
    known = list(known)
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean '{nearest[0]}'?" if nearest else ""
    return PgnError(f"{kind}: got '{name}', expected one of {', '.join(known)}.{hint}")
