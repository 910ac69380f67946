"""How we time: warm-up, short blocks of calls in turn (A B A B), medians and percentiles."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import numpy as np

from pgn_bench.energy import Meter

WARM_UP = 3  # calls of each before the first round
BLOCK = 3  # timed calls in a row, at least
BLOCK_SECONDS = 0.2  # that they last, at least: a call of milliseconds is timed many times
REST = 0.05  # seconds; idle threads of ONNX Runtime and OpenMP spin for less before they sleep
NOISY = 1.3  # p90 / p10 above which a measurement is not to be trusted; 1.05 to 1.2 when quiet
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
    block_seconds: float = BLOCK_SECONDS,
) -> dict[str, Timing]:
    """Time a block of calls of each in every round, so that a busy moment of the machine hits all.

    Each round begins with another one, so that none always follows the same.

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
    names = list(calls)
    for _ in range(rounds):
        for name in names:
            time.sleep(REST)
            calls[name]()
            meter = Meter()
            block = _block(calls[name], block_seconds)
            seconds[name] += block
            if (used := meter.joules()) is not None:
                joules[name].append(used / len(block))
        names = [*names[1:], names[0]]
        advance()
    return {name: _of_calls(values, joules[name]) for name, values in seconds.items()}


def summary(seconds: Sequence[float], joules: Sequence[float]) -> Timing:
    """Of calls, or steps; energy that blocks of them took a call, where it is told."""
    p10, middle, p90 = (float(value) for value in 1000 * np.percentile(seconds, (10, 50, 90)))
    used = median(joules) if joules else None
    return Timing(middle, p10, p90, len(seconds), joules=used)


def noise_warning(noisy: Sequence[bool]) -> str:
    """What to say of rows some of which are noisy; empty where none is."""
    if not any(noisy):
        return ""
    return (
        f"{sum(noisy)} of {len(noisy)} rows are noisy (p90 above {NOISY} times p10). Repeat with "
        f"no other program on this machine; CPU time suffers less from them than wall time."
    )


def _seconds(call: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of a call."""
    start, start_cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - start, time.process_time() - start_cpu


def _block(call: Callable[[], object], least: float) -> list[tuple[float, float]]:
    """Wall and CPU seconds of each call, of `least` seconds or more in a row."""
    found: list[tuple[float, float]] = []
    end = time.perf_counter() + least
    while len(found) < BLOCK or time.perf_counter() < end:
        found.append(_seconds(call))
    return found


def _of_calls(seconds: Sequence[tuple[float, float]], joules: Sequence[float]) -> Timing:
    """`summary` of wall and CPU seconds."""
    wall, cpu = zip(*seconds, strict=True)
    return replace(summary(wall, joules), cpu_ms=1000 * median(cpu))


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
    """Name and libraries of the GPU, where this process has used one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    return {
        "gpu": torch.cuda.get_device_name(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
