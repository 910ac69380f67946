"""The share of the MSE-to-VGG-19 gap that each run of a study closes, over its cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pgn.evaluate.bootstrap import Losses, gap_closed, gap_interval


@dataclass(frozen=True)
class Gap:
    """Shares: 0 is as good as MSE, 1 as the exact gradient; None where there is no gap."""

    closed: float | None  # of the mean losses
    interval: tuple[float, float] | None  # 95 %
    by_case: list[float | None]


def measure_gap(losses: Mapping[str, Losses], run: str, ends: tuple[str, str]) -> Gap:
    """How far `run` goes from the first of `ends` to the second; none where they did not run.

    Args:
        losses: {run: final VGG-19 loss of each case, (cases,)}.
    """
    if not set(ends) <= losses.keys():
        return no_gap(len(losses[run]))
    three = losses[ends[0]], losses[ends[1]], losses[run]
    by_case = zip(*(values[:, None] for values in three), strict=True)
    return Gap(gap_closed(*three), gap_interval(*three), [gap_closed(*one) for one in by_case])


def no_gap(cases: int) -> Gap:
    """Of what is no run between two others."""
    return Gap(None, None, [None] * cases)
