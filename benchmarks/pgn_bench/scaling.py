"""How time and memory of a gradient grow with pixels and with the batch.

Also which fraction each reaches of the machine's rate for matrix products, measured here: what a
network of convolutions could reach if nothing else took time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from pgn_bench.gradient import Say, photo_task, prepare, time_rows
from pgn_bench.providers_catalogue import Wanted, catalogue
from pgn_bench.providers_exported import Task
from pgn_bench.results import Row
from pgn_export.sizes import available_memory

SIZES = (128, 256, 512, 1024)  # pixels, one image
BATCHES = (1, 2, 4, 8, 16, 32)  # of images of the smallest size
ROUNDS = 1  # of timed blocks a point; growth by factors of four needs no more
MARGIN = 2.0  # times the counted memory must be free: a runtime needs more than the tensors


@dataclass(frozen=True)
class Point:
    """One setting of the two sweeps."""

    size: int
    batch: int

    @property
    def pixels(self) -> int:
        return self.batch * self.size**2


def points(sizes: Sequence[int], batches: Sequence[int]) -> list[Point]:
    """All sizes with one image, and all batches of the smallest size, each once."""
    found = [Point(size, 1) for size in sizes] + [Point(min(sizes), batch) for batch in batches]
    return list(dict.fromkeys(found))


def sweep(
    wanted: Wanted, where: Sequence[Point], threads: int, device: str, rate: float, say: Say
) -> tuple[list[Row], dict[str, str]]:
    """Rows of every provider at every point, one after the other; what was left out, and why.

    Each point's memory is foreseen from the first one's: what would not fit is left out.

    Args:
        rate: pgn_bench.peak's, of which each row's details tell the fraction that it reaches.
    """
    rows: list[Row] = []
    left_out: dict[str, str] = {}
    for name in (*wanted.losses, *wanted.networks):
        per_pixel = 0.0
        for point in where:
            shown = f"{name}, {point.size} px, batch {point.batch}"
            say(shown)
            needed, free = per_pixel * point.pixels, free_memory(device)
            if needed > free:
                left_out[shown] = f"needs about {needed / 2**30:.1f} GiB, free: {free / 2**30:.1f}."
                continue
            task = photo_task(point.size, threads, device, point.batch)
            found, reasons = _measure(_alone(wanted, name), task)
            left_out |= {f"{shown}: {label}": reason for label, reason in reasons.items()}
            rows += [_with_fraction(row, rate) for row in found]
            counted = [row.formula_bytes for row in found if row.formula_bytes]
            per_pixel = per_pixel or MARGIN * max(counted, default=0) / point.pixels
    return rows, left_out


def exponents(rows: Sequence[Row]) -> list[dict[str, float | str]]:
    """For every provider and runtime: k in time ~ pixels^k, memory ~ batch^k, and so on.

    Fitted by least squares to logarithms; what has one point only is left out.
    """
    smallest = min((row.size for row in rows), default=0)
    found = []
    for provider, runtime in dict.fromkeys((row.provider, row.runtime) for row in rows):
        own = [row for row in rows if (row.provider, row.runtime) == (provider, runtime)]
        growth = {
            "pixels": [(row.size**2, row) for row in own if row.batch == 1],
            "batch": [(row.batch, row) for row in own if row.size == smallest],
        }
        fitted: dict[str, float | str] = {"provider": provider, "runtime": runtime}
        for along, pairs in growth.items():
            times = [(x, row.median_ms) for x, row in pairs]
            peaks = [(x, row.peak_bytes) for x, row in pairs if row.peak_bytes]
            for what, values in (("time", times), ("memory", peaks)):
                if len(values) > 1:
                    fitted[f"{what} ~ {along}^"] = slope(values)
        found.append(fitted)
    return found


def slope(values: Sequence[tuple[float, float]]) -> float:
    """k of y = c * x^k through points (x, y), all positive, by least squares of logarithms."""
    x, y = np.log(np.array(values, dtype=np.float64)).T
    return float(np.polyfit(x, y, 1)[0])


def free_memory(device: str) -> float:
    """Bytes that can be had."""
    return float(torch.cuda.mem_get_info()[0]) if device == "cuda" else available_memory()


def _alone(wanted: Wanted, name: str) -> Wanted:
    losses = [name] if name in wanted.losses else []
    return replace(wanted, losses=losses, networks=[] if losses else [name])


def _measure(wanted: Wanted, task: Task) -> tuple[list[Row], dict[str, str]]:
    """Rows of one provider, eager and as exported in float32."""
    with tempfile.TemporaryDirectory() as folder:
        (provider,) = catalogue(wanted, task, Path(folder))
        plain = [way for way in provider.ways if way.runtime in wanted.runtimes]
        prepared = prepare([replace(provider, ways=plain)], task, lambda _: None)
        rows = time_rows(prepared, task, ROUNDS)
    return rows, prepared.reasons


def _with_fraction(row: Row, rate: float) -> Row:
    """`rate`: multiply-accumulates a second of the machine."""
    reached = (row.macs or 0) / (row.median_ms / 1000)
    return replace(row, details=row.details | {"sgemm_fraction": reached / rate})
