"""What the commands of studies share: a bar over the fits, and what they refuse and tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pgn import command
from pgn.errors import PgnError
from pgn.evaluate.lpips_metrics import LPIPS_FILES


class _Named(Protocol):
    @property
    def name(self) -> str: ...


Case = TypeVar("Case", bound=_Named)
Run = TypeVar("Run", bound=_Named)


def each_fit(
    missing: Sequence[tuple[Case, Run]], steps: int
) -> Iterator[tuple[Case, Run, Callable[[], None]]]:
    """The fits that are to be made, with a bar over all their steps on stderr.

    Each comes with what advances the bar by a step; a fit that stops early has all of its steps.
    """
    if not missing:
        return
    label = TextColumn("{task.description}", markup=False)  # names are a user's
    columns = (label, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=command.stderr) as progress:
        task = progress.add_task("steps", total=len(missing) * steps)
        for done, (case, run) in enumerate(missing, start=1):
            progress.update(task, description=f"{case.name} {run.name}")
            yield case, run, partial(progress.advance, task)
            progress.update(task, completed=done * steps)


def check_names(flag: str, names: Sequence[str]) -> None:
    """See that runs, and other pictures of a study, can be told apart.

    Raises:
        PgnError: two have one name.
    """
    name, uses = Counter(names).most_common(1)[0]
    if uses > 1:
        raise PgnError(
            f"{flag}: more than one run would be called '{name}'. Give each only once; rename one "
            f"of two checkpoints with the same name."
        )


def tell_left_out(reason: str, measured: Sequence[str]) -> None:
    """Say why LPIPS is not among the figures `measured`, where it is not."""
    if reason and not set(LPIPS_FILES) <= set(measured):
        command.stderr.print(reason, soft_wrap=True, highlight=False, markup=False)
