"""`pgn-train`: distil a perceptual loss into a PGN from a folder of photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pgn import command
from pgn.distill.loop import Figures, distil
from pgn.distill.options import DistillOptions, options_for

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def train(
    data: Annotated[Path, typer.Option(help="Folder of photos.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the run.")],
    backbone: Annotated[
        str, typer.Option(help="lite, resnet4, resnet6, resnet8, unet.")
    ] = DistillOptions.backbone,
    teacher: Annotated[str, typer.Option(help="vgg19, vgg16, vgg11.")] = DistillOptions.teacher,
    weights: Annotated[
        str | None, typer.Option(help="Teacher's: oxford, torchvision or a file.")
    ] = None,
    images: Annotated[int, typer.Option(help="Crops to see in all.")] = DistillOptions.images,
    batch: Annotated[
        int, typer.Option(help="Crops a step, a multiple of 3.")
    ] = DistillOptions.batch,
    crop: Annotated[int, typer.Option(help="Pixels of a crop's side.")] = DistillOptions.crop,
    learning_rate: Annotated[
        float, typer.Option(help="Peak; falls along a cosine.")
    ] = DistillOptions.learning_rate,
    seed: Annotated[int, typer.Option(help="Of crops and random weights.")] = DistillOptions.seed,
    precision: Annotated[
        str, typer.Option(help="Of the teacher: bf16 or fp32.")
    ] = DistillOptions.precision,
    licence: Annotated[
        str, typer.Option(help="Of the weights, for their card.")
    ] = DistillOptions.licence,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a killed run.")] = False,
) -> None:
    """Distil a perceptual loss into a PGN. Progress on stderr, the checkpoint's path on stdout."""
    options = options_for(
        backbone,
        data=data,
        output=output,
        teacher=teacher,
        weights=weights,
        images=images,
        batch=batch,
        crop=crop,
        learning_rate=learning_rate,
        seed=seed,
        precision=precision,
        licence=licence,
    )
    columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=command.stderr) as progress:
        task = progress.add_task("images", total=options.steps * options.batch)

        def report(figures: Figures) -> None:
            progress.update(task, completed=figures.images)
            progress.console.print(_line(figures))

        path = distil(options, report, resume=resume)
    typer.echo(path)


def _line(figures: Figures) -> str:
    l1 = " ".join(f"{value:.3f}" for value in figures.autoencoder_l1)
    return (
        f"images {figures.images:>7}  loss {figures.loss:.4f}  cosine {figures.cosine:.3f}  "
        f"autoencoder L1 {l1}  {figures.images_per_second:.1f} images/s"
    )


def main() -> None:
    """Entry point of `pgn-train`."""
    command.run(app)
