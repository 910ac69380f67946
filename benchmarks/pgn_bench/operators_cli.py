"""`pgn-bench operators`: where the time of a gradient goes in ONNX Runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress
from rich.table import Table

from pgn import PgnError, command
from pgn_bench.flags import (
    NO_WEIGHTS,
    AsJson,
    Checkpoints,
    Output,
    Threads,
    Weights,
    deliver,
    parse_weights,
)
from pgn_bench.gradient import photo_task, prepare, time_rows
from pgn_bench.operators import Operator, in_products, profile
from pgn_bench.peak import matmul_rate
from pgn_bench.providers import LOSSES
from pgn_bench.providers_catalogue import NETWORKS, Wanted, catalogue
from pgn_bench.results import Result, Row, machine_name
from pgn_bench.timing import machine
from pgn_export.choices import parse_names

RUNTIME = "onnxruntime"
SHOWN = 5  # dearest kinds of operators in the table; all are in the result


def operators_command(
    checkpoint: Checkpoints = list(NETWORKS),  # noqa: B006  (typer copies it)
    weights: Weights = NO_WEIGHTS,
    losses: Annotated[
        str, typer.Option(help=f"Exact ones: {', '.join(LOSSES)}, a comma list, or all.")
    ] = "vgg19,vgg11",
    size: Annotated[int, typer.Option(help="Pixels.", min=32, max=2048)] = 224,
    threads: Threads = 1,
    rounds: Annotated[int, typer.Option(help="Of timed calls without the profiler.", min=1)] = 6,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Profile gradients in ONNX Runtime, float32: time by operator, and the rate of each as a
    fraction of a reference rate, this machine's for products of matrices.
    """
    chosen = parse_names("--losses", losses, LOSSES)
    wanted = Wanted(checkpoint, parse_weights(weights), chosen, (RUNTIME,), ("fp32",))
    task = photo_task(size, threads, "cpu")
    rate = matmul_rate(threads, "cpu")
    with tempfile.TemporaryDirectory() as folder, Progress(console=command.stderr) as progress:
        made = catalogue(wanted, task, Path(folder))
        total = len(chosen) + len(checkpoint)
        providers = list(progress.track(made, total=total, description="exporting"))
        prepared = prepare(providers, task, progress.console.print)
        bar = progress.add_task("timing", total=rounds)
        rows = time_rows(prepared, task, rounds, partial(progress.advance, bar))
        profiled = [
            profile(ready.way.files, task, Path(folder))
            for ready in progress.track(prepared.ready, description="profiling")
            if ready.way.files
        ]
    if not rows:
        reasons = "; ".join(map(str, prepared.left_out.values()))
        raise PgnError(f"operators: nothing can be run here. {reasons}")
    rate = max(rate, matmul_rate(threads, "cpu"))  # a busy moment lowers one of the two
    rows = [_detailed(row, found, rate) for row, found in zip(rows, profiled, strict=True)]
    result = Result("operators", machine(), rows, {"sgemm_gmacs": rate / 1e9})
    deliver(result, output, as_json, _print, prepared.left_out)


def _detailed(row: Row, found: Sequence[Operator], rate: float) -> Row:
    """With the fractions of `rate`, multiply-accumulates a second, and milliseconds by operator."""
    at_reference_rate = 1000 * (row.macs or 0) / rate
    details = row.details | {
        "sgemm_fraction": at_reference_rate / row.median_ms,
        "operators_ms": {operator.name: operator.milliseconds for operator in found},
    }
    if milliseconds := in_products(found):
        details["products_sgemm_fraction"] = at_reference_rate / milliseconds
    return replace(row, details=details)


def _print(result: Result) -> None:
    table = Table("gradient", "ms", "GMACs", "of sgemm", "its products", "time by operator, ms")
    for row in result.rows:
        dearest = list(row.details["operators_ms"].items())[:SHOWN]
        table.add_row(
            row.provider,
            f"{row.median_ms:.1f}" + (" ~" if row.noisy else ""),
            f"{(row.macs or 0) / 1e9:.2f}",
            _percent(row, "sgemm_fraction"),
            _percent(row, "products_sgemm_fraction"),
            ", ".join(f"{name} {milliseconds:.1f}" for name, milliseconds in dearest),
        )
    command.stdout(120).print(table)
    row = result.rows[0]
    typer.echo(
        f"{machine_name(result.machine)}, threads: {row.threads}, {row.size}x{row.size}: "
        f"{result.settings['sgemm_gmacs']:.0f} GMACs a second in products of matrices (sgemm), a "
        f"reference and no bound; its products: the same fraction inside convolutions alone; "
        f"Reorder: to and from the layout of convolutions"
    )


def _percent(row: Row, name: str) -> str:
    return f"{100 * row.details[name]:.0f} %" if name in row.details else ""
