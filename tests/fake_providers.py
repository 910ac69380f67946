"""Providers that cost nothing, for the tests of commands that time gradients."""

from __future__ import annotations

from functools import partial
from typing import Any

from typer.testing import CliRunner

from pgn_bench.cli import app
from pgn_bench.gradient import photo_task
from pgn_bench.memory import Footprint
from pgn_bench.providers_catalogue import Cost, Provider, Way
from pgn_bench.providers_exported import Call, Task

FOOTPRINT = Footprint(1000.0, 10.0, 2_000_000)
TASK = photo_task(32, 1, "cpu")


def bench(*words: object) -> Any:
    """`pgn-bench WORDS`."""
    return CliRunner().invoke(app, list(map(str, words)))


def pulls(scale: float, task: Task) -> Call:
    """A gradient towards the target; of a negative scale a wrong one."""
    return lambda: scale * (task.generated - task.target)


def provider(name: str, *scales: float, random: bool = False) -> Provider:
    """A way for each scale; the reference has 1."""
    cost = Cost(1_000_000, 5_000_000, 300)
    ways = [Way(f"way {s}", "fp32", partial(pulls, s), cost) for s in scales]
    return Provider(name, partial(pulls, 1.0), 1000, random, ways)
