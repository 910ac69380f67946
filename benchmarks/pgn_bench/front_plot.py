"""The picture of the front: milliseconds on a logarithmic axis, cosine, names beside points."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, pairwise
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from pgn.files import atomic_path
from pgn_bench.front import EXPORTED, Point, pareto

COLOURS = {True: "tab:blue", False: "tab:orange"}  # of networks and of losses
KINDS = {True: "PGN, one forward pass", False: "loss, forward and backward"}
MARKER = 6.0  # typographic points
GAP = 5.0  # between a point and its name
# where a name may stand: directions in the order of preference, near first, then farther off
DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (-1, 1), (0, -1), (1, -1), (1, 1), (-1, -1))
DISTANCES = (1.0, 2.5, 4.0, 6.0)  # times GAP
ALIGNMENT_X = {1: "left", 0: "center", -1: "right"}
ALIGNMENT_Y = {1: "bottom", 0: "center", -1: "top"}


def write_front(path: Path, points: Sequence[Point], title: str) -> None:
    """Draw `points` as an SVG file, by rename."""
    with atomic_path(path) as temporary:
        draw(points, title).savefig(temporary, format="svg", metadata={"Date": None})


def draw(points: Sequence[Point], title: str) -> Figure:
    """The points, their names, and the front as a thin line."""
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.add_subplot()
    corners = _corners(pareto(points))
    axes.plot(*zip(*corners, strict=True), color="grey", linewidth=0.8, label="front", zorder=1)
    for kind, colour in COLOURS.items():
        chosen = [p for p in points if p.is_network == kind]
        x, y = [p.timing.median_ms for p in chosen], [p.cosine.mean for p in chosen]
        axes.plot(x, y, "o", color=colour, markersize=MARKER, label=KINDS[kind])
    axes.set_xscale("log")
    axes.margins(0.15, 0.1)
    axes.set_xlabel(f"milliseconds of one gradient, in {EXPORTED} unless named")
    axes.set_ylabel("cosine with the exact gradient")
    axes.set_title(title, fontsize="medium")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    figure.draw_without_rendering()  # puts the axes in their place
    _name(axes, points, corners)
    return figure


def _corners(front: Sequence[Point]) -> list[tuple[float, float]]:
    """The best cosine that can be had in a time: constant up to the next point, then a step."""
    places = [(p.timing.median_ms, p.cosine.mean) for p in front]
    steps = [[(after[0], before[1]), after] for before, after in pairwise(places)]
    return [places[0], *chain(*steps)]


def _name(axes: Axes, points: Sequence[Point], corners: Sequence[tuple[float, float]]) -> None:
    """Write each point's name where it covers no point, no other name and not the front."""
    pixel = axes.figure.dpi / 72  # of a typographic point
    places = axes.transData.transform([(p.timing.median_ms, p.cosine.mean) for p in points])
    taken = [Bbox.from_bounds(x, y, 0, 0).padded(pixel * MARKER / 2) for x, y in places]
    taken += [Bbox(ends) for ends in pairwise(axes.transData.transform(corners))]
    for point in points:
        for distance, direction in ((d, xy) for d in DISTANCES for xy in DIRECTIONS):
            text = _annotate(axes, point, distance * GAP, direction)
            text.get_window_extent()  # puts it in its place
            box = Text.get_window_extent(text)  # without the line
            inside = axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1)
            inside &= axes.bbox.containsy(box.y0) and axes.bbox.containsy(box.y1)
            if inside and not box.count_overlaps(taken):
                break
            text.remove()
        else:
            _annotate(axes, point, GAP, DIRECTIONS[0])  # a crowd: better over another than absent
        taken.append(box)


def _annotate(axes: Axes, point: Point, gap: float, direction: tuple[int, int]) -> Text:
    """The name, `gap` typographic points off; a line leads to it where that is far."""
    x, y = direction
    text = axes.annotate(
        point.name if point.runtime == EXPORTED else f"{point.name} ({point.runtime})",
        (point.timing.median_ms, point.cosine.mean),
        xytext=(gap * x, gap * y),
        textcoords="offset points",
        ha=ALIGNMENT_X[x],
        va=ALIGNMENT_Y[y],
        fontsize="small",
        arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": "grey"} if gap > GAP else None,
    )
    text.set_in_layout(False)
    return text
