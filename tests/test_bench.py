"""Timing is interleaved and honest, and the demo shows what it promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pgn_bench.timing import WARM_UP, interleaved, machine


def test_calls_are_warmed_up_and_interleaved() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "ab"}
    timings = interleaved(calls, rounds=4)
    assert order == ["a"] * WARM_UP + ["b"] * WARM_UP + ["a", "b"] * 4
    assert timings["a"].rounds == 4
    assert timings["a"].p10_ms <= timings["a"].median_ms <= timings["a"].p90_ms


def test_the_machine_is_described() -> None:
    described = machine()
    assert described["cores"] and described["torch"] and described["processor"]


@pytest.mark.slow
def test_the_demo_descends_the_true_loss_on_both_runtimes(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "pgn_bench.demo", "-o", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    losses = [line for line in done.stdout.splitlines() if "true VGG-19 loss" in line]
    assert len(losses) == 4, done.stdout
    for line in losses[:2]:
        before, after = (float(word) for word in line.split("loss ")[1].split(",")[0].split(" -> "))
        assert after < 0.1 * before, line
    page = (tmp_path / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 7 and "<svg" in page
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page), "the page loads something"
