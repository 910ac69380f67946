"""How we time: warm-up, short blocks of calls in turn (A B A B), medians and percentiles."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import numpy as np

from pgn_bench.energy import Meter

WARM_UP = 3  # calls of each before the first round
BLOCK = 3  # timed calls in a row
REST = 0.05  # seconds; idle threads of ONNX Runtime and OpenMP spin for less before they sleep
NOISY = 1.3  # p90 / p10 above which other programs disturbed a measurement; 1.05 to 1.2 when quiet
PACKAGES = ("torch", "onnxruntime", "ai-edge-litert", "numpy")


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call, over all that were timed."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    calls: int
    cpu_ms: float | None = None  # median of what all threads of the process took, where measured
    joules: float | None = None  # of the processor, median over blocks, where the system tells

    @property
    def noisy(self) -> bool:
        """Whether the calls took too different times to be trusted."""
        return self.p90_ms > NOISY * self.p10_ms


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Timing]:
    """Time BLOCK calls of each in every round, so that a busy moment of the machine hits all.

    Before a block the machine rests, and one call is not timed: the threads of other runtimes
    would still spin for work on the cores that this one needs, and the caches hold their data.
    Without that, ONNX Runtime in turn with PyTorch takes up to three times as long as alone.
    A call on a GPU must end when its result is there.
    """
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    joules: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            time.sleep(REST)
            call()
            meter = Meter()
            seconds[name] += [_seconds(call) for _ in range(BLOCK)]
            if (used := meter.joules()) is not None:
                joules[name].append(used / BLOCK)
        advance()
    return {name: _summary(values, joules[name]) for name, values in seconds.items()}


def noise_warning(noisy: Sequence[bool]) -> str:
    """What to say of rows some of which are noisy; empty where none is."""
    if not any(noisy):
        return ""
    return (
        f"{sum(noisy)} of {len(noisy)} rows are noisy (p90 above {NOISY} times p10; load average "
        f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores): other programs use this machine. "
        f"Repeat when it is quiet; CPU time suffers less than wall time."
    )


def _seconds(call: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of a call."""
    start, start_cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - start, time.process_time() - start_cpu


def _summary(seconds: list[tuple[float, float]], joules: list[float]) -> Timing:
    wall, cpu = 1000 * np.array(seconds).T
    p10, middle, p90 = (float(value) for value in np.percentile(wall, (10, 50, 90)))
    typical = median(joules) if joules else None
    return Timing(middle, p10, p90, len(wall), float(np.median(cpu)), typical)


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
        **_gpu(),
        **{name: found for name in PACKAGES if (found := _version(name))},
    }


def _gpu() -> dict[str, object]:
    """Name and driver library of the GPU, where torch is loaded and has one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return {}
    return {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
