"""What tables tell of measured rows, as text that is empty where nothing was measured.

Details of rows come from other machines and are of no known type: numbers and short texts are
shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeGuard

import numpy as np

from pgn_bench.results import Row, fastest_exact, setting_of

MOST_OPERATORS = 6  # with columns of their own
MOST_LETTERS = 40  # of a text in details


@dataclass(frozen=True)
class Column:
    """A heading, and what stands below it."""

    name: str
    show: Callable[[Row], str]


def short(value: float) -> str:
    """Three digits, never an exponent: 0.123, 12.3, 1,234; what is below a billionth is 0."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return np.format_float_positional(
        round(value, 9), precision=3, unique=False, fractional=False, trim="-"
    )


def general(rows: Sequence[Row]) -> list[Column]:
    """All that rows of any kind may have, but for their setting; the first one names them."""
    return [
        NAME,
        Column("trained", partial(_detail, "preset")),
        Column("way", lambda row: f"{row.runtime} {row.dtype}"),
        MILLISECONDS,
        Column("p90", lambda row: short(row.p90_ms)),
        Column("CPU ms", lambda row: _number(row.cpu_ms)),
        Column("times faster", _times_faster(rows)),
        Column("new images/s", partial(_detail, "new_images_per_second")),
        Column("times, new", partial(_detail, "times_new")),
        Column("updates/s", partial(_detail, "learnt_images_per_second")),
        Column("times, updates", partial(_detail, "times_learnt")),
        Column("joules", lambda row: _number(row.joules)),
        Column("of sgemm", partial(_percent, "sgemm_fraction")),
        Column("peak MB", lambda row: _number(row.peak_bytes, 1e6)),
        Column("counted MB", lambda row: _number(row.formula_bytes, 1e6)),
        Column("file MB", lambda row: _number(row.file_bytes, 1e6)),
        Column("load ms", lambda row: _number(row.load_ms)),
        Column("cosine", lambda row: "" if row.cosine is None else f"{row.cosine:.3f}"),
        Column("cosine, suite", partial(_detail, "mean_cosine")),
        Column("gap closed", partial(_percent, "gap_closed")),
    ]


def operators(rows: Sequence[Row]) -> list[Column]:
    """Of results of that kind: the dearest operators of all rows, milliseconds of a call."""
    totals: Counter[str] = Counter()
    for row in rows:
        totals.update(_operators(row))
    dearest = [name for name, _ in totals.most_common(MOST_OPERATORS)]

    def others(row: Row) -> str:
        return short(sum(ms for name, ms in _operators(row).items() if name not in dearest))

    return [
        Column("gradient", NAME.show),
        MILLISECONDS,
        Column("GMACs", lambda row: _number(row.macs, 1e9)),
        Column("of sgemm", partial(_percent, "sgemm_fraction")),
        Column("its products", partial(_percent, "products_sgemm_fraction")),
        *(Column(f"{name} ms", partial(_operator, name)) for name in dearest),
        Column("others ms", others),
    ]


def _times_faster(rows: Sequence[Row]) -> Callable[[Row], str]:
    """Than the fastest float32 form of exact VGG-19 in the same setting."""
    exact = fastest_exact(rows)

    def show(row: Row) -> str:
        base = exact.get(setting_of(row))
        return short(base / row.median_ms) if base and row.median_ms else ""

    return show


def _operators(row: Row) -> dict[str, float]:
    """Milliseconds by operator."""
    found = row.details.get("operators_ms")
    named = found.items() if isinstance(found, dict) else ()
    return {name[:MOST_LETTERS]: value for name, value in named if _is_number(value)}


def _operator(name: str, row: Row) -> str:
    return _number(_operators(row).get(name))


def _detail(name: str, row: Row) -> str:
    value = row.details.get(name)
    return value[:MOST_LETTERS] if isinstance(value, str) else _number(value)


def _percent(name: str, row: Row) -> str:
    value = row.details.get(name)
    return f"{100 * value:.0f}\u00a0%" if _is_number(value) else ""


def _number(value: object, scale: float = 1) -> str:
    """Divided by `scale`."""
    return short(value / scale) if _is_number(value) else ""


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


SETTING = Column(
    "size, batch, threads", lambda row: f"{row.size},\u00a0{row.batch},\u00a0{row.threads}"
)
NAME = Column("what", lambda row: row.provider + ("\u00a0*" if "weights" in row.details else ""))
MILLISECONDS = Column("ms", lambda row: short(row.median_ms) + ("\u00a0~" if row.noisy else ""))
