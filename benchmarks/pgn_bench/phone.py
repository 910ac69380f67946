"""Time and memory of exported gradients on an Android phone, by the runtimes' own programs.

It was never run on a real phone. The programs are started several times for every model, in turn
(A B A B); memory is that of a run of its own. They feed random inputs: what comes out is not
compared, pgn-export has done that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pgn import PgnError
from pgn_bench.deployed import Exported, read
from pgn_bench.phone_adb import Phone, ShellError
from pgn_bench.phone_tools import MAX_SECONDS, Reading, Tool
from pgn_bench.results import Row
from pgn_bench.timing import NOISY
from pgn_runtime.files import exists

FOLDER = "/data/local/tmp/pgn"  # on the phone; removed in the end
BLOCKS = 5  # runs of a program for every model
MEMORY_CALLS = 10  # of the run that tells memory
SECONDS = 3 * MAX_SECONDS  # of a run: warm-up, calls, and loading; then the phone itself ends it
SPARE = 10  # seconds more, until adb is no longer waited for


@dataclass(frozen=True)
class Model:
    """An exported gradient, and the program that runs it."""

    exported: Exported
    tool: Tool

    @property
    def label(self) -> str:
        return f"{self.exported.provider}, {self.tool.runtime}, {self.exported.dtype}"


@dataclass(frozen=True)
class Plan:
    """What is measured, how. `programs`: the tools' files, for this phone's processor."""

    models: Sequence[Model]
    programs: Mapping[Tool, Path]
    threads: int
    calls: int  # of every model, over all blocks


@dataclass(frozen=True)
class Measured:
    """Rows, and why other models have none."""

    rows: list[Row]
    left_out: dict[str, str]


def find_model(path: Path, programs: Mapping[Tool, Path]) -> Model:
    """An artifact of pgn-export, for one of the programs.

    Raises:
        PgnError: no such file, or none that these programs run; otherwise as `read`.
    """
    tool = next((tool for tool in programs if tool.suffix == path.suffix), None)
    if tool is None or not exists(path):
        able = " or ".join(tool.suffix for tool in programs)
        raise PgnError(
            f"artifacts: got {path}, expected a file of pgn-export that ends in {able}: what the "
            f"given programs run (--litert-benchmark: .tflite, --onnxruntime-perf-test: .onnx)."
        )
    return Model(read(path), tool)


def measure(phone: Phone, plan: Plan, advance: Callable[[], None] = lambda: None) -> Measured:
    """Push, run, read, clean up.

    Args:
        advance: called after each of BLOCKS + 1 rounds over all models.

    Raises:
        PgnError: a file cannot be pushed; the phone is lost.
    """
    readings: dict[int, list[Reading]] = {index: [] for index in range(len(plan.models))}
    left_out: dict[str, str] = {}
    with _pushed(phone, plan):
        for block in range(BLOCKS + 1):
            for index in list(readings):
                line = _line(plan, index, for_memory=block == BLOCKS)
                model = plan.models[index]
                try:
                    readings[index].append(model.tool.reading(phone.shell(line, SECONDS + SPARE)))
                except ShellError as error:
                    left_out[model.label] = str(error)
                    del readings[index]
            advance()
    rows = [
        _row(plan.models[index], plan.threads, timed, memory)
        for index, (*timed, memory) in readings.items()
    ]
    return Measured(rows, left_out)


@contextmanager
def _pushed(phone: Phone, plan: Plan) -> Iterator[None]:
    """Programs and models are in FOLDER; it is gone afterwards, unless the phone is."""
    phone.shell(f"rm -rf {FOLDER} && mkdir -p {FOLDER}")
    try:
        for tool, program in plan.programs.items():
            phone.push(program, f"{FOLDER}/{tool.runtime}")
        phone.shell(f"chmod 755 {FOLDER}/*")
        for index, model in enumerate(plan.models):
            phone.push(model.exported.path, f"{FOLDER}/{_remote_name(model, index)}")
        yield
    finally:
        with suppress(PgnError):
            phone.shell(f"rm -rf {FOLDER}")


def _line(plan: Plan, index: int, *, for_memory: bool) -> str:
    """What the phone's shell runs."""
    model = plan.models[index]
    flags = model.tool.for_memory if for_memory else model.tool.timed
    calls = MEMORY_CALLS if for_memory else -(-plan.calls // BLOCKS)
    graph = _remote_name(model, index)
    filled = flags.format(graph=graph, threads=plan.threads, calls=calls)
    return f"cd {FOLDER} && timeout {SECONDS} ./{model.tool.runtime} {filled}"


def _remote_name(model: Model, index: int) -> str:
    """Ours, so that no name of a file reaches the phone's shell."""
    return f"model{index}{model.tool.suffix}"


def _row(model: Model, threads: int, timed: Sequence[Reading], memory: Reading) -> Row:
    exported = model.exported
    times = [reading.typical_ms for reading in timed]
    p10, median, p90 = (float(value) for value in np.percentile(times, (10, 50, 90)))
    loads = [reading.load_ms for reading in timed if reading.load_ms is not None]
    details: dict[str, object] = {
        **exported.details,
        "times": f"of {len(timed)} runs of the program, the median or mean of each",
        "min_ms": min(reading.min_ms for reading in timed),
        "max_ms": max(reading.max_ms for reading in timed),
    }
    if memory.process_bytes is not None:
        details["process_bytes"] = memory.process_bytes
    return Row(
        provider=exported.provider,
        runtime=model.tool.runtime,
        device="cpu",
        size=exported.size,
        batch=exported.batch,
        threads=threads,
        dtype=exported.dtype,
        median_ms=median,
        p10_ms=p10,
        p90_ms=p90,
        calls=sum(reading.calls for reading in timed),
        load_ms=loads[0] if loads else None,  # the first, before the phone has the file at hand
        peak_bytes=memory.peak_bytes,
        file_bytes=exported.path.stat().st_size,
        parameters=exported.parameters,
        macs=exported.macs,
        noisy=p90 > NOISY * p10,
        details=details,
    )
