"""`pgn-eval heads`: fit talking heads with MSE, exact VGG-19 and PGNs, and compare."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from pgn import checkpoint as checkpoints
from pgn import command
from pgn.avatar import checkpoint as avatars
from pgn.avatar.finetune import FineTuneOptions
from pgn.avatar.model import Avatar
from pgn.errors import PgnError
from pgn.evaluate.figures import FIGURES, interval_text, number, percent
from pgn.evaluate.heads import (
    SPLITS,
    Run,
    Sitter,
    baselines,
    fit,
    judge,
    pgn_run,
)
from pgn.evaluate.heads_memory import peak_memory
from pgn.evaluate.heads_page import HEADINGS, cost, write_heads_page
from pgn.evaluate.heads_people import perhaps_trained_on, read_sitters, synthetic_sitters
from pgn.evaluate.heads_results import TRUTHS, Results
from pgn.evaluate.heads_summary import Row, summarise
from pgn.evaluate.lpips_metrics import load_lpips_metrics
from pgn.evaluate.study import fingerprint
from pgn.evaluate.study_command import check_names, each_fit, tell_left_out
from pgn.teachers import PerceptualLoss


def heads_command(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the study.")],
    checkpoint: Annotated[str, typer.Option(help="Avatar: bundled name or file.")] = "avatar-demo",
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of persons that training never saw, or a video; repeat it."),
    ] = None,
    person: Annotated[
        list[str] | None, typer.Option(help="Of --data; repeat it. [default: all]")
    ] = None,
    synthetic: Annotated[
        int, typer.Option(help="Rendered persons, of those kept from training.", min=0)
    ] = 0,
    networks: Annotated[
        list[str] | None,
        typer.Option("--pgn", help="Bundled name or file; repeat it. [default: pgn-lite]"),
    ] = None,
    frames: Annotated[int, typer.Option(help="To fit, and as many held out.", min=1)] = 8,
    steps: Annotated[int, typer.Option(help="Of Adam.", min=1)] = 50,
    learning_rate: Annotated[float, typer.Option(help="Of Adam.")] = 5e-5,
    mse_weight: Annotated[
        float, typer.Option(help="Of the MSE term beside VGG-19 and PGNs.")
    ] = 2.0,
    weights: Annotated[
        str | None, typer.Option(help="Teacher's: oxford, torchvision or a file.")
    ] = None,
    lpips: Annotated[
        Path | None,
        typer.Option(help="Folder of lpips_alex*.safetensors and lpips_vgg*.safetensors."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Fit an avatar to persons it has not seen with MSE, exact VGG-19 and PGNs.

    An interrupted study goes on where it was when the same command is given again.
    """
    options = FineTuneOptions(steps, learning_rate)
    avatar = avatars.load(checkpoint)
    size = avatar.config.size
    teacher = PerceptualLoss("vgg19", weights)
    runs = baselines(teacher, mse_weight) + _pgn_runs(networks or ["pgn-lite"], mse_weight)
    check_names("--pgn", [*TRUTHS, *(run.name for run in runs)])
    metrics, left_out = load_lpips_metrics(lpips)
    sitters = read_sitters(data or [], person or [], frames, size)
    sitters += synthetic_sitters(synthetic, frames, size)
    if not sitters:
        raise PgnError("heads: got nobody to fit. Give --data FOLDER, or --synthetic 4.")
    notes = _notes(avatar, data or [], sitters)
    results = Results(
        output,
        {
            "avatar": fingerprint(avatar.state_dict().values()),
            "teacher": teacher.source,
            "size": size,
            "frames": frames,
            "steps": steps,
            "learning_rate": learning_rate,
            "mse_weight": mse_weight,
            "persons": {sitter.name: sitter.sha256 for sitter in sitters},
        },
    )
    _fit_all(results, avatar, sitters, runs, options, teacher)
    memory = {run.name: _memory(results, run, frames, size) for run in runs}
    records = {run.name: [results.measure(s, run, metrics) for s in sitters] for run in runs}
    rows = summarise(records, memory)
    tell_left_out(left_out, list(rows[0].splits[SPLITS[0]].means))
    summary = {"notes": notes, "runs": [asdict(row) for row in rows]}
    results.finish(summary)
    page = write_heads_page(results, sitters, records, rows, notes)
    if as_json:
        typer.echo(json.dumps(summary, indent=2, allow_nan=False))
    else:
        _print(rows)
        typer.echo(page)


def _pgn_runs(names: Sequence[str], mse_weight: float) -> list[Run]:
    return [pgn_run(Path(name).stem, checkpoints.load(name), mse_weight) for name in names]


def _notes(avatar: Avatar, data: Sequence[Path], sitters: Sequence[Sitter]) -> list[str]:
    """What a reader of the figures must know; told on stderr too."""
    seen = set(perhaps_trained_on(avatar.info, data))
    notes = [
        f"{sitter.name} may have been in the avatar's training: its checkpoint names this source, "
        f"and no holdout of that name. Figures of strangers are worse."
        for sitter in sitters
        if sitter.name in seen
    ]
    for note in notes:
        command.stderr.print(f"warning: {note}", soft_wrap=True, highlight=False, markup=False)
    return notes


def _memory(results: Results, run: Run, frames: int, size: int) -> int | None:
    build = run.guidance
    return results.memory(run, lambda: peak_memory(build, frames, size)) if build else None


def _fit_all(
    results: Results,
    avatar: Avatar,
    sitters: Sequence[Sitter],
    runs: Sequence[Run],
    options: FineTuneOptions,
    teacher: PerceptualLoss,
) -> None:
    """Make the fits that are not there yet, person by person."""
    missing = [(s, run) for s in sitters for run in runs if results.load(s, run) is None]
    for sitter, run, advance in each_fit(missing, options.steps):
        found = fit(avatar, sitter, run, options, advance)
        results.store(sitter, run, found, judge(teacher, found.drawn, sitter))


def _print(rows: Sequence[Row]) -> None:
    console = Console(width=120)
    figures = list(rows[0].splits[SPLITS[0]].means)
    for split in SPLITS:
        headings = [FIGURES[name] for name in figures]
        table = Table("fitted with", *headings, "gap closed", "95 %", title=f"{split} frames")
        for row in rows:
            found = row.splits[split]
            means = (number(name, found.means[name]) for name in figures)
            closed, interval = percent(found.gap.closed), interval_text(found.gap.interval)
            table.add_row(row.run, *means, closed, interval)
        console.print(table)
    table = Table(*HEADINGS, title="costs")
    for row in rows:
        table.add_row(*cost(row))
    console.print(table)
