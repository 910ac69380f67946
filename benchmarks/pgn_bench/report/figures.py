"""Time against memory of one gradient, as in Figures 2 and 8 of arXiv 2105.01957."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from pgn.pages import to_svg
from pgn_bench.report.settings import Setting
from pgn_bench.results import Row

INCHES = (4.6, 5.0)  # small, so that letters can be read on a phone's screen
PALETTE = "tab20"
MOST_NAMES = 20  # its colours; providers that come later are in the tables only
MARKERS = "osD^vP*X"


def time_against_memory(setting: Setting) -> str | None:
    """Inline SVG of all float32 rows; None where no memory was measured."""
    rows = [row for row in setting.rows if row.dtype == "fp32" and row.peak_bytes and row.median_ms]
    return to_svg(draw(rows)) if rows else None


def draw(rows: Sequence[Row]) -> Figure:
    """Rows with a time and a memory above 0: a colour a provider, a marker a runtime."""
    names = list(dict.fromkeys(row.provider for row in rows))[:MOST_NAMES]
    runtimes = list(dict.fromkeys(row.runtime for row in rows))[: len(MARKERS)]
    colours = {name: matplotlib.colormaps[PALETTE](index) for index, name in enumerate(names)}
    markers = dict(zip(runtimes, MARKERS, strict=False))
    figure = Figure(figsize=INCHES, layout="constrained")
    axes = figure.add_subplot()
    for row in rows:
        if row.provider in colours and row.runtime in markers:
            place = row.median_ms, (row.peak_bytes or 0) / 1e6
            axes.plot(*place, markers[row.runtime], color=colours[row.provider])
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    axes.set_xlabel("milliseconds of one gradient")
    axes.set_ylabel("peak memory, MB")
    axes.grid(alpha=0.3)
    keys = [_key(name, "o", colour) for name, colour in colours.items()]
    keys += [_key(runtime, marker, "black") for runtime, marker in markers.items()]
    figure.legend(
        handles=keys, loc="outside lower center", ncols=2, frameon=False, fontsize="small"
    )
    return figure


def _key(name: str, marker: str, colour: object) -> Line2D:
    """An entry of the legend; `name` may be anything, and is neither mathematics nor hidden."""
    shown = "".join(letter if " " <= letter <= "~" else "?" for letter in name[:40])
    label = shown.replace("\\", "/").replace("$", r"\$")
    return Line2D([], [], linestyle="", marker=marker, color=colour, label=label)  # type: ignore[arg-type]
