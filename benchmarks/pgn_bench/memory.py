"""Load time and peak memory of a provider, in a process of its own.

torch is not imported here: what runs in ONNX Runtime or LiteRT is measured in a process without it.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from pgn_bench.providers_exported import Call, Task
from pgn_runtime.apart import call_apart
from pgn_runtime.memory import peak_of

CALLS = 2  # the second with what a runtime keeps

Build = Callable[[Task], Call]


@dataclass(frozen=True)
class Footprint:
    """Of one provider in a fresh process."""

    cold_load_ms: float  # import of its runtime, reading, compiling: nothing was cached
    warm_load_ms: float  # the same again in the same process
    peak_bytes: int | None  # highest above the loaded process; None where nothing tells
    reserved_bytes: int | None = None  # of CUDA's caching allocator, all in all


def footprint(build: Build, task: Task) -> Footprint:
    """Load and call a provider in a process of its own; `build` must be picklable.

    Raises:
        Crashed: a signal ended that process.
        RuntimeInputError: it failed; with its last words.
    """
    return Footprint(**call_apart(_watched, build, task))


def _watched(build: Build, task: Task) -> dict[str, Any]:
    return asdict(watch(build, task))


def watch(build: Build, task: Task) -> Footprint:
    """What the child does."""
    start = time.perf_counter()
    build(task)
    cold = time.perf_counter() - start
    gc.collect()
    start = time.perf_counter()
    call = build(task)
    warm = time.perf_counter() - start
    measure = _on_gpu if task.device == "cuda" else _resident
    peak, reserved = measure(call)
    return Footprint(1000 * cold, 1000 * warm, peak, reserved)


def _resident(call: Call) -> tuple[int | None, None]:
    """Peak of resident memory during calls, above that before them."""
    return peak_of(lambda: [call() for _ in range(CALLS)]), None


def _on_gpu(call: Call) -> tuple[int, int]:
    """Peak of what tensors take during calls, above that before them; and of what is reserved."""
    import torch

    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    for _ in range(CALLS):
        call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before, torch.cuda.max_memory_reserved()
