"""`pgn-eval alignment`: how near a PGN's gradient is to the exact one, other losses beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import table as rich_table
from rich.console import Console
from rich.progress import Progress

from pgn import checkpoint as checkpoints
from pgn import command
from pgn.errors import PgnError, unknown_name
from pgn.evaluate import situations
from pgn.evaluate.alignment import alignment, with_structure
from pgn.evaluate.alignment_page import write_alignment_page
from pgn.evaluate.alignment_report import Report, Table, cell, mean_cell
from pgn.evaluate.measures import MEASURES, Interval
from pgn.evaluate.peers import DEFAULT, HALF, MSE, WEIGHED, exact, load_peers, predicted
from pgn.files import atomic_path, check_folder, find_images
from pgn.model import PGN
from pgn.teachers import PerceptualLoss

CHECKPOINTS = ["pgn-lite"]  # typer takes the default of a repeatable option as a list
SIZES = [128, 224]
SITUATIONS = list(situations.NAMES)
PEERS: list[str] = []


def alignment_command(
    images: Annotated[Path, typer.Option(help="Folder of photos that training never saw.")],
    checkpoint: Annotated[
        list[str], typer.Option(help="Bundled name or file; repeat to compare.")
    ] = CHECKPOINTS,
    size: Annotated[
        list[int], typer.Option(help="Pixels of the central crops; repeat.", min=32, max=2048)
    ] = SIZES,
    situation: Annotated[
        list[str], typer.Option(help=f"Which images: {', '.join(situations.NAMES)}; repeat.")
    ] = SITUATIONS,
    peer: Annotated[
        list[str],
        typer.Option(
            metavar="NAME[=WEIGHTS]",
            help=f"One of {', '.join(WEIGHED)}, its weights as for --weights or a file; repeat. "
            f"Always there: {MSE}, {HALF}, and where their weights are here "
            f"{', '.join(DEFAULT)}.",
        ),
    ] = PEERS,
    count: Annotated[int | None, typer.Option(help="Only the first photos.", min=1)] = None,
    weights: Annotated[
        str | None, typer.Option(help="Teacher's: oxford, torchvision or a file.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="Folder for copies of the checkpoints with these figures.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for alignment.json, index.html.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Compare gradients with the exact one of VGG-19: cosine, length, signs, DC bias, bands.

    On photos with blur, noise, JPEG, mosaic and low contrast, on outputs of autoencoders, and at
    the start, middle and end of a fit.
    """
    _check(situation, checkpoint, record)
    networks = load_networks(checkpoint)
    paths = find_images(images)[:count]
    for folder in (output, record):
        if folder:
            check_folder(folder)
    paths = with_structure(paths)
    teacher = PerceptualLoss("vgg19", weights)
    peers, left_out = load_peers(teacher, weights_of(peer))
    for name, reason in left_out.items():
        command.stderr.print(
            f"{name} is left out: {reason}", soft_wrap=True, markup=False, highlight=False
        )
    with command.stderr.status("fitting autoencoders"):
        drawn = situations.prepare(situation, teacher, paths, size)
    gradients = {name: predicted(net) for name, net in networks.items()} | peers
    with Progress(console=command.stderr) as progress:
        sizes = {size for found in drawn for size in found.sizes}
        task = progress.add_task("photos", total=len(paths) * len(sizes))
        rows = alignment(exact(teacher), gradients, drawn, paths, lambda: progress.advance(task))
    photos = [str(path.relative_to(images)) for path in paths]
    report = Report(teacher.source, photos, list(networks), list(peers), left_out, rows)
    written: list[Path] = []
    if record:
        for name, net in networks.items():
            net.info["quality"] = report.card(name)
            written.append(checkpoints.save(net, record / f"{Path(name).stem}.safetensors"))
    if output:
        figures, page = output / "alignment.json", output / "index.html"
        with atomic_path(figures) as temporary:
            temporary.write_text(_json(report.everything()), encoding="utf-8")
        write_alignment_page(page, report, teacher, networks, paths)
        written += [figures, page]
    if as_json:
        typer.echo(_json(report.summary(), indent=2))
    else:
        _print(report)
        for path in written:
            typer.echo(path)


def _check(situation: Sequence[str], checkpoint: Sequence[str], record: Path | None) -> None:
    for name in situation:
        if name not in situations.NAMES:
            raise unknown_name("--situation", name, situations.NAMES)
    if record and situations.DEGRADED not in situation:
        raise PgnError(
            f"--record: got the situations {', '.join(situation)}, expected {situations.DEGRADED} "
            f"among them, of which a card's figure is made."
        )
    stems = [Path(typed).stem for typed in checkpoint]
    if record and len(set(stems)) < len(stems):
        raise PgnError(
            f"--record: got {', '.join(checkpoint)}, expected different names. Rename one of them."
        )


def load_networks(checkpoint: Sequence[str]) -> dict[str, PGN]:
    """Networks under short names: the file's, or what was typed where two files share one."""
    stems = [Path(typed).stem for typed in checkpoint]
    taken = {MSE, HALF, *WEIGHED}
    return {
        typed if stems.count(stem) > 1 or stem in taken else stem: checkpoints.load(typed)
        for typed, stem in zip(checkpoint, stems, strict=True)
    }


def weights_of(peer: Sequence[str]) -> dict[str, str | None]:
    """NAME or NAME=WEIGHTS -> {name: weights}."""
    split = (word.partition("=") for word in peer)
    return {name: weights or None for name, _, weights in split}


def _json(value: dict[str, Any], indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, allow_nan=False)


def _print(report: Report) -> None:
    """The cosine of every gradient at every size, and all measures of the networks at the last."""
    largest = report.sizes[-1]
    console = command.stdout(120)
    for size in report.sizes:
        title = f"cosine with the exact gradient, {size} px"
        _print_table(console, title, report.by_gradient("cosine", size, report.gradients), cell)
    for network in report.networks:
        table = report.by_measure(network, largest, MEASURES)
        _print_table(console, f"{network}, {largest} px", table, mean_cell)
    for name, value in report.headline().items():
        console.print(f"{cell(value)}  {name}", style="bold" if name in report.networks else None)


def _print_table(
    console: Console, title: str, table: Table, show: Callable[[Interval | None], str]
) -> None:
    drawn = rich_table.Table(rich_table.Column(no_wrap=True), *table.columns, title=title)
    for name, values in table.rows.items():
        drawn.add_row(name, *map(show, values))
    console.print(drawn)
