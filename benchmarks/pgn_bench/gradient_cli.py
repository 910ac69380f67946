"""`pgn-bench gradient`: what a perceptual gradient costs."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import pgn
from pgn import command
from pgn.checkpoint import BUNDLED
from pgn_bench.gradient import COMPILED, EXACT, providers
from pgn_bench.timing import BLOCK, interleaved, machine


def gradient_command(
    checkpoint: Annotated[
        list[str], typer.Option(help="Bundled name or file; repeat to compare.")
    ] = list(BUNDLED),  # noqa: B006  (typer copies it)
    size: Annotated[int, typer.Option(help="Pixels.", min=32, max=2048)] = 224,
    threads: Annotated[int, typer.Option(help="Of every runtime.", min=1, max=256)] = 2,
    rounds: Annotated[int, typer.Option(help=f"Blocks of {BLOCK} timed calls.", min=1)] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Time one gradient of an image: exact VGG-19, and PGNs on every runtime."""
    nets = {Path(name).stem: pgn.load(name) for name in checkpoint}
    with command.stderr.status("exporting and checking"):
        found = providers(nets, (size, size), threads)
    with Progress(console=command.stderr) as progress:
        task = progress.add_task("rounds", total=rounds)
        calls = {provider.name: provider.call for provider in found}
        timings = interleaved(calls, rounds, lambda: progress.advance(task))
    if as_json:
        rows = [{"provider": p.name, "cosine": p.cosine, **asdict(timings[p.name])} for p in found]
        report = {"size": size, "threads": threads, "machine": machine(), "rows": rows}
        typer.echo(json.dumps(report, indent=2))
        return
    base = timings[COMPILED if COMPILED in timings else EXACT].median_ms
    table = Table("gradient", "cosine", "median ms", "p10", "p90", "times faster")
    for provider in found:
        timing = timings[provider.name]
        milliseconds = (timing.median_ms, timing.p10_ms, timing.p90_ms)
        table.add_row(
            provider.name,
            f"{provider.cosine:.3f}",
            *(f"{value:.1f}" for value in milliseconds),
            f"{base / timing.median_ms:.1f}",
        )
    Console(width=None if sys.stdout.isatty() else 100).print(table)
    typer.echo(f"{machine()['processor']}, {threads} threads, {size}x{size}, one photo, blur 1.5")
