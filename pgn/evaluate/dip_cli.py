"""`pgn-eval dip`: fit Deep Image Priors with MSE, exact VGG-19 and PGNs, and compare."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pgn import PGN, PgnError
from pgn import checkpoint as checkpoints
from pgn.evaluate.dip import Run, baselines, fit, judge, pgn_run
from pgn.evaluate.dip_page import write_dip_page
from pgn.evaluate.dip_results import TARGET, Photo, Results, read_photos
from pgn.evaluate.dip_summary import Row, summarise
from pgn.evaluate.figures import FIGURES, interval_text, number, percent
from pgn.evaluate.lpips_metrics import load_lpips_metrics
from pgn.evaluate.skip_network import MIN_SIDE, seeded_start
from pgn.evaluate.study_command import check_names, each_fit, tell_left_out
from pgn.files import check_folder
from pgn.teachers import PerceptualLoss

GAP_CLOSED = "share of the gap in VGG-19 loss between fits with MSE and with exact VGG-19"


def dip_command(
    images: Annotated[Path, typer.Option(help="Folder of photos that training never saw.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the study.")],
    checkpoint: Annotated[
        list[str] | None, typer.Option(help="Bundled name or file; repeat it. [default: pgn-lite]")
    ] = None,
    mse_weight: Annotated[
        list[float] | None,
        typer.Option(help="Of the MSE term of each PGN; repeat it. [default: 0 and 20]"),
    ] = None,
    count: Annotated[int, typer.Option(help="Photos.", min=1)] = 8,
    skip: Annotated[
        int, typer.Option(help="Photos to leave out first, which may tune the weight.", min=0)
    ] = 0,
    steps: Annotated[int, typer.Option(help="Of Adam; 10000 to look for divergence.", min=1)] = 600,
    size: Annotated[
        int, typer.Option(help="Pixels of the central crops.", min=MIN_SIDE, max=2048)
    ] = 128,
    weights: Annotated[
        str | None, typer.Option(help="Teacher's: oxford, torchvision or a file.")
    ] = None,
    lpips: Annotated[
        Path | None,
        typer.Option(help="Folder of lpips_alex*.safetensors and lpips_vgg*.safetensors."),
    ] = None,
    with_baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Fit with MSE and exact VGG-19 too.")
    ] = True,
    record: Annotated[
        Path | None, typer.Option(help="Folder for copies of the checkpoints with these figures.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Fit untrained networks to photos with MSE, exact VGG-19 and PGNs (Deep Image Prior).

    An interrupted study goes on where it was when the same command is given again.
    """
    if record:
        if not with_baselines:
            raise PgnError("--record: expected --baselines, which the share of the gap is made of.")
        check_folder(record)
    photos = read_photos(images, skip, count, size)
    teacher = PerceptualLoss("vgg19", weights)
    runs = baselines(teacher) if with_baselines else []
    runs += _runs(checkpoint or ["pgn-lite"], mse_weight or [0.0, 20.0])
    check_names("--checkpoint", [TARGET, *(run.name for run in runs)])
    metrics, left_out = load_lpips_metrics(lpips)
    results = Results(
        output,
        {
            "teacher": teacher.source,
            "size": size,
            "steps": steps,
            "photos": {photo.name: photo.sha256 for photo in photos},
        },
    )
    _fit_all(results, photos, runs, teacher, steps)
    records = {run.name: [results.measure(photo, run, metrics) for photo in photos] for run in runs}
    rows = summarise(records)
    tell_left_out(left_out, list(rows[0].means))
    summary = {"runs": [asdict(row) for row in rows]}
    results.finish(summary)
    if record:
        _record(record, runs, rows, {"photos": len(photos), "size": size, "steps": steps})
    page = write_dip_page(results, photos, runs, records, rows)
    if as_json:
        typer.echo(json.dumps(summary, indent=2, allow_nan=False))
    else:
        _print(rows)
        typer.echo(page)


def _runs(names: Sequence[str], mse_weights: Sequence[float]) -> list[Run]:
    networks = [(Path(name).stem, checkpoints.load(name)) for name in names]
    return [pgn_run(name, net, weight) for name, net in networks for weight in mse_weights]


def _fit_all(
    results: Results,
    photos: Sequence[Photo],
    runs: Sequence[Run],
    teacher: PerceptualLoss,
    steps: int,
) -> None:
    """Make the fits that are not there yet, photo by photo."""
    missing = [(p, run) for p in photos for run in runs if results.load(p, run) is None]
    for photo, run, advance in each_fit(missing, steps):
        start = seeded_start(photo.seed, *photo.pixels.shape[-2:])
        judged = judge(teacher, photo.pixels)
        results.store(photo, run, fit(run.towards(photo.pixels), judged, start, steps, advance))


def _record(
    folder: Path, runs: Sequence[Run], rows: Sequence[Row], settings: Mapping[str, int]
) -> None:
    """Write each network with the shares of the gap that it closed, one an MSE weight."""
    by_network: dict[PGN, list[tuple[Run, Row]]] = {}
    for run, row in zip(runs, rows, strict=True):
        if run.net:
            by_network.setdefault(run.net, []).append((run, row))
    for net, pairs in by_network.items():
        closed = [
            {
                "mse_weight": run.mse_weight,
                "gap_closed": row.gap_closed,
                "interval_95": row.gap_interval,
            }
            for run, row in pairs
        ]
        net.info["deep_image_prior"] = {"measure": GAP_CLOSED, **settings, "rows": closed}
        assert net.source
        checkpoints.save(net, folder / f"{net.source.stem}.safetensors")


def _print(rows: Sequence[Row]) -> None:
    figures = list(rows[0].means)
    headings = [FIGURES[name] for name in figures]
    table = Table("fitted with", *headings, "gap closed", "95 %", "diverged", "stagnated")
    for row in rows:
        table.add_row(
            row.run,
            *(number(name, row.means[name]) for name in figures),
            percent(row.gap_closed),
            interval_text(row.gap_interval),
            str(row.diverged),
            str(row.stagnated),
        )
    Console(width=120).print(table)
