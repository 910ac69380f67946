"""Load time and peak memory of a provider, in a process of its own that watches itself.

resource.getrusage is no help: a child begins with the peak of the process that started it. Linux
tells the peak of a process since it was last reset, in /proc. torch is not imported here: what
runs in ONNX Runtime or LiteRT is measured in a process without it.
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from pgn_bench.providers_exported import Call, Task
from pgn_runtime.errors import RuntimeInputError
from pgn_runtime.memory import peak_bytes, resident_bytes

RESET = Path("/proc/self/clear_refs")
# freed blocks go back to the system at once, else they would hide what a call allocates
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
CALLS = 2  # the second with what a runtime keeps

Build = Callable[[Task], Call]


class Crashed(RuntimeInputError):
    """A signal ended the process: what it ran would end this one, too."""


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
    words = [sys.executable, "-m", "pgn_bench.memory"]
    done = subprocess.run(
        words, input=pickle.dumps((build, task)), capture_output=True, env=os.environ | ENVIRONMENT
    )
    last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
    if done.returncode < 0:
        raise Crashed(
            f"a process that ran it ended by signal {-done.returncode}; 9 is often too little "
            f"memory. {'; '.join(last):.300}"
        )
    if done.returncode:
        raise RuntimeInputError(f"memory: not measured ({'; '.join(last):.300}).")
    return Footprint(**json.loads(done.stdout.splitlines()[-1]))


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
    before = resident_bytes()
    if before is None or not RESET.exists():
        return None, None
    RESET.write_text("5")  # 5: the peak
    for _ in range(CALLS):
        call()
    peak = peak_bytes()
    return peak and max(peak - before, 0), None


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


if __name__ == "__main__":
    print(json.dumps(asdict(watch(*pickle.load(sys.stdin.buffer)))))
