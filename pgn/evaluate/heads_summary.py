"""Figures over the persons of a study of talking heads, on fitted frames and on held-out ones."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pgn.evaluate.bootstrap import Interval, mean_interval
from pgn.evaluate.dip import DIVERGENCE
from pgn.evaluate.figures import FIGURES
from pgn.evaluate.gaps import Gap, measure_gap, no_gap
from pgn.evaluate.heads import BEFORE, EXACT, MSE, SPLITS, TRAIN
from pgn.evaluate.study import Record

Records = Mapping[str, Sequence[Record]]  # {run: its fit of each person}


@dataclass(frozen=True)
class Split:
    """One run over all persons, on one half of their frames."""

    means: dict[str, float]  # of FIGURES, less those that were not measured
    beyond_mse: dict[str, Interval | None]  # 95 % of the mean of (run - MSE), person by person
    gap: Gap  # of the VGG-19 loss


@dataclass(frozen=True)
class Row:
    """One run over all persons."""

    run: str
    splits: dict[str, Split]
    diverged: int  # persons
    step_seconds: float | None  # medians; none before a fit
    loss_seconds: float | None  # the loss's part of a step
    memory_bytes: int | None = None  # of the loss, at its peak


def summarise(records: Records, memory: Mapping[str, int | None]) -> list[Row]:
    """A row for every run of `records`; `memory` is that of each run's loss, where it is known."""
    return [
        Row(
            run,
            {split: _split(records, run, split) for split in SPLITS},
            sum(map(has_diverged, fits, records[BEFORE])),
            _median([fit["step_seconds"] for fit in fits]),
            _median([fit["loss_seconds"] for fit in fits]),
            memory.get(run),
        )
        for run, fits in records.items()
    ]


def has_diverged(fit: Record, before: Record) -> bool:
    """NaN, or a VGG-19 loss over DIVERGENCE times that before the fit, on the fitted frames."""
    return bool(fit["diverged"] or fit[TRAIN][EXACT] > DIVERGENCE * before[TRAIN][EXACT])


def _split(records: Records, run: str, split: str) -> Split:
    every = [fit[split] for fits in records.values() for fit in fits]
    measured = [name for name in FIGURES if all(name in figures for figures in every)]
    values = {name: _values(records, split, name) for name in measured}
    return Split(
        {name: float(values[name][run].mean()) for name in measured},
        {name: mean_interval(values[name][run] - values[name][MSE]) for name in measured},
        no_gap(len(records[run]))
        if run == BEFORE
        else measure_gap(values[EXACT], run, (MSE, EXACT)),
    )


def _values(records: Records, split: str, name: str) -> dict[str, NDArray[np.float64]]:
    """{run: a figure of each person, (persons,)}."""
    return {run: np.array([fit[split][name] for fit in fits]) for run, fits in records.items()}


def _median(seconds: Sequence[float | None]) -> float | None:
    known = [value for value in seconds if value is not None]
    return statistics.median(known) if known else None
