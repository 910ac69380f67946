"""`pgn-bench front`: the quality of gradients against their measured time."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress
from rich.table import Table

from pgn import command
from pgn.degrade import blur
from pgn.evaluate.alignment import with_structure
from pgn.evaluate.alignment_cli import CHECKPOINTS, PEERS, load_networks, weights_of
from pgn.evaluate.alignment_report import cell
from pgn.evaluate.peers import WEIGHED, load_losses
from pgn.files import atomic_path, check_folder, find_images, read_image
from pgn.images import centre_crop
from pgn.teachers import PerceptualLoss
from pgn_bench.front import EXACT, Contenders, Point, fastest, pareto, quality, timed
from pgn_bench.front_plot import write_front
from pgn_bench.timing import BLOCK, interleaved, machine


def front_command(
    images: Annotated[Path, typer.Option(help="Folder of photos that training never saw.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for front.json and front.svg.")
    ],
    checkpoint: Annotated[
        list[str], typer.Option(help="Bundled name or file; repeat to compare.")
    ] = CHECKPOINTS,
    peer: Annotated[
        list[str],
        typer.Option(
            metavar="NAME[=WEIGHTS]", help=f"One of {', '.join(WEIGHED)} and its weights; repeat."
        ),
    ] = PEERS,
    count: Annotated[int, typer.Option(help="Only the first photos.", min=1)] = 12,
    size: Annotated[int, typer.Option(help="Pixels of the crops.", min=32, max=2048)] = 224,
    threads: Annotated[int, typer.Option(help="Of every runtime.", min=1, max=256)] = 2,
    rounds: Annotated[int, typer.Option(help=f"Blocks of {BLOCK} timed calls.", min=1)] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Draw the front of quality against time: PGNs and exact losses, each in its fastest form.

    Quality: cosine with the exact gradient of VGG-19, mean over blur, noise and JPEG of each
    photo. Time: one gradient of the first photo, in ONNX Runtime; of exact losses by autograd in
    PyTorch and compiled, too. All forms are in the table and in front.json.
    """
    check_folder(output)
    paths = with_structure(find_images(images)[:count])
    networks = load_networks(checkpoint)
    teacher = PerceptualLoss(EXACT)
    peers, left_out = load_losses(weights_of(peer))
    for name, reason in left_out.items():
        command.stderr.print(
            f"{name} is left out: {reason}", soft_wrap=True, markup=False, highlight=False
        )
    points = _measure(Contenders(teacher, networks, peers), paths, size, threads, rounds)
    report = {
        "measure": "cosine with the exact gradient, mean over the suite; time of one gradient",
        "teacher": teacher.source,
        "photos": [str(path.relative_to(images)) for path in paths],
        "size": size,
        "threads": threads,
        "left_out": left_out,
        "machine": machine(),
        "command": shlex.join(sys.argv),
        "points": _rows(points),
    }
    with atomic_path(output / "front.json") as temporary:
        temporary.write_text(json.dumps(report, indent=2, allow_nan=False), encoding="utf-8")
    setting = f"{size}x{size}, {threads} threads, {machine()['processor']}, {len(paths)} photos"
    write_front(output / "front.svg", fastest(points), setting)
    if as_json:
        typer.echo(json.dumps(report, indent=2))
        return
    _print(points)
    typer.echo(f"{setting}: {output / 'front.svg'}")


def _measure(
    contenders: Contenders, paths: Sequence[Path], size: int, threads: int, rounds: int
) -> list[Point]:
    """Calls are exported and checked first: an export that fails does so before the long work."""
    target = centre_crop(read_image(paths[0]), size)
    pair = blur(target, 1.5)[None], target[None]
    with command.stderr.status("exporting and checking"):
        found = timed(contenders, pair, threads)
    with Progress(console=command.stderr) as progress:
        task = progress.add_task("photos", total=len(paths))
        cosines = quality(contenders, paths, size, lambda: progress.advance(task))
        clock = progress.add_task("rounds", total=rounds)
        calls = {each.label: each.call for each in found}
        timings = interleaved(calls, rounds, lambda: progress.advance(clock))
    return [
        Point(
            each.gradient,
            is_network=each.gradient in contenders.networks,
            runtime=each.runtime,
            cosine=cosines[each.gradient],
            timing=timings[each.label],
        )
        for each in found
    ]


def _rows(points: Sequence[Point]) -> list[dict[str, Any]]:
    front = pareto(points)
    return [asdict(point) | {"on_front": point in front} for point in points]


def _print(points: Sequence[Point]) -> None:
    front = pareto(points)
    table = Table("gradient", "runtime", "cosine", "median ms", "p90", "on the front")
    for point in sorted(points, key=lambda p: p.timing.median_ms):
        table.add_row(
            point.name,
            point.runtime,
            cell(point.cosine),
            f"{point.timing.median_ms:.1f}",
            f"{point.timing.p90_ms:.1f}",
            "yes" if point in front else "",
        )
    command.stdout(100).print(table)
