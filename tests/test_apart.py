"""What a process of its own gives, what it tells of its memory, and how its end is told."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pgn_runtime import memory
from pgn_runtime.apart import Crashed, call_apart, peak_apart
from pgn_runtime.errors import RuntimeInputError
from pgn_runtime.memory import peak_of

MEBIBYTE = 2**20


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions below, for a child."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def product(a: int, b: int) -> list[int]:
    return [a * b, os.getpid()]


def failing() -> None:
    raise ValueError("no such work")


def dying() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def allocating(mebibytes: int) -> Callable[[], object]:
    return partial(np.ones, mebibytes * MEBIBYTE // 8)


def test_another_process_does_it() -> None:
    found, process = call_apart(product, 6, 7)
    assert found == 42 and process != os.getpid()


def test_its_last_words_are_told() -> None:
    with pytest.raises(RuntimeInputError, match=r"not measured \(ValueError: no such work\)"):
        call_apart(failing)


def test_a_signal_is_told_apart() -> None:
    with pytest.raises(Crashed, match="signal 11"):
        call_apart(dying)


@pytest.mark.skipif(not memory.RESET.exists(), reason="Linux tells a process's peak memory")
def test_a_process_tells_what_was_allocated() -> None:
    small, large = (peak_apart(partial(allocating, mebibytes)) for mebibytes in (8, 64))
    assert small and large and (large - small) / MEBIBYTE == pytest.approx(56, abs=2)


def test_where_nothing_tells_there_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "RESET", Path("gone"))
    assert peak_of(lambda: np.ones(MEBIBYTE)) is None
