"""How time and memory of a gradient grow with pixels and with the batch.

Also the rate of each as a fraction of the machine's reference rate, that of products of matrices.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from pgn import PgnError
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
    wanted: Wanted, where: Sequence[Point], threads: int, device: str, say: Say
) -> tuple[list[Row], dict[str, ValueError]]:
    """Rows of every provider at every point, one after the other; what was left out, and why.

    Each point's memory is foreseen from the first one's: what would not fit is left out.
    """
    rows: list[Row] = []
    left_out: dict[str, ValueError] = {}
    for name in (*wanted.losses, *wanted.networks):
        first: Row | None = None
        for point in where:
            shown = f"{name}, {point.size} px, batch {point.batch}"
            say(shown)
            needed = forecast(first, point) if first else 0.0
            free = free_memory(device)
            if needed > free:
                left_out[shown] = too_much(needed, free)
                continue
            task = photo_task(point.size, threads, device, point.batch)
            found, errors = _measure(_alone(wanted, name), task)
            left_out |= {f"{shown}: {label}": error for label, error in errors.items()}
            rows += found
            counted = [row for row in found if row.formula_bytes]
            first = first or max(counted, key=lambda row: row.formula_bytes or 0, default=None)
    return rows, left_out


def with_fraction(row: Row, rate: float) -> Row:
    """`row` telling its fraction of the machine's reference rate, multiply-accumulates a second."""
    reached = (row.macs or 0) / (row.median_ms / 1000)
    return replace(row, details=row.details | {"sgemm_fraction": reached / rate})


def forecast(first: Row, point: Point) -> float:
    """`needed_bytes` at `point`, by what was counted at the first one."""
    growth = point.pixels / (first.batch * first.size**2)
    return needed_bytes(first.formula_bytes or 0, weight_bytes(first), growth)


def too_much(needed: float, free: float) -> PgnError:
    """Of bytes: why something is not measured."""
    return PgnError(
        f"needs about {needed / 2**30:.1f} GiB, free: {free / 2**30:.1f}. Give a smaller size."
    )


def needed_bytes(counted: int, weights: int, growth: float) -> float:
    """Bytes that must be free for `growth` times the pixels at which `counted` ones were counted,
    weights included; working memory grows with pixels, weights do not."""
    return MARGIN * (weights + (counted - weights) * growth)


def weight_bytes(row: Row) -> int:
    """Of float32 weights, as all rows of a sweep have them."""
    return 4 * (row.parameters or 0)


def exponents(rows: Sequence[Row]) -> list[dict[str, float | str]]:
    """For every provider and runtime: k in time ~ pixels^k, memory ~ batch^k, and so on.

    Fitted by least squares to logarithms; what has one point only is left out. Memory is working
    memory: the peak without the weights, which do not grow.
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
            working = [(x, (row.peak_bytes or 0) - weight_bytes(row)) for x, row in pairs]
            above = [(x, value) for x, value in working if value > 0]
            for what, values in (("time", times), ("memory", above)):
                if len(values) > 1:
                    fitted[f"{what} ~ {along}^"] = slope(values)
        found.append(fitted)
    return found


def slope(values: Sequence[tuple[float, float]]) -> float:
    """k of y = c * x^k through points (x, y), all positive, by least squares of logarithms."""
    x, y = np.log(np.array(values, dtype=np.float64)).T
    return float(np.polyfit(x, y, 1)[0])


def free_memory(device: str) -> float:
    """Bytes that can be had; on a GPU, once PyTorch has given back what it keeps for later."""
    if device != "cuda":
        return available_memory()
    gc.collect()
    torch.cuda.empty_cache()
    return float(torch.cuda.mem_get_info()[0])


def _alone(wanted: Wanted, name: str) -> Wanted:
    losses = [name] if name in wanted.losses else []
    return replace(wanted, losses=losses, networks=[] if losses else [name])


def _measure(wanted: Wanted, task: Task) -> tuple[list[Row], dict[str, ValueError]]:
    """Rows of one provider, eager and as exported in float32."""
    with tempfile.TemporaryDirectory() as folder:
        (provider,) = catalogue(wanted, task, Path(folder))
        plain = [way for way in provider.ways if way.runtime in wanted.runtimes]
        prepared = prepare([replace(provider, ways=plain)], task, lambda _: None)
        rows = time_rows(prepared, task, ROUNDS)
    return rows, prepared.left_out
