"""The share of the way from MSE's loss to the teacher's that a run goes, and how sure that is.

Percentile bootstrap over cases (Efron, 1979). Of a handful of cases such intervals are too narrow:
that of the mean of two is what lies between the two.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
LEVEL = 95.0  # per cent

Losses = NDArray[np.float64]  # final VGG-19 losses of one run, (cases,)
Interval = tuple[float, float]


def gap_closed(mse: Losses, exact: Losses, run: Losses) -> float | None:
    """(MSE's mean loss - the run's) / (MSE's - exact's): 0 is as good as MSE, 1 as exact.

    None where MSE ends no worse than the exact gradient: there is no gap.
    """
    gap = mse.mean() - exact.mean()
    return float((mse.mean() - run.mean()) / gap) if gap > 0 else None


def gap_interval(mse: Losses, exact: Losses, run: Losses) -> Interval | None:
    """95 % percentile interval of `gap_closed` over cases; all three runs share each resample.

    None for a single case, and where a resample has no gap: its share is not bounded.
    """
    if len(mse) < 2:
        return None
    mse_means, exact_means, run_means = map(_resampled_means, (mse, exact, run))
    gaps = mse_means - exact_means
    return None if (gaps <= 0).any() else _middle((mse_means - run_means) / gaps)


def mean_interval(values: NDArray[np.float64]) -> Interval | None:
    """95 % percentile interval of the mean of (cases,); None for a single one."""
    return None if len(values) < 2 else _middle(_resampled_means(values))


def _resampled_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means (RESAMPLES,) of cases drawn with replacement, the same ones whatever the values."""
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    means: NDArray[np.float64] = values[drawn].mean(axis=1)
    return means


def _middle(values: NDArray[np.float64]) -> Interval:
    """Between what the middle LEVEL per cent lie."""
    tail = (100.0 - LEVEL) / 2
    low, high = np.percentile(values, [tail, 100.0 - tail])
    return float(low), float(high)
