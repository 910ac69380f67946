"""`pgn-bench gradient`: what a perceptual gradient costs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
    Weights,
    deliver,
    mega,
    parse_counts,
    parse_weights,
)
from pgn_bench.gradient import photo_task, prepare, time_rows
from pgn_bench.memory_forecast import within_memory
from pgn_bench.providers import LOSSES, check_device
from pgn_bench.providers_catalogue import NETWORKS, RUNTIMES, Provider, Wanted, catalogue
from pgn_bench.providers_exported import Task
from pgn_bench.quality import FIGURES
from pgn_bench.results import Result, Row, fastest_exact, machine_name, setting_of
from pgn_bench.timing import BLOCK, machine
from pgn_export.choices import parse_names

EXACT_LOSSES = (*LOSSES, "ssim")


def gradient_command(
    checkpoint: Checkpoints = list(NETWORKS),  # noqa: B006  (typer copies it)
    weights: Weights = NO_WEIGHTS,
    losses: Annotated[
        str, typer.Option(help=f"Exact ones: {', '.join(EXACT_LOSSES)}, a comma list, or all.")
    ] = "all",
    size: Annotated[int, typer.Option(help="Pixels.", min=32, max=2048)] = 224,
    threads: Annotated[str, typer.Option(help="Of every runtime; a comma list sweeps.")] = "2",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    runtime: Annotated[
        str, typer.Option(help=f"{', '.join(RUNTIMES)}, a comma list, or all.")
    ] = "all",
    rounds: Annotated[int, typer.Option(help=f"Blocks of {BLOCK} timed calls.", min=1)] = 5,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Time one gradient of an image: exact losses, and PGNs, in every way here to compute them.

    What depends on the target alone is computed before the clock runs. Memory and load time are
    those of a process of its own. On a GPU: --device cuda --runtime torch.
    """
    check_device(device)
    counts = parse_counts("--threads", threads, 1, 256)
    runtimes = parse_names("--runtime", runtime, RUNTIMES)
    if device == "cuda" and runtimes != ["torch"]:
        raise PgnError("--device cuda: only PyTorch runs there. Add --runtime torch.")
    chosen = parse_names("--losses", losses, EXACT_LOSSES)
    wanted = Wanted(checkpoint, parse_weights(weights), chosen, runtimes)
    settings = {"rounds": rounds, "block": BLOCK, "photo": "bundled, blur 1.5"}
    tasks = [photo_task(size, count, device) for count in counts]
    wanted, too_large = within_memory(wanted, tasks[0])
    rows, left_out = _measure(wanted, tasks, rounds)
    result = Result("gradient", machine(), rows, settings)
    deliver(result, output, as_json, print_table, too_large | left_out)


def _measure(
    wanted: Wanted, tasks: Sequence[Task], rounds: int
) -> tuple[list[Row], dict[str, ValueError]]:
    """Rows of all tasks, which differ in threads only, and why others are left out."""
    rows: list[Row] = []
    left_out: dict[str, ValueError] = {}
    with _scratch() as folder, Progress(console=command.stderr) as progress:
        made = catalogue(wanted, tasks[0], folder)
        total = len(wanted.losses) + len(wanted.networks)
        providers = list(progress.track(made, total=total, description="exporting"))
        say = partial(progress.console.print, markup=False, highlight=False)
        for task in tasks:
            prepared = prepare(providers, task, say)
            left_out |= _by_threads(prepared.left_out, providers, task, len(tasks) > 1)
            bar = progress.add_task(f"timing, {task.threads} threads", total=rounds)
            rows += time_rows(prepared, task, rounds, partial(progress.advance, bar))
    return rows, left_out


def _by_threads(
    left_out: Mapping[str, ValueError], providers: Sequence[Provider], task: Task, swept: bool
) -> dict[str, ValueError]:
    """In a sweep, what failed at one number of threads is named by it; what could not be exported
    is not to be had at any."""
    of_all = {label for provider in providers for label in provider.left_out}
    return {
        label if label in of_all or not swept else f"{label}, threads {task.threads}": error
        for label, error in left_out.items()
    }


def print_table(result: Result) -> None:
    """Rows in a table, ratios to the fastest exact VGG-19 in float32 of the same setting."""
    table = Table(
        "gradient", "way", "thr", "GMACs", "median ms", "p90", "CPU ms", "times faster",
        "peak / counted MB", "file MB", "load s", "cosine", "suite", "gap closed",
    )  # fmt: skip
    exact = fastest_exact(result.rows)
    for row in result.rows:
        base = exact.get(setting_of(row))
        table.add_row(
            row.provider + (" *" if "weights" in row.details else ""),
            f"{row.runtime} {row.dtype}",
            str(row.threads),
            f"{(row.macs or 0) / 1e9:.2f}",
            f"{row.median_ms:.1f}" + (" ~" if row.noisy else ""),
            f"{row.p90_ms:.1f}",
            f"{row.cpu_ms:.1f}",
            f"{base / row.median_ms:.1f}" if base else "",
            f"{mega(row.peak_bytes)} / {mega(row.formula_bytes)}",
            mega(row.file_bytes),
            "" if row.load_ms is None else f"{row.load_ms / 1000:.1f}",
            "" if row.cosine is None else f"{row.cosine:.3f}",
            *(f"{row.details[name]:.2f}" if name in row.details else "" for name in FIGURES),
        )
    command.stdout().print(table)
    typer.echo(
        f"{machine_name(result.machine)}; * random weights, time only; ~ noisy; peak: "
        f"measured, counted: weights, and tensors that live at once; suite, gap closed: as the "
        f"checkpoint's card tells (docs/benchmarking.md)"
    )


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for exports and for what torch.compile caches: a compilation is a cold one."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    before = os.environ.get(name)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ[name] = f"{folder}/inductor"
        try:
            yield Path(folder)
        finally:
            os.environ.pop(name)
            if before is not None:
                os.environ[name] = before
