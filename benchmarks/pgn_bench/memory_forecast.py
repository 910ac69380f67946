"""Which gradients the free memory is enough for, foreseen by counting on a small image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pgn_bench.gradient import photo_task
from pgn_bench.providers_catalogue import Wanted, catalogue
from pgn_bench.providers_exported import Task
from pgn_bench.scaling import free_memory, needed_bytes, too_much

SMALL = 64  # pixels


def within_memory(wanted: Wanted, task: Task) -> tuple[Wanted, dict[str, ValueError]]:
    """What of `wanted` has enough memory at the size of a task, and why the rest is left out.

    All of it is loaded, so what cannot be is told before any export.

    Raises:
        PgnError: as `catalogue`.
    """
    small = photo_task(SMALL, task.threads, "cpu", len(task.generated))
    growth = task.generated.size / small.generated.size
    free = free_memory(task.device)
    kept: list[str] = []
    left_out: dict[str, ValueError] = {}
    eager = replace(wanted, runtimes=("torch",))  # the form that is counted; nothing is exported
    names = (*wanted.losses, *wanted.networks)
    for name, provider in zip(names, catalogue(eager, small, Path()), strict=True):
        weights = 4 * provider.parameters
        counted = max((way.cost.formula_bytes or weights for way in provider.ways), default=weights)
        needed = needed_bytes(counted, weights, growth)
        if needed <= free:
            kept.append(name)
        else:
            left_out[provider.name] = too_much(needed, free)
    losses = [name for name in wanted.losses if name in kept]
    networks = [name for name in wanted.networks if name in kept]
    return replace(wanted, losses=losses, networks=networks), left_out
