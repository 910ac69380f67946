"""Lists of names on the command line."""

from __future__ import annotations

from pgn.errors import unknown_name


def parse_names(flag: str, text: str, known: tuple[str, ...]) -> list[str]:
    """A comma list or "all" to names, in order, each once.

    Raises:
        PgnError: a name that is none of `known`.
    """
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in (*known, "all"):
            raise unknown_name(flag, name, [*known, "all"])
    return list(known) if "all" in names else list(dict.fromkeys(names))
