"""`pgn-bench report`: one page from the result files of any machines."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pgn_bench.flags import tell
from pgn_bench.report.page import make, write
from pgn_bench.results import KINDS, load

MAX_BYTES = 2_000_000  # of a page that phones open with ease


def report_command(
    results: Annotated[
        list[Path],
        typer.Argument(help=f"Files of pgn-bench, of kind {', '.join(KINDS)}."),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for index.html and report.md.")
    ] = Path("report"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Merge result files into one page, and hold them against the paper's tables and statements.

    Every file is checked first; a damaged or foreign one is named, and nothing is written.
    """
    report = make([load(path) for path in results])
    page, tables = write(report, output)
    if (size := page.stat().st_size) > MAX_BYTES:
        tell(f"The page has {size} bytes: much for a phone. Make a report of fewer files.")
    if as_json:
        findings = [asdict(finding) for finding in report.findings]
        paths = {"page": str(page), "tables": str(tables)}
        typer.echo(json.dumps({**paths, "findings": findings}, indent=2))
        return
    for verdict, count in Counter(finding.verdict for finding in report.findings).items():
        typer.echo(f"{count} statements of the paper: {verdict}")
    typer.echo(page)
