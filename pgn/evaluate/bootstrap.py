"""The share of the way from MSE's loss to the teacher's that a run goes, and how sure that is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
LEVEL = 95.0  # per cent

Losses = NDArray[np.float64]  # final VGG-19 losses of one run, (photos,)


def gap_closed(mse: Losses, exact: Losses, run: Losses) -> float | None:
    """(MSE's mean loss - the run's) / (MSE's - exact's): 0 is as good as MSE, 1 as exact.

    None where MSE ends no worse than the exact gradient: there is no gap.
    """
    gap = mse.mean() - exact.mean()
    return float((mse.mean() - run.mean()) / gap) if gap > 0 else None


def gap_interval(mse: Losses, exact: Losses, run: Losses) -> tuple[float, float] | None:
    """95 % percentile interval of `gap_closed` over photos; all three runs share each resample.

    None for a single photo, and where a resample has no gap: its share is not bounded.
    """
    photos = len(mse)
    if photos < 2:
        return None
    drawn = np.random.default_rng(0).integers(photos, size=(RESAMPLES, photos))
    mse_mean, exact_mean, run_mean = (losses[drawn].mean(axis=1) for losses in (mse, exact, run))
    gap = mse_mean - exact_mean
    if (gap <= 0).any():
        return None
    tail = (100.0 - LEVEL) / 2
    low, high = np.percentile((mse_mean - run_mean) / gap, [tail, 100.0 - tail])
    return float(low), float(high)
