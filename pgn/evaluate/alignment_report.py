"""What `pgn-eval alignment` found: as JSON, as a checkpoint's card, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from pgn.degrade import SUITE
from pgn.evaluate.alignment import Row, suite_cosine
from pgn.evaluate.measures import MEASURES, Interval

INTERVAL = "mean over photos; half95 = 1.96 * standard deviation / sqrt(photos)"


@dataclass(frozen=True)
class Table:
    """Intervals under column names; None where nothing was measured."""

    columns: list[str]
    rows: dict[str, list[Interval | None]]


@dataclass(frozen=True)
class Report:
    """All figures of one run."""

    teacher: str
    photos: list[str]  # names, which rows count from 0
    networks: list[str]
    peers: list[str]
    left_out: dict[str, str]  # peers, and why
    rows: list[Row]

    @property
    def sizes(self) -> list[int]:
        return sorted({row.size for row in self.rows})

    @property
    def gradients(self) -> list[str]:
        return [*self.networks, *self.peers]

    def headline(self) -> dict[str, Interval]:
        """The cosine of every gradient, averaged over the suite at the largest size.

        Empty where the degraded photos were not among the situations.
        """
        if not any(row.situation in SUITE for row in self.rows):
            return {}
        return {name: suite_cosine(self.rows, name) for name in self.gradients}

    def by_gradient(self, measure: str, size: int, gradients: Sequence[str]) -> Table:
        """One measure at one size: a row for every situation, a column for every gradient."""
        rows = [row for row in self.rows if row.size == size]
        cells = {(row.situation, row.gradient): row.interval(measure) for row in rows}
        drawn = dict.fromkeys(row.situation for row in rows)
        return Table(
            list(gradients),
            {name: [cells.get((name, gradient)) for gradient in gradients] for name in drawn},
        )

    def by_measure(self, gradient: str, size: int, measures: Sequence[str]) -> Table:
        """One gradient at one size: a row for every situation, a column for every measure."""
        rows = [row for row in self.rows if row.size == size and row.gradient == gradient]
        return Table(
            list(measures),
            {row.situation: [row.interval(measure) for measure in measures] for row in rows},
        )

    def overall(self, gradient: str, size: int, measure: str) -> float:
        """The mean of one measure over all situations, each with the same weight."""
        cells = self.by_gradient(measure, size, [gradient]).rows.values()
        return fmean(found.mean for (found,) in cells if found)

    def summary(self) -> dict[str, Any]:
        """All means and intervals, ready for JSON."""
        return {
            "measure": "gradients compared with the exact gradient of the teacher",
            "teacher": self.teacher,
            "interval": INTERVAL,
            "photos": len(self.photos),
            "sizes": self.sizes,
            "networks": self.networks,
            "peers": self.peers,
            "left_out": self.left_out,
            "mean_cosine": {name: asdict(value) for name, value in self.headline().items()},
            "rows": [_means(row) for row in self.rows],
        }

    def everything(self) -> dict[str, Any]:
        """The summary, and every photo's values beside their means."""
        rows = [
            _means(row) | {"photo_indices": row.photos, "values": row.values} for row in self.rows
        ]
        return self.summary() | {"photo_names": self.photos, "rows": rows}

    def card(self, network: str) -> dict[str, Any]:
        """What travels with a checkpoint: its own figures, and one number."""
        own = [_means(row) for row in self.rows if row.gradient == network]
        return {
            "measure": "cosine with the exact gradient, at the largest size over the suite",
            "teacher": self.teacher,
            "photos": len(self.photos),
            "mean_cosine": self.headline()[network].mean,
            "interval": INTERVAL,
            "rows": own,
        }


def _means(row: Row) -> dict[str, Any]:
    return {
        "gradient": row.gradient,
        "situation": row.situation,
        "size": row.size,
        "photos": len(row.photos),
        **{measure: asdict(row.interval(measure)) for measure in MEASURES},
    }


def mean_cell(value: Interval | None) -> str:
    """A mean in few characters."""
    return "" if value is None else f"{value.mean:.3f}"


def cell(value: Interval | None) -> str:
    """A mean and half the width of its interval in few characters."""
    if value is None or value.half95 is None:
        return mean_cell(value)
    return f"{value.mean:.3f} ±{value.half95:.3f}"
