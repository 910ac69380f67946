"""`pgn-export avatar`: a generator and a PGN as one pack that a device fits to a person."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

import pgn
from pgn import PgnError, command
from pgn.avatar.checkpoint import BUNDLED
from pgn.avatar.generator import TRAINABLE
from pgn.plugins import blame, import_callable
from pgn_export.choices import parse_names
from pgn_export.exporting import TARGETS
from pgn_export.fitting.budget import fit_budget, in_words, parse_bytes
from pgn_export.fitting.pack import SUFFIX, Packing, PackOptions, predicted_peak, write
from pgn_export.fitting.subject import Subject, of_avatar, of_generator
from pgn_export.graph import Size
from pgn_export.sizes import parse_sizes

DEFAULTS = PackOptions()
MICROBATCHES = (1, 2, 4, 8)  # that eight photos divide into
PRESETS = ", ".join(TRAINABLE)


def avatar_command(
    target: Annotated[
        str, typer.Option(help="onnx, tflite, coreml, a comma list, or all.")
    ] = "onnx",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The pack. [default: NAME.pgnpack]")
    ] = None,
    generator: Annotated[
        str,
        typer.Option(
            help="Avatar, bundled name or file; or module:callable, which gives a torch module "
            "that draws an image (N, 3, H, W) for a condition (N, 3, H, W)."
        ),
    ] = BUNDLED[0],
    network: Annotated[
        str, typer.Option("--pgn", help="Bundled name or file of the PGN.")
    ] = "pgn-lite",
    trainable: Annotated[
        str, typer.Option(help=f"{PRESETS}, or patterns of parameters' names, with commas.")
    ] = DEFAULTS.trainable,
    microbatch: Annotated[
        int, typer.Option(min=1, help="Photos at a time: memory against calls.")
    ] = DEFAULTS.microbatch,
    mse_weight: Annotated[
        float, typer.Option(help="Of the MSE term beside the PGN.")
    ] = DEFAULTS.mse_weight,
    learning_rate: Annotated[
        float, typer.Option(help="Of Adam; a device may choose another.")
    ] = DEFAULTS.learning_rate,
    memory_budget: Annotated[
        str,
        typer.Option(
            help="Such as 300MB: the largest micro-batch that fits, instead of --microbatch."
        ),
    ] = "",
    size: Annotated[
        str, typer.Option(help="Pixels, of a module:callable; an avatar has its own.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest.")] = False,
) -> None:
    """Pack a generator for pgn-fit: the whole fitting step as plain graphs, proved by autograd."""
    subject = _subject(generator, size)
    options = PackOptions(trainable, microbatch, mse_weight, learning_rate)
    packing = Packing(subject, pgn.load(network), Path(network).stem, options)
    folder = output or Path(f"{subject.name}{SUFFIX}")
    targets = parse_names("--target", target, TARGETS)
    with command.stderr.status("") as status:
        if memory_budget:
            status.update("looking for the largest micro-batch")
            packing = _within(packing, targets, parse_bytes(memory_budget))
        manifest = write(packing, targets, folder, lambda file: status.update(f"making {file}"))
    if as_json:
        typer.echo(json.dumps(manifest, indent=2))
        return
    _print(manifest, folder)
    typer.echo(f"Next: pgn-fit {folder} PHOTOS -o person")


def _subject(generator: str, size: str) -> Subject:
    if ":" not in generator:
        if size:
            raise PgnError(f"--size: got {size}, but an avatar has its own. Leave it out.")
        return of_avatar(generator)
    with blame("generator", generator, "Expected a callable without arguments."):
        made = import_callable("generator", generator)()
    return of_generator(made, generator.split(":")[1], _one_size(size))


def _one_size(text: str) -> Size:
    sizes = parse_sizes(text or "128")
    if len(sizes) > 1:
        raise PgnError(f"--size: got {text}, expected one: a pack has one size.")
    return sizes[0]


def _within(packing: Packing, targets: list[str], budget: int) -> Packing:
    """The same with the largest micro-batch with which every target keeps to the budget."""

    def changed(trainable: str, microbatch: int) -> Packing:
        options = replace(packing.options, trainable=trainable, microbatch=microbatch)
        return replace(packing, options=options)

    def predict(trainable: str, microbatch: int) -> int:
        wanted = changed(trainable, microbatch)
        return max(predicted_peak(wanted, target) for target in targets)

    wished = packing.options.trainable
    others = [name for name in TRAINABLE if name != wished] if packing.subject.personal else []
    choice = fit_budget(predict, budget, MICROBATCHES, [wished, *others])
    return changed(choice.preset, choice.microbatch)


def _print(manifest: dict[str, Any], folder: Path) -> None:
    parameters = manifest["trainable"]["parameters"]
    typer.echo(
        f"{folder}: {manifest['trainable']['count']:,} trained numbers in {len(parameters)} "
        f"parameters, {manifest['size'][0]}x{manifest['size'][1]}, {manifest['microbatch']} "
        f"photo(s) at a time"
    )
    for name, size in manifest["memory"]["peak_bytes"].items():
        typer.echo(f"  {name}: about {in_words(size)} for {manifest['memory']['photos']} photos")
    table = Table("first step in", "cosine", "relative L2", "worst pixel", "worst update")
    for row in manifest["agreement"]:
        table.add_row(
            row["runtime"],
            f"{row['cosine']:.7f}",
            f"{row['relative_l2']:.0e}",
            f"{row['image_error']:.0e}",
            f"{row['update_error']:.0e}",
        )
    command.stdout().print(table)
