"""The stock benchmark programs of LiteRT and ONNX Runtime: how to call them, what they print.

Formats as in tensorflow/lite/tools/benchmark/benchmark_model.cc and
onnxruntime/test/perftest/performance_runner.cc. Both are read in their older forms, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from pgn_bench.phone_adb import ShellError, last_lines

NUMBER = r"(\d[\d.]*(?:e[+-]?\d+)?)"
WARM_UP = 10  # calls; onnxruntime_perf_test makes one, and has no flag for more
MAX_SECONDS = 60  # after which LiteRT's program begins no further call


@dataclass(frozen=True)
class Reading:
    """What a program says of one run."""

    typical_ms: float  # median of its calls; the mean, where it prints no median
    min_ms: float
    max_ms: float
    calls: int
    load_ms: float | None
    peak_bytes: int | None  # highest above the program's start: library, weights, working memory
    process_bytes: int | None  # highest of the whole process


@dataclass(frozen=True)
class Tool:
    """A benchmark program; its lines take {graph}, {threads} and {calls}."""

    runtime: str
    target: str  # of pgn-export
    suffix: str
    timed: str
    for_memory: str
    read: Callable[[str], Reading]

    def reading(self, printed: str) -> Reading:
        """Read what it printed.

        Raises:
            ShellError: something else than its figures.
        """
        try:
            return self.read(printed)
        except (KeyError, IndexError, ValueError):
            raise ShellError(
                f"phone: what {self.runtime}'s program printed cannot be read: "
                f"{last_lines(printed)}"
            ) from None


def read_litert(printed: str) -> Reading:
    """The last line of statistics (microseconds), which is of the counted calls; MB are MiB."""
    statistics = re.findall(r".*count=\d.*", printed)[-1]
    found = {name: float(value) for name, value in re.findall(rf"(\w+)={NUMBER}", statistics)}
    # when every call took the same, nothing else is told
    found = dict.fromkeys(("avg", "min", "max"), found["curr"]) | found
    delta = re.search(rf"start of the tool \(MB\): init={NUMBER} overall={NUMBER}", printed)
    process = re.search(rf"Overall peak memory footprint \(MB\)[^:]*: {NUMBER}", printed)
    return Reading(
        typical_ms=found.get("median", found["avg"]) / 1000,
        min_ms=found["min"] / 1000,
        max_ms=found["max"] / 1000,
        calls=int(found["count"]),
        load_ms=_first(rf"Initialized session in {NUMBER} ?ms", printed),
        peak_bytes=round(float(delta[2]) * 2**20) if delta else None,
        process_bytes=round(float(process[1]) * 2**20) if process else None,
    )


def read_onnxruntime(printed: str) -> Reading:
    """Latencies are in seconds."""
    latency = {
        name: 1000 * float(value)
        for name, value in re.findall(rf"(Min|Max|P50) Latency(?: is|:) {NUMBER} ?s", printed)
    }
    created = _first(rf"Session creation time cost: ?{NUMBER}", printed)
    process = _first(rf"Peak working set size: ?{NUMBER}", printed)
    calls = re.findall(r"Total (?:iterations|inference requests): ?(\d+)", printed)
    return Reading(
        typical_ms=latency["P50"],
        min_ms=latency["Min"],
        max_ms=latency["Max"],
        calls=int(calls[-1]),
        load_ms=None if created is None else 1000 * created,
        peak_bytes=None,
        process_bytes=None if process is None else int(process),
    )


def _first(pattern: str, printed: str) -> float | None:
    found = re.search(pattern, printed)
    return float(found[1]) if found else None


_LITERT = (
    "--graph={graph} --num_threads={threads} --num_runs={calls} "
    f"--warmup_runs={WARM_UP} --min_secs=0 --max_secs={MAX_SECONDS} --use_xnnpack=true"
)
_ONNXRUNTIME = "-e cpu -m times -r {calls} -x {threads} -o 99 -S 1 -s -I {graph}"

LITERT = Tool(
    "litert",
    "tflite",
    ".tflite",
    timed=_LITERT,
    for_memory=f"{_LITERT} --report_peak_memory_footprint=true "
    "--memory_footprint_check_interval_ms=5",
    read=read_litert,
)
ONNXRUNTIME = Tool(
    "onnxruntime",
    "onnx",
    ".onnx",
    timed=_ONNXRUNTIME,
    for_memory=_ONNXRUNTIME,
    read=read_onnxruntime,
)
