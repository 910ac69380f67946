"""Tables of a report: measurements, growth; as rows of text, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pgn_bench.report.settings import Setting
from pgn_bench.results import Result, Row, fastest_exact, live_bytes, machine_name
from pgn_bench.scaling import exponents

MEASURED = (
    "Median and 90th percentile of one call. Times faster: than the fastest float32 form of exact "
    "VGG-19 of the same run. Peak: highest above the loaded process; counted: tensors that live at "
    "once. Cosine: with the exact gradient of VGG-19, on the timed photo. ~ noisy: other programs "
    "used the machine. * random weights: time and memory only."
)
HEADER = (
    "what", "way", "ms", "p90", "CPU ms", "times faster", "peak MB", "counted MB", "file MB",
    "load ms", "cosine",
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Text only; the first column names its row."""

    title: str
    note: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def times(setting: Setting) -> Table:
    """All that was measured in one setting, fastest first."""
    base = fastest_exact(setting.rows, setting.rows[0].threads)
    ordered = sorted(setting.rows, key=lambda row: row.median_ms)
    return Table(setting.title, "", HEADER, [_measured(row, base) for row in ordered])


def other(run: int, result: Result) -> Table:
    """All rows of a result of another kind, in their order; size, batch and threads are told."""
    header = (HEADER[0], "size, batch, threads", *HEADER[1:])
    rows = []
    for row in result.rows:
        name, *cells = _measured(row, None)
        rows.append([name, f"{row.size}, {row.batch}, {row.threads}", *cells])
    return Table(f"Run {run}, {result.kind}: {machine_name(result.machine)}", "", header, rows)


def growth(run: int, result: Result) -> Table:
    """Fitted exponents of a result of kind scaling."""
    points = {
        (row.provider, row.runtime, row.size, row.batch): row
        for row in result.rows
        if row.median_ms > 0
    }
    fitted = exponents(list(points.values()))
    names = list(dict.fromkeys(name for line in fitted for name in line))
    rows = [[_fitted(line.get(name, "")) for name in names] for line in fitted]
    note = "Exponents fitted by least squares to logarithms: 1 is proportional."
    return Table(f"Run {run}, growth: {machine_name(result.machine)}", note, names, rows)


def markdown(table: Table) -> str:
    """Title, note and rows; nothing in a cell is taken for markup."""
    lines = [table.header, ["---"] * len(table.header), *table.rows]
    drawn = ["| " + " | ".join(map(escape, line)) + " |" for line in lines]
    note = [escape(table.note), ""] if table.note else []
    return "\n".join([f"## {escape(table.title)}", "", *note, *drawn, ""])


def escape(text: str) -> str:
    """Text for a cell of a Markdown table."""
    for special in "\\`*_[]<>|~":
        text = text.replace(special, "\\" + special)
    return " ".join(text.split())


def short(value: float) -> str:
    """Three digits, never an exponent: 0.123, 12.3, 1,234."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _measured(row: Row, base: float | None) -> list[str]:
    return [
        row.provider + (" *" if "weights" in row.details else ""),
        f"{row.runtime} {row.dtype}",
        short(row.median_ms) + (" ~" if row.noisy else ""),
        short(row.p90_ms),
        "" if row.cpu_ms is None else short(row.cpu_ms),
        short(base / row.median_ms) if base and row.median_ms else "",
        _mega(row.peak_bytes),
        _mega(live_bytes(row)),
        _mega(row.file_bytes),
        "" if row.load_ms is None else short(row.load_ms),
        "" if row.cosine is None else f"{row.cosine:.3f}",
    ]


def _fitted(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.2f}"


def _mega(count: int | None) -> str:
    return "" if count is None else short(count / 1e6)
