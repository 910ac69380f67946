"""`pgn-train avatar`: meta-train a few-shot talking head, by a recipe, from people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pgn.avatar.options import AvatarOptions
from pgn.avatar.recipes import RECIPES
from pgn.distill.progress import progress, show_dry_run, show_settings
from pgn.errors import PgnError

if TYPE_CHECKING:  # lightning takes seconds to import: --help and wrong settings do not wait
    from pgn.avatar.loop import Figures


def avatar_command(
    recipe: Annotated[
        str, typer.Option(help=f"{', '.join(RECIPES.names)}, or a TOML file.")
    ] = "avatar-cpu",
    data: Annotated[
        str,
        typer.Option(help="synthetic, a folder of persons, a video, or several with commas."),
    ] = "",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of the run.")
    ] = None,
    holdout: Annotated[
        list[str] | None, typer.Option(help="A person never to train on; repeatable.")
    ] = None,
    images: Annotated[int | None, typer.Option(help="Images to draw in all.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting: --set shots=8.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a killed run.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the settings and the estimated time only.")
    ] = False,
) -> None:
    """Meta-train an avatar. Progress on stderr, previews in the run's folder, the checkpoint's
    path on stdout."""
    if not (dry_run or (data and output)):
        raise PgnError("pgn-train avatar: expected --data SOURCE and -o RUN (or --dry-run).")
    flags = {"holdout": holdout, "images": images}
    chosen = RECIPES.resolve(recipe, flags, settings or [])
    options = AvatarOptions(data=data, output=output or Path("runs"), **chosen)
    if data:
        _check_sources(options)
    if dry_run:
        show_dry_run(options, lambda: _seconds_per_step(options))
        return
    if not resume:
        show_settings(options)
    typer.echo(_train(options, resume))


def _train(options: AvatarOptions, resume: bool) -> Path:
    from pgn.avatar.loop import meta_train

    with progress(options, _line) as report:
        return meta_train(options, report, resume=resume)


def _check_sources(options: AvatarOptions) -> None:
    from pgn.avatar.episodes import check_sources

    check_sources(options)


def _seconds_per_step(options: AvatarOptions) -> float:
    from pgn.avatar.loop import seconds_per_step

    return seconds_per_step(options)


def _line(figures: Figures) -> str:
    losses = "  ".join(f"{name} {value:.4f}" for name, value in figures.losses.items())
    return f"images {figures.images:>7}  {losses}  {figures.images_per_second:.1f} images/s"
