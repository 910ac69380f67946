"""The report: index.html, which needs no other file, and report.md with its tables."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from pgn import __version__
from pgn.files import atomic_path
from pgn.pages import write_page
from pgn_bench.report import paper, tables
from pgn_bench.report.columns import short
from pgn_bench.report.figures import time_against_memory
from pgn_bench.report.settings import KINDS, Setting, find_settings
from pgn_bench.report.statements import CLOSE, FAILS, HOLDS, NOTE, Finding, check
from pgn_bench.report.tables import Table
from pgn_bench.results import Result, machine_name

TEMPLATE = Path(__file__).with_name("page.html")
PAGE, MARKDOWN = "index.html", "report.md"
MOST_FIGURES = 24  # of some 50 kB each
CLASSES = {HOLDS: "holds", FAILS: "fails", CLOSE: "close"}  # in the page, of verdicts


@dataclass(frozen=True)
class Report:
    """All that the page says."""

    results: Sequence[Result]
    findings: Sequence[Finding]
    costs: Table
    figures: Sequence[tuple[str, str]]  # title, inline SVG
    measurements: Sequence[Table]


def make(results: Sequence[Result]) -> Report:
    """The report on results of any machines and kinds."""
    settings = find_settings(results)
    drawn = ((setting.title, time_against_memory(setting)) for setting in settings)
    figures = ((title, svg) for title, svg in drawn if svg)
    return Report(
        results=results,
        findings=check(settings),
        costs=paper.costs(results),
        figures=list(islice(figures, MOST_FIGURES)),
        measurements=list(_measurements(results, settings)),
    )


def _measurements(results: Sequence[Result], settings: Sequence[Setting]) -> Iterator[Table]:
    """Run after run."""
    for run, result in enumerate(results, 1):
        yield from (tables.times(setting) for setting in settings if setting.run == run)
        if result.kind == "scaling":
            yield tables.growth(run, result)
        if result.kind == "operators":
            yield tables.where_the_time_goes(run, result)
        elif result.kind not in KINDS:
            yield tables.other(run, result)


def write(report: Report, folder: Path) -> tuple[Path, Path]:
    """The page and the tables, by rename.

    Raises:
        PgnError: the folder cannot be written.
    """
    page, text = folder / PAGE, folder / MARKDOWN
    by_statement = groupby(report.findings, key=lambda finding: finding.statement)
    values = {
        "report": report,
        "statements": {text: list(findings) for text, findings in by_statement},
        "classes": CLASSES,
        "most_figures": MOST_FIGURES,
        "statements_note": NOTE,
        "measured": tables.MEASURED,
        "machines": [_machine(run, result) for run, result in enumerate(report.results, 1)],
        "version": __version__,
    }
    write_page(page, TEMPLATE, values)
    with atomic_path(text) as temporary:
        temporary.write_text(_markdown(report), encoding="utf-8", errors="backslashreplace")
    return page, text


def _machine(run: int, result: Result) -> dict[str, Any]:
    """A result's own words, and the result itself as a download."""
    content = json.dumps(result.plain(), separators=(",", ":")).encode()
    return {
        "name": f"Run {run}: {machine_name(result.machine)}",
        "result": result,
        "machine": {key: _shown(value) for key, value in result.machine.items()},
        "settings": json.dumps(result.settings, indent=2),
        "file": f"{run}-{result.kind}.json",
        "data": "data:application/json;base64," + base64.b64encode(content).decode(),
    }


def _shown(value: object) -> str:
    if isinstance(value, float):
        return short(value)
    return value if isinstance(value, str) else json.dumps(value)


def _markdown(report: Report) -> str:
    rows = [
        [each.statement, each.setting, each.runtime, each.verdict, each.figures]
        for each in report.findings
    ]
    header = ("the paper says", "measured on", "runtime", "verdict", "figures")
    statements = Table("The paper's statements", NOTE, header, rows)
    shown = map(tables.markdown, [statements, report.costs, *report.measurements])
    note = tables.escape(tables.MEASURED)
    return "\n".join(["# pgn-edge: time and memory", "", note, "", *shown])
