"""Tables of a report: measurements, growth; as rows of text, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pgn_bench.report.columns import SETTING, Column, general, operators, short
from pgn_bench.report.settings import Setting, in_words
from pgn_bench.results import Result, Row, machine_name
from pgn_bench.scaling import exponents

MEASURED = (
    "Median and 90th percentile of one call, or of one step. Times faster: than the fastest "
    "float32 form of exact VGG-19 of the same run and setting; fp16, bf16 and int8 rows, too, are "
    "divided by that float32 time, so their ratios hold the gain of the lower precision besides "
    "that of the network. Updates: images learnt, replayed ones again. Peak: weights and working "
    "memory, measured; counted: weights, and tensors that live at once. Joules: of the whole "
    "processor. Cosine: with the exact gradient of VGG-19, on the timed photo; suite, gap closed: "
    "as the card of a checkpoint tells. ~ noisy: other programs used the machine. "
    "* random weights: time and memory only. A table has no column of what was not measured in it."
)
SGEMM = (
    "Medians of one call, float32. Of sgemm: multiply-accumulates a second, as a share of a "
    "reference rate, that of the fastest product of large matrices on this machine{rate}; it is no "
    "bound: a convolution by Winograd needs fewer products than are counted. Its products: the "
    "same share inside convolutions and products of matrices alone. Then the milliseconds of a "
    "call by operator, as ONNX Runtime's profiler tells them; Reorder: to and from the layout of "
    "convolutions."
)
GROWTH = (
    "Exponents fitted by least squares to logarithms: 1 is proportional. Memory: working memory "
    "alone, the measured peak less the float32 weights, which do not grow."
)
TITLES = {
    "scaling": "all sizes and batches",
    "fit": "one step of a fit to photos",
    "train": "one step of distillation",
}


@dataclass(frozen=True)
class Table:
    """Text only; the first column names its row."""

    title: str
    note: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def times(setting: Setting) -> Table:
    """All that was measured in one setting, fastest first."""
    ordered = sorted(setting.rows, key=lambda row: row.median_ms)
    return _table(setting.title, "", ordered, general(setting.rows))


def other(run: int, result: Result) -> Table:
    """All rows of a result of another kind, in their order."""
    title = _title(run, TITLES.get(result.kind, result.kind), result)
    name, *columns = general(result.rows)
    settings = [SETTING] if len(_settings(result)) > 1 else []
    return _table(title, "", result.rows, [name, *settings, *columns])


def where_the_time_goes(run: int, result: Result) -> Table:
    """Gradients by operator, of a result of kind operators."""
    rate = result.settings.get("sgemm_gmacs")
    told = f", {short(rate)} GMACs a second" if isinstance(rate, (int, float)) else ""
    title = _title(run, "where the time goes in ONNX Runtime", result)
    return _table(title, SGEMM.format(rate=told), result.rows, operators(result.rows))


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
    return Table(f"Run {run}, growth: {machine_name(result.machine)}", GROWTH, names, rows)


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


def _title(run: int, what: str, result: Result) -> str:
    """With the setting, where all rows have the same."""
    settings = _settings(result)
    alone = settings if len(settings) == 1 else []
    return ", ".join([f"Run {run}, {what}: {machine_name(result.machine)}", *alone])


def _settings(result: Result) -> set[str]:
    return {in_words(row) for row in result.rows}


def _table(title: str, note: str, rows: Sequence[Row], columns: Sequence[Column]) -> Table:
    """Columns in which no row has anything are left out."""
    shown = [(column.name, [column.show(row) for row in rows]) for column in columns]
    kept = [(name, cells) for name, cells in shown if any(cells) or not rows]
    header, cells = zip(*kept, strict=True)
    return Table(title, note, header, list(zip(*cells, strict=True)))


def _fitted(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.2f}"
