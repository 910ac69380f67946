"""What several commands of `pgn-bench` take, and how all of them end."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from pgn import GateError, PgnError, command
from pgn.errors import unknown_name
from pgn.files import check_folder
from pgn_bench.providers import LOSSES
from pgn_bench.results import Result, save
from pgn_bench.timing import noise_warning

NO_WEIGHTS: list[str] = []  # typer takes the default of a repeatable option as a list

Checkpoints = Annotated[
    list[str],
    typer.Option(
        "--checkpoint", help="Bundled name or file; a backbone's name: untrained. Repeat."
    ),
]
Weights = Annotated[
    list[str],
    typer.Option(
        "--weights", metavar="LOSS=WEIGHTS", help=f"Of {', '.join(LOSSES)}; else random ones."
    ),
]
Threads = Annotated[int, typer.Option("--threads", help="Of every runtime.", min=1, max=256)]


def _checked(path: Path | None) -> Path | None:
    """Before minutes of work: can the file be written?"""
    if path is not None:
        if path.is_dir():
            raise PgnError(f"--output: {path} is a folder, expected a file, as {path}/result.json.")
        check_folder(path.parent)
    return path


Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="Result file, for pgn-bench report.", callback=_checked),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]


def deliver(
    result: Result,
    output: Path | None,
    as_json: bool,
    show: Callable[[Result], None],
    left_out: Mapping[str, ValueError] | None = None,
) -> None:
    """Print the result, tell what is not in it, warn of noise; write it where that is asked for.

    Args:
        left_out: by label, why something was not measured; it goes into the result's settings.

    Raises:
        PgnError: the file cannot be written.
        GateError: something was left out because it gave a wrong gradient.
    """
    if left_out is not None:
        told = {label: str(error) for label, error in left_out.items()}
        result = replace(result, settings=result.settings | {"left_out": told})
    if as_json:
        typer.echo(json.dumps(result.plain(), indent=2))
    else:
        show(result)
    for label, reason in result.settings.get("left_out", {}).items():
        tell(f"{label} is left out: {reason}")
    if warning := noise_warning([bool(row.noisy) for row in result.rows]):
        tell(warning)
    if output:
        save(result, output)
    for error in (left_out or {}).values():
        if isinstance(error, GateError):
            raise error


def tell(text: str) -> None:
    """One line on stderr."""
    command.stderr.print(text, soft_wrap=True, markup=False, highlight=False)


def mega(count: int | None) -> str:
    """Bytes as megabytes for a table."""
    return "-" if count is None else f"{count / 1e6:.1f}"


def parse_counts(flag: str, text: str, least: int, most: int) -> list[int]:
    """ "1,2" to [1, 2], each once.

    Raises:
        PgnError: anything but a comma list of `least` to `most`.
    """
    found = [int(part) if part.strip().isdecimal() else -1 for part in text.split(",")]
    if not all(least <= count <= most for count in found):
        raise PgnError(f"{flag}: got '{text}', expected {least} to {most}, or a comma list.")
    return list(dict.fromkeys(found))


def parse_weights(pairs: Sequence[str]) -> dict[str, str]:
    """["vgg16=FILE"] to {"vgg16": "FILE"}.

    Raises:
        PgnError: no such pair, or no such loss.
    """
    found = dict(pair.partition("=")[::2] for pair in pairs)
    for name, value in found.items():
        if name not in LOSSES:
            raise unknown_name("--weights", name, LOSSES)
        if not value:
            raise PgnError(f"--weights: got '{name}', expected LOSS=WEIGHTS, as {name}=FILE.")
    return found
