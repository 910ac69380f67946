"""Figures over photos of a Deep Image Prior study: means, and the share of the gap closed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pgn.evaluate.dip import DIVERGED, EXACT, MSE, STAGNATED
from pgn.evaluate.figures import FIGURES
from pgn.evaluate.gaps import measure_gap
from pgn.evaluate.study import Record


@dataclass(frozen=True)
class Row:
    """One run over all photos."""

    run: str
    means: dict[str, float]  # of FIGURES, less those that were not measured
    gap_closed: float | None  # of the mean losses; None where there is no gap
    gap_interval: tuple[float, float] | None  # 95 %
    gap_closed_by_photo: list[float | None]
    diverged: int  # fits
    stagnated: int


def summarise(records: Mapping[str, Sequence[Record]]) -> list[Row]:
    """A row for every run of `records`, {run: its fit to each photo}.

    Shares of the gap are None where MSE and EXACT are not among them.
    """
    losses = {run: np.array([fit["vgg19"] for fit in fits]) for run, fits in records.items()}
    measured = [name for name in FIGURES if all(name in fit for f in records.values() for fit in f)]
    rows = []
    for run, fits in records.items():
        stops = [fit["stopped"] for fit in fits]
        gap = measure_gap(losses, run, (MSE, EXACT))
        rows.append(
            Row(
                run,
                {name: float(np.mean([fit[name] for fit in fits])) for name in measured},
                gap.closed,
                gap.interval,
                gap.by_case,
                stops.count(DIVERGED),
                stops.count(STAGNATED),
            )
        )
    return rows


def mean_curve(fits: Sequence[Record]) -> tuple[list[int], list[float]]:
    """The mean VGG-19 loss at the checks that all fits reached, without the start.

    Beside the start's loss all others would look alike.
    """
    losses = zip(*(fit["vgg19_at_steps"] for fit in fits), strict=False)  # stopped ones are shorter
    means = [sum(values) / len(values) for values in losses]
    return fits[0]["steps"][1 : len(means)], means[1:]
