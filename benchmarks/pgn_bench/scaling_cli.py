"""`pgn-bench scaling`: how time and memory grow with pixels and with the batch."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
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
    mega,
    parse_counts,
    parse_weights,
)
from pgn_bench.peak import matmul_rate
from pgn_bench.providers import check_device
from pgn_bench.providers_catalogue import Wanted
from pgn_bench.results import Result, machine_name
from pgn_bench.scaling import BATCHES, SIZES, exponents, points, sweep, with_fraction
from pgn_bench.timing import machine
from pgn_export.choices import parse_names

NETWORKS = ("pgn-lite", "pgn-nano", "resnet4", "unet")
RUNTIMES = ("torch", "onnxruntime")


def scaling_command(
    checkpoint: Checkpoints = list(NETWORKS),  # noqa: B006  (typer copies it)
    weights: Weights = NO_WEIGHTS,
    sizes: Annotated[str, typer.Option(help="Pixels.")] = ",".join(map(str, SIZES)),
    batches: Annotated[str, typer.Option(help="Of the smallest size.")] = ",".join(
        map(str, BATCHES)
    ),
    threads: Threads = 2,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    runtime: Annotated[str, typer.Option(help="torch, onnxruntime, or both: all.")] = "torch",
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Time and memory of one gradient against pixels and batch: exact VGG-19, and PGNs.

    Exponents are fitted to both; each rate is also told as a fraction of a reference rate, this
    machine's for products of matrices.
    """
    check_device(device)
    runtimes = parse_names("--runtime", runtime, RUNTIMES)
    if device == "cuda" and runtimes != ["torch"]:
        raise PgnError("--device cuda: only PyTorch runs there. Add --runtime torch.")
    where = points(
        parse_counts("--sizes", sizes, 32, 4096), parse_counts("--batches", batches, 1, 1024)
    )
    wanted = Wanted(checkpoint, parse_weights(weights), ("vgg19",), runtimes, ("fp32",))
    with command.stderr.status("measuring") as status:
        rate = matmul_rate(threads, device)
        rows, left_out = sweep(
            wanted, where, threads, device, lambda text: status.update(escape(text))
        )
        # a busy moment lowers one of the two
        rate = max(rate, matmul_rate(threads, device))
    settings = {
        "exponents": exponents(rows),
        "sgemm_gmacs": rate / 1e9,  # a second
    }
    result = Result("scaling", machine(), [with_fraction(row, rate) for row in rows], settings)
    deliver(result, output, as_json, _print, left_out)


def _print(result: Result) -> None:
    table = Table("gradient", "way", "pixels", "batch", "median ms", "peak MB", "of sgemm")
    for row in result.rows:
        table.add_row(
            row.provider,
            row.runtime,
            str(row.size),
            str(row.batch),
            f"{row.median_ms:.1f}" + (" ~" if row.noisy else ""),
            mega(row.peak_bytes),
            f"{100 * row.details['sgemm_fraction']:.0f} %",
        )
    command.stdout().print(table)
    for fitted in result.settings["exponents"]:
        shown = [f"{k}{v:.2f}" for k, v in fitted.items() if isinstance(v, float)]
        if shown:
            typer.echo(f"{fitted['provider']}, {fitted['runtime']}: {', '.join(shown)}")
    typer.echo(
        f"{machine_name(result.machine)}: {result.settings['sgemm_gmacs']:.0f} GMACs a second in "
        f"products of matrices (sgemm), a reference and no bound; ~ noisy; peak: weights and "
        f"working memory; memory ~ pixels^, ~ batch^: of working memory alone"
    )
