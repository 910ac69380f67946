"""Load time and peak memory come from a process of its own, small where nothing needs torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pgn_bench.gradient import photo_task, prepare
from pgn_bench.memory import Footprint, footprint, watch
from pgn_bench.providers_catalogue import Cost, Provider, Way
from pgn_bench.providers_exported import Task
from pgn_runtime import memory
from pgn_runtime.apart import Crashed

IMAGE = np.zeros((1, 3, 32, 32), dtype=np.float32)
TASK = Task(IMAGE, IMAGE, threads=1)
MEGA = 10**6


def greedy(task: Task) -> Callable[[], object]:
    """Keeps 40 MB from its building on, which takes 160 MB for a moment; a call takes 70 MB more,
    50 of them at one moment."""
    kept = np.ones(120 * MEGA, dtype=np.uint8)[: 40 * MEGA].copy()

    def call() -> object:
        first = np.ones(50 * MEGA, dtype=np.uint8)
        del first
        second = np.ones(20 * MEGA, dtype=np.uint8)
        return kept[0] + second[0]

    return call


def dying(task: Task) -> Callable[[], object]:
    os.kill(os.getpid(), signal.SIGSEGV)
    return lambda: None


def slow(task: Task) -> Callable[[], object]:
    time.sleep(0.02)
    return lambda: task.generated


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions above, for a child."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


@pytest.mark.skipif(not memory.RESET.exists(), reason="Linux tells a process's peak memory")
@pytest.mark.usefixtures("importable")
def test_the_peak_is_weights_and_what_a_call_takes() -> None:
    found = footprint(greedy, TASK)
    assert found.peak_bytes == pytest.approx(90 * MEGA, rel=0.1)
    assert found.cold_load_ms > 0 and found.warm_load_ms > 0 and found.reserved_bytes is None


@pytest.mark.usefixtures("importable")
def test_what_kills_a_child_is_not_run_here() -> None:
    """torch.compile of 2.13 once wrote a program that wrote beyond its memory."""
    task = photo_task(32, 1, "cpu")
    way = Way("dying", "fp32", dying, Cost(1))
    found = prepare([Provider("net", slow, 1, False, [way])], task, lambda _: None)
    assert not found.ready and type(found.left_out["net, dying, fp32"]) is Crashed
    assert "signal 11" in str(found.left_out["net, dying, fp32"])


def test_load_time_is_that_of_building(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cold one from the moment on when the process was asked for, a minute ago."""
    monkeypatch.setattr(memory, "RESET", Path("gone"))
    found = watch(slow, TASK, time.time() - 60)
    assert 20 <= found.warm_load_ms < 10_000 and found.peak_bytes is None
    assert 60_020 <= found.cold_load_ms < 70_000


@pytest.mark.usefixtures("importable")
def test_a_cold_load_has_the_interpreter_and_its_imports_in_it() -> None:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import numpy"], check=True)
    least = 1000 * (time.perf_counter() - start)
    found = footprint(slow, TASK)
    assert found.cold_load_ms > 0.5 * least + found.warm_load_ms, "half, should that be a fluke"


def test_memory_of_a_gpu_is_above_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never run on a GPU: this stands in for CUDA's allocator."""
    calls: list[str] = []
    fake = SimpleNamespace(
        synchronize=lambda: calls.append("synchronize"),
        empty_cache=lambda: calls.append("empty"),
        reset_peak_memory_stats=lambda: calls.append("reset"),
        memory_allocated=lambda: 100,
        max_memory_allocated=lambda: 130,
        max_memory_reserved=lambda: 256,
    )
    monkeypatch.setattr("torch.cuda", fake)
    build = lambda task: lambda: calls.append("call")  # noqa: E731
    found = watch(build, Task(IMAGE, IMAGE, 1, "cuda"), time.time())
    assert (found.peak_bytes, found.reserved_bytes) == (30, 256)
    loaded = ["synchronize"]  # before the clock stops
    assert calls == [
        *loaded, "call", "synchronize", "empty", *loaded, "reset", "call", "call", "synchronize",
    ]  # fmt: skip
    assert Footprint(**found.__dict__) == found


def test_files_are_measured_without_torch() -> None:
    check = (
        "import sys, pgn_bench.memory; "
        "assert not {'torch', 'pgn', 'typer', 'onnxruntime'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", check], check=True)
