"""`pgn-eval`: measure how good a PGN's gradient is."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from pgn import checkpoint as checkpoints
from pgn import command
from pgn.degrade import SUITE
from pgn.evaluate.alignment import Row, alignment, mean_cosine
from pgn.files import check_folder, find_images
from pgn.teachers import PerceptualLoss

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def evaluate() -> None:
    """Measure how good a PGN's gradient is."""


@app.command(name="alignment")
def alignment_command(
    images: Annotated[Path, typer.Option(help="Folder of photos that training never saw.")],
    checkpoint: Annotated[str, typer.Option(help="Bundled name or file.")] = "pgn-lite",
    size: Annotated[int, typer.Option(help="Pixels of the central crops.", min=32, max=2048)] = 224,
    weights: Annotated[
        str | None, typer.Option(help="Teacher's: oxford, torchvision or a file.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="Write a copy of the checkpoint with these figures.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Cosine with the exact VGG-19 gradient for blur, noise and JPEG, MSE's beside it."""
    if record:
        check_folder(record.parent)
    net = checkpoints.load(checkpoint)
    teacher = PerceptualLoss("vgg19", weights)
    paths = find_images(images)
    with Progress(console=command.stderr) as progress:
        task = progress.add_task("photos", total=len(paths))
        rows = alignment(net, teacher, paths, size, lambda: progress.advance(task))
    measured = _measured(rows, len(paths), size, teacher.source)
    if record:
        net.info["quality"] = measured
        checkpoints.save(net, record)
    if as_json:
        typer.echo(json.dumps(measured, indent=2, allow_nan=False))
    else:
        _print(rows)


def _measured(rows: list[Row], photos: int, size: int, teacher: str) -> dict[str, Any]:
    return {
        "measure": "cosine with the exact gradient",
        "teacher": teacher,
        "photos": photos,
        "size": size,
        "rows": [asdict(row) for row in rows],
        "mean_cosine": mean_cosine(rows),
    }


def _print(rows: list[Row]) -> None:
    table = Table("degradation", "cosine", "MSE's cosine", "norm ratio")
    for row in rows:
        figures = (row.cosine, row.mse_cosine, row.norm_ratio)
        table.add_row(row.degradation, *(f"{value:.3f}" for value in figures))
    names = ", ".join(SUITE)
    table.add_row(f"mean of {names}", f"{mean_cosine(rows):.3f}", style="bold")
    Console().print(table)


def main() -> None:
    """Entry point of `pgn-eval`."""
    command.run(app)
