"""`pgn-bench train`: how fast our distillation loop is, beside the plain one."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.progress import Progress
from rich.table import Table

from pgn import command
from pgn.distill import bank, recipes
from pgn.distill.options import DistillOptions
from pgn.errors import PgnError
from pgn_bench.flags import AsJson, Output, deliver
from pgn_bench.results import Result, Row, machine_name
from pgn_bench.timing import machine
from pgn_bench.train import PLAIN, Comparison, compare_loops, rounds

SETTINGS: list[str] = []  # typer takes the default of a repeatable option as a list


def train_command(
    data: Annotated[str, typer.Option(help="Folder of photos, or tar shards.")],
    recipe: Annotated[
        str, typer.Option(help=f"{', '.join(recipes.NAMES)}, or a TOML file.")
    ] = "lite-cpu",
    settings: Annotated[
        list[str], typer.Option("--set", help="Any setting: --set backbone=unet.")
    ] = SETTINGS,
    steps: Annotated[int, typer.Option(help="Timed steps of each loop.", min=1)] = 12,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Time steps of our distillation loop, with and without replay, and of the plain loop.

    The plain loop is float32, NCHW, Adam, without replay. Photos are decoded before the clock
    runs. Both must compute the same teacher gradient.
    """
    if bank.is_bank(data):
        raise PgnError(f"--data: got {data}, the bank of a run. Give a folder of photos or shards.")
    chosen = recipes.resolve(recipe, {}, settings)
    options = DistillOptions(data=data, output=Path("runs"), **chosen)
    with Progress(console=command.stderr) as progress:
        task = progress.add_task("rounds", total=rounds(steps))
        found = compare_loops(options, steps, lambda: progress.advance(task))
    result = _result(recipe, options, found)
    deliver(result, output, as_json, partial(_print, options, found))


def _result(recipe: str, options: DistillOptions, found: Comparison) -> Result:
    rows = [
        Row(
            provider=name,
            runtime="torch",
            device=found.device,
            size=options.crop,
            batch=options.batch,
            threads=torch.get_num_threads(),
            dtype="fp32" if name == PLAIN else found.precision,
            median_ms=speed.step.median_ms,
            p10_ms=speed.step.p10_ms,
            p90_ms=speed.step.p90_ms,
            calls=speed.step.calls,
            cpu_ms=speed.step.cpu_ms,
            noisy=speed.step.noisy,
            details={
                "new_images_per_second": speed.new_per_second,
                "learnt_images_per_second": speed.learnt_per_second,
                **found.times(name),
            },
        )
        for name, speed in found.speeds.items()
    ]
    settings = {"recipe": recipe, "teacher_cosine": found.teacher_cosine, **options.identity()}
    return Result("train", machine(), rows, settings)


def _print(options: DistillOptions, found: Comparison, result: Result) -> None:
    table = Table("loop", "step, ms", "p90", "new images/s", "times", "updates/s", "times")
    for name, speed in found.speeds.items():
        times = found.times(name)
        table.add_row(
            name,
            f"{speed.step.median_ms:.0f}",
            f"{speed.step.p90_ms:.0f}",
            f"{speed.new_per_second:.1f}",
            f"{times['times_new']:.2f}",
            f"{speed.learnt_per_second:.1f}",
            f"{times['times_learnt']:.2f}",
        )
    command.stdout(100).print(table)
    typer.echo(
        f"{machine_name(result.machine)}, {found.device}, {torch.get_num_threads()} threads; "
        f"{options.backbone}, batches of {options.batch} crops of {options.crop}x{options.crop}; "
        f"ours in {found.precision}, cosine of its teacher's gradient {found.teacher_cosine:.4f}"
    )
