"""`pgn-bench phone`: what a gradient costs on an Android phone, over adb."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from pgn import PgnError, command
from pgn_bench.deployed import PAPER_HELP, export_as, kept_exports, networks, peers
from pgn_bench.flags import AsJson, Output, deliver, mega, tell
from pgn_bench.phone import BLOCKS, Model, Plan, find_model, measure
from pgn_bench.phone_adb import Phone, connect, describe, thermal_status
from pgn_bench.phone_tools import LITERT, ONNXRUNTIME, Tool
from pgn_bench.results import Result, machine_name
from pgn_runtime.files import sha256


def phone_command(
    artifacts: Annotated[
        list[Path] | None,
        typer.Argument(help="Of pgn-export; the bundled networks, exported at first, if none."),
    ] = None,
    adb: Annotated[
        str | None, typer.Option(metavar="SERIAL", help="Of the phone, if there are several.")
    ] = None,
    adb_path: Annotated[str, typer.Option(help="The adb program.")] = "adb",
    litert_benchmark: Annotated[
        Path | None,
        typer.Option(help="LiteRT's benchmark_model for Android.", exists=True, dir_okay=False),
    ] = None,
    onnxruntime_perf_test: Annotated[
        Path | None,
        typer.Option(help="ONNX Runtime's, for Android.", exists=True, dir_okay=False),
    ] = None,
    paper: Annotated[bool, typer.Option("--paper", help=PAPER_HELP)] = False,
    threads: Annotated[int, typer.Option(help="Big cores of the phone.", min=1, max=64)] = 4,
    runs: Annotated[
        int,
        typer.Option(
            help="Timed calls of each; fewer if they take seconds.", min=BLOCKS, max=10_000
        ),
    ] = 300,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Time gradients on an Android phone with the stock programs of LiteRT and ONNX Runtime.

    They and the artifacts go to /data/local/tmp/pgn, which is removed afterwards. Never yet run on
    a real phone.
    """
    given = {LITERT: litert_benchmark, ONNXRUNTIME: onnxruntime_perf_test}
    programs = {tool: path for tool, path in given.items() if path}
    if not programs:
        raise PgnError(
            "phone: nothing to run. Give --litert-benchmark FILE (benchmark_model of LiteRT) or "
            "--onnxruntime-perf-test FILE, built for Android's arm64-v8a."
        )
    phone = connect(adb_path, adb)
    models = _models(artifacts or [], paper, programs)
    result = _measure(phone, Plan(models, programs, threads, runs))
    deliver(result, output, as_json, _print)


def _models(artifacts: Sequence[Path], paper: bool, programs: Mapping[Tool, Path]) -> list[Model]:
    """Those of `artifacts`, or of the bundled networks; `paper` adds the paper's peers."""
    named = [find_model(path, programs) for path in artifacts]  # before minutes of work
    if named and not paper:
        return named
    wanted = chain([] if named else networks(), peers() if paper else [])
    ways = [(tool.target, "fp32") for tool in programs]
    with kept_exports() as folder, command.stderr.status("exporting") as status:
        made = export_as(wanted, folder, ways, lambda text: status.update(escape(text)))
        return named + [find_model(path, programs) for path in made]


def _measure(phone: Phone, plan: Plan) -> Result:
    """Raises PgnError where nothing could be measured."""
    machine = describe(phone)
    before = thermal_status(phone)
    with Progress(console=command.stderr) as progress:
        bar = progress.add_task("measuring", total=BLOCKS + 1)
        found = measure(phone, plan, lambda: progress.advance(bar))
    thermal = {"before": before, "after": thermal_status(phone)}
    _warn_of_heat(thermal)
    if not found.rows:
        reasons = "; ".join(f"{label}: {reason}" for label, reason in found.left_out.items())
        raise PgnError(f"phone: nothing was measured. {reasons}")
    settings = {
        "blocks": BLOCKS,
        "calls": plan.calls,
        "thermal_status": thermal,
        "programs_sha256": {tool.runtime: sha256(path) for tool, path in plan.programs.items()},
        "left_out": found.left_out,
    }
    return Result("phone", machine, found.rows, settings)


def _warn_of_heat(thermal: Mapping[str, str | None]) -> None:
    for when, status in thermal.items():
        if status not in (None, "none"):
            tell(
                f"The phone was hot {when} the measurement (thermal status: {status}) and may have "
                f"run slower. Let it cool, and repeat."
            )


def _print(result: Result) -> None:
    table = Table(
        "gradient",
        "runtime",
        "dtype",
        "median ms",
        "p10",
        "p90",
        "peak MB",
        "process MB",
        "load ms",
    )
    for row in result.rows:
        table.add_row(
            row.provider + (" *" if "weights" in row.details else ""),
            row.runtime,
            row.dtype,
            f"{row.median_ms:.2f}" + (" ~" if row.noisy else ""),
            f"{row.p10_ms:.2f}",
            f"{row.p90_ms:.2f}",
            mega(row.peak_bytes),
            mega(row.details.get("process_bytes")),
            "-" if row.load_ms is None else f"{row.load_ms:.1f}",
        )
    command.stdout().print(table)
    typer.echo(
        f"{machine_name(result.machine)}, {result.machine['system']}; times over {BLOCKS} runs of "
        f"a program; * random weights, time only; ~ noisy; peak: above the program's start"
    )
