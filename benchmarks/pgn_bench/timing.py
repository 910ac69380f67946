"""How we time: warm-up, short blocks of calls in turn (A B A B), medians and percentiles."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

WARM_UP = 3  # calls of each before the first round
BLOCK = 3  # timed calls in a row
REST = 0.05  # seconds; idle threads of ONNX Runtime and OpenMP spin for less before they sleep
PACKAGES = ("torch", "onnxruntime", "ai-edge-litert", "numpy")


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call, over all that were timed."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    calls: int


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Timing]:
    """Time BLOCK calls of each in every round, so that a busy moment of the machine hits all.

    Before a block the machine rests, and one call is not timed: the threads of other runtimes
    would still spin for work on the cores that this one needs, and the caches hold their data.
    Without that, ONNX Runtime in turn with PyTorch takes up to three times as long as alone.
    """
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            time.sleep(REST)
            call()
            seconds[name] += [_seconds(call) for _ in range(BLOCK)]
        advance()
    return {name: _summary(np.array(values) * 1000) for name, values in seconds.items()}


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _summary(milliseconds: np.ndarray) -> Timing:
    p10, median, p90 = (float(value) for value in np.percentile(milliseconds, (10, 50, 90)))
    return Timing(median, p10, p90, len(milliseconds))


def machine() -> dict[str, object]:
    """Processor, cores, load and versions: absolute times mean nothing without them."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }
