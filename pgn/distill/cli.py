"""`pgn-train`: distil a loss into a PGN, by a recipe, from photos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pgn import command
from pgn.avatar.cli import avatar_command
from pgn.distill import bank, recipes
from pgn.distill.options import DistillOptions
from pgn.distill.progress import progress, show_dry_run, show_settings
from pgn.errors import PgnError
from pgn.teachers import NAMES
from pgn.teachers.pixelwise import LOSSES

if TYPE_CHECKING:  # lightning takes seconds to import: --help and wrong settings do not wait
    from pgn.distill.loop import Figures

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def train(
    context: typer.Context,
    recipe: Annotated[
        str, typer.Option(help=f"{', '.join(recipes.NAMES)}, or a TOML file.")
    ] = "lite-cpu",
    data: Annotated[
        str,
        typer.Option(help="Folder of photos, tar shards (train-{000..127}.tar), or a run's bank."),
    ] = "",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of the run.")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help=f"{', '.join((*NAMES, *LOSSES))}, module:callable."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Teacher's: oxford, torchvision or a file.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="lite, nano, resnet4, resnet6, resnet8, unet.")
    ] = None,
    head: Annotated[str | None, typer.Option(help="direct, proxy, constrained, hybrid.")] = None,
    images: Annotated[int | None, typer.Option(help="New crops to see in all.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting: --set learning_rate=5e-4.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a killed run.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the settings and the estimated time only.")
    ] = False,
) -> None:
    """Distil a loss into a PGN. Progress on stderr, the checkpoint's path on stdout.

    Several GPUs: --set devices=8; several nodes: --set nodes=2, started by torchrun on each.
    """
    if context.invoked_subcommand:
        return
    if not (dry_run or (data and output)):
        raise PgnError("pgn-train: expected --data PHOTOS and -o RUN (or --dry-run).")
    flags = {"teacher": teacher, "weights": weights, "backbone": backbone, "head": head}
    chosen = recipes.resolve(recipe, {**flags, "images": images}, settings or [])
    if bank.is_bank(data):  # nothing is observed, so there is nothing to keep
        chosen |= {"replay": 0, "bank": 0}
    options = DistillOptions(data=data, output=output or Path("runs"), **chosen)
    if data and not bank.is_bank(data):
        _check_source(data)
    if dry_run:
        show_dry_run(options, lambda: _seconds_per_step(options))
        return
    if not resume:
        show_settings(options)
    typer.echo(_train(options, resume))


app.command("avatar")(avatar_command)


def _train(options: DistillOptions, resume: bool) -> Path:
    from pgn.distill.loop import distil

    with progress(options, _line) as report:
        return distil(options, report, resume=resume)


def _check_source(data: str) -> None:
    from pgn.distill.data import check_source  # webdataset takes its time, too

    check_source(data)


def _seconds_per_step(options: DistillOptions) -> float:
    from pgn.distill.loop import seconds_per_step

    return seconds_per_step(options)


def _line(figures: Figures) -> str:
    l1 = " ".join(f"{value:.3f}" for value in figures.autoencoder_l1)
    return (
        f"images {figures.images:>7}  loss {figures.loss:.4f}  cosine {figures.cosine:.3f}  "
        f"{f'autoencoder L1 {l1}  ' if l1 else ''}{figures.images_per_second:.1f} images/s"
    )


def main() -> None:
    """Entry point of `pgn-train`."""
    command.run(app)
