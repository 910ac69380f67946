"""`pgn-bench gradient`: what a perceptual gradient costs."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress
from rich.table import Table

from pgn import GateError, PgnError, command
from pgn.errors import unknown_name
from pgn_bench.gradient import photo_task, prepare, time_rows
from pgn_bench.providers import LOSSES, check_device
from pgn_bench.providers_catalogue import EXACT, NETWORKS, RUNTIMES, Wanted, catalogue
from pgn_bench.providers_exported import Task
from pgn_bench.results import Result, Row, machine_name, save
from pgn_bench.timing import BLOCK, machine, noise_warning
from pgn_export.choices import parse_names

EXACT_LOSSES = (*LOSSES, "ssim")
WEIGHTS: list[str] = []  # typer takes the default of a repeatable option as a list


def gradient_command(
    checkpoint: Annotated[
        list[str],
        typer.Option(help="Bundled name or file; a backbone's name: untrained. Repeat."),
    ] = list(NETWORKS),  # noqa: B006  (typer copies it)
    weights: Annotated[
        list[str],
        typer.Option(metavar="LOSS=WEIGHTS", help=f"Of {', '.join(LOSSES)}; else random ones."),
    ] = WEIGHTS,
    losses: Annotated[
        str, typer.Option(help=f"Exact ones: {', '.join(EXACT_LOSSES)}, a comma list, or all.")
    ] = "all",
    size: Annotated[int, typer.Option(help="Pixels.", min=32, max=2048)] = 224,
    threads: Annotated[str, typer.Option(help="Of every runtime; a comma list sweeps.")] = "2",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    runtime: Annotated[
        str, typer.Option(help=f"{', '.join(RUNTIMES)}, a comma list, or all.")
    ] = "all",
    rounds: Annotated[int, typer.Option(help=f"Blocks of {BLOCK} timed calls.", min=1)] = 6,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Result file, for pgn-bench report.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
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
    rows, left_out = _measure(wanted, tasks, rounds)
    told = {label: str(error) for label, error in left_out.items()}
    result = Result("gradient", machine(), rows, settings | {"left_out": told})
    if output:
        save(result, output)
    if as_json:
        typer.echo(json.dumps(result.plain(), indent=2))
    else:
        print_table(result)
    for label, reason in told.items():
        tell(f"{label} is left out: {reason}")
    for error in left_out.values():
        if isinstance(error, GateError):
            raise error


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
            left_out.update(prepared.left_out)
            bar = progress.add_task(f"timing, {task.threads} threads", total=rounds)
            rows += time_rows(prepared, task, rounds, partial(progress.advance, bar))
    return rows, left_out


def print_table(result: Result) -> None:
    """Rows in a table, ratios to the fastest exact VGG-19 in float32 of the same threads."""
    table = Table(
        "gradient", "way", "thr", "GMACs", "median ms", "p90", "CPU ms", "times faster",
        "peak / counted MB", "file MB", "load s", "cosine",
    )  # fmt: skip
    for row in result.rows:
        base = fastest_exact(result.rows, row.threads)
        table.add_row(
            row.provider + (" *" if "weights" in row.details else ""),
            f"{row.runtime} {row.dtype}",
            str(row.threads),
            f"{(row.macs or 0) / 1e9:.2f}",
            f"{row.median_ms:.1f}" + (" ~" if row.noisy else ""),
            f"{row.p90_ms:.1f}",
            f"{row.cpu_ms:.1f}",
            f"{base / row.median_ms:.1f}" if base else "",
            f"{_mega(row.peak_bytes)} / {_mega(live_bytes(row))}",
            _mega(row.file_bytes),
            "" if row.load_ms is None else f"{row.load_ms / 1000:.1f}",
            "" if row.cosine is None else f"{row.cosine:.3f}",
        )
    command.stdout().print(table)
    typer.echo(
        f"{machine_name(result.machine)}; * random weights, time only; ~ noisy; peak: above the "
        f"loaded process; counted: tensors that live at once, without weights"
    )
    if warning := noise_warning([bool(row.noisy) for row in result.rows]):
        tell(warning)


def fastest_exact(rows: Sequence[Row], threads: int) -> float | None:
    """Milliseconds of exact VGG-19 in its best float32 form, at a number of threads."""
    found = [
        row.median_ms
        for row in rows
        if (row.provider, row.dtype, row.threads) == (EXACT, "fp32", threads)
    ]
    return min(found, default=None)


def live_bytes(row: Row) -> int | None:
    """The formula without its weights: what peak memory above the loaded process is held to."""
    if row.formula_bytes is None or row.parameters is None:
        return None
    return row.formula_bytes - 4 * row.parameters


def parse_counts(flag: str, text: str, least: int, most: int) -> list[int]:
    """ "1,2" to [1, 2], each once.

    Raises:
        PgnError: anything but a comma list of `least` to `most`.
    """
    found = [int(part) if part.strip().isdecimal() else -1 for part in text.split(",")]
    if not all(least <= count <= most for count in found):
        raise PgnError(f"{flag}: got '{text}', expected {least} to {most}, or a comma list.")
    return list(dict.fromkeys(found))


def parse_weights(pairs: Sequence[str]) -> dict[str, str]:
    """["vgg16=FILE"] to {"vgg16": "FILE"}.

    Raises:
        PgnError: no such pair, or no such loss.
    """
    found = dict(pair.partition("=")[::2] for pair in pairs)
    for name, value in found.items():
        if name not in LOSSES:
            raise unknown_name("--weights", name, LOSSES)
        if not value:
            raise PgnError(f"--weights: got '{name}', expected LOSS=WEIGHTS, as {name}=FILE.")
    return found


def tell(text: str) -> None:
    """One line on stderr."""
    command.stderr.print(text, soft_wrap=True, markup=False, highlight=False)


def _mega(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:.1f}"


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
