"""Load time and peak memory of a provider, in a process of its own.

Memory is counted from libraries on: weights, kept features and working memory together. Runtimes
take them at different moments, LiteRT all when it loads, ONNX Runtime most at its first call.
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
from pgn_runtime.memory import highest_during, resident_bytes

CALLS = 2  # the second with what a runtime keeps

Build = Callable[[Task], Call]


@dataclass(frozen=True)
class Footprint:
    """Of one provider in a fresh process."""

    cold_load_ms: float  # from a process's start: interpreter, imports, reading, compiling
    warm_load_ms: float  # reading and compiling again in the same process
    peak_bytes: int | None  # weights and working memory; None where nothing tells
    reserved_bytes: int | None = None  # of CUDA's caching allocator, all in all


def footprint(build: Build, task: Task) -> Footprint:
    """Load and call a provider in a process of its own; `build` must be picklable.

    Raises:
        Crashed: a signal ended that process.
        RuntimeInputError: it failed; with its last words.
    """
    return Footprint(**call_apart(_watched, build, task, time.time()))


def _watched(build: Build, task: Task, start: float) -> dict[str, Any]:
    return asdict(watch(build, task, start))


def watch(build: Build, task: Task, start: float) -> Footprint:
    """What the child does; `start` is the moment, by `time.time()`, when it was asked for.

    It loads and calls twice: what stays when the first one is gone is its libraries'.
    """
    measure = _on_gpu if task.device == "cuda" else _resident
    _, call = _built(build, task)
    seconds = time.time() - start
    call()
    del call
    gc.collect()
    warm, peak, reserved = measure(build, task)
    return Footprint(1000 * seconds, 1000 * warm, peak, reserved)


def _built(build: Build, task: Task) -> tuple[float, Call]:
    start = time.perf_counter()
    call = build(task)
    if task.device == "cuda":
        import torch

        torch.cuda.synchronize()  # weights are still on their way
    return time.perf_counter() - start, call


def _resident(build: Build, task: Task) -> tuple[float, int | None, None]:
    """Seconds of loading; peak of resident memory during calls, above that before loading."""
    before = resident_bytes()
    seconds, call = _built(build, task)
    highest = highest_during(lambda: [call() for _ in range(CALLS)])
    if before is None or highest is None:
        return seconds, None, None
    return seconds, max(highest - before, 0), None


def _on_gpu(build: Build, task: Task) -> tuple[float, int, int]:
    """The same of tensors on the GPU; and what its allocator has reserved."""
    import torch

    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    seconds, call = _built(build, task)
    torch.cuda.reset_peak_memory_stats()
    for _ in range(CALLS):
        call()
    torch.cuda.synchronize()
    highest, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    return seconds, highest - before, reserved
