"""What `pgn-train` shows of a run on stderr: its settings, a bar, a line for every report."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Protocol, TypeVar

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pgn import command
from pgn.distill.options import RunOptions
from pgn.distill.settings import to_toml


class _Counted(Protocol):
    @property
    def images(self) -> int: ...


Figures = TypeVar("Figures", bound=_Counted)


@contextlib.contextmanager
def progress(
    options: RunOptions, line: Callable[[Figures], str]
) -> Iterator[Callable[[Figures], None]]:
    """A bar over all images; what it gives is called with figures, whose `line` is printed."""
    columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=command.stderr) as bar:
        task = bar.add_task("images", total=options.steps * options.world_batch)

        def report(figures: Figures) -> None:
            bar.update(task, completed=figures.images)
            bar.console.print(line(figures))

        yield report


def show_dry_run(options: RunOptions, seconds_per_step: Callable[[], float]) -> None:
    """Settings on stdout; on stderr how long a run would take, where there is data to try it on."""
    typer.echo(to_toml(options))
    _tell_rounding(options)
    if options.data:
        seconds = seconds_per_step() * options.steps
        command.stderr.print(f"about {timedelta(seconds=round(seconds))} on this machine")
    else:
        command.stderr.print("give --data for an estimate of the time")


def show_settings(options: RunOptions) -> None:
    """What a run begins with, on stderr."""
    command.stderr.print(to_toml(options), highlight=False, markup=False)
    _tell_rounding(options)


def _tell_rounding(options: RunOptions) -> None:
    """Say where the images are no whole number of steps."""
    seen = options.steps * options.world_batch
    if seen != options.images:
        command.stderr.print(
            f"images: {seen} of {options.images} will be seen: {options.steps} steps of "
            f"{options.world_batch}",
            soft_wrap=True,
            highlight=False,
        )
