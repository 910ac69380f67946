"""`pgn-bench scaling`: both sweeps, the exponents of a law, and the rate that networks reach."""

from __future__ import annotations

import gc
import importlib.util
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_providers import FOOTPRINT, bench, provider

from pgn_bench import gradient, peak, scaling
from pgn_bench.peak import matmul_rate
from pgn_bench.providers_catalogue import Wanted
from pgn_bench.results import Row, load
from pgn_bench.scaling import Point, exponents, forecast, points, slope
from pgn_bench.timing import interleaved

WEIGHTS = 4 * 1000  # bytes


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient, "interleaved", partial(interleaved, block_seconds=0.0))


def row(size: int, batch: int, median: float, working: int | None = None) -> Row:
    peak = None if working is None else WEIGHTS + working
    times = (median, median, median)
    return Row(
        "net", "torch", "cpu", size, batch, 1, "fp32", *times, 3, peak_bytes=peak, parameters=1000
    )


def test_points_are_both_sweeps() -> None:
    assert points([128, 256], [1, 4]) == [Point(128, 1), Point(256, 1), Point(128, 4)]
    assert Point(128, 4).pixels == 65536


def test_exponents_are_those_of_the_law() -> None:
    assert slope([(1, 3.0), (10, 300.0), (100, 30_000.0)]) == pytest.approx(2.0)
    rows = [row(s, 1, 1e-3 * s**2.2, 7 * s**2) for s in (32, 64, 128)]
    rows += [row(32, b, 1e-3 * 32**2.2 * math.sqrt(b)) for b in (4, 16)]
    (found,) = exponents(rows)
    assert found["time ~ pixels^"] == pytest.approx(1.1)
    assert found["memory ~ pixels^"] == pytest.approx(1.0)
    assert found["time ~ batch^"] == pytest.approx(0.5)
    assert "memory ~ batch^" not in found, "one point"
    rows.append(row(16, 1, 1e-3 * 16**2.2, -1))  # less than its weights has no logarithm
    assert exponents(rows)[0]["memory ~ pixels^"] == pytest.approx(1.0)
    assert exponents([]) == []


def test_a_sweep_stops_before_the_memory_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    way = replace(provider("net", 1.0).ways[0], runtime="torch")
    one = replace(provider("net"), ways=[way, replace(way, runtime="torch.compile")])
    monkeypatch.setattr(scaling, "catalogue", lambda *_: iter([one]))
    monkeypatch.setattr(gradient, "footprint", lambda build, task: FOOTPRINT)
    weights = 4 * 1000
    enough = 2 * (weights + 4 * (5_000_000 - weights))  # at four times the pixels
    monkeypatch.setattr(scaling, "free_memory", lambda _: enough)
    wanted = Wanted(("net",), losses=(), runtimes=("torch",), dtypes=("fp32",))
    where = [Point(32, 1), Point(64, 1), Point(96, 1)]
    rows, left_out = scaling.sweep(wanted, where, 1, "cpu", lambda _: None)
    assert [r.size for r in rows] == [32, 64] and {r.runtime for r in rows} == {"torch"}
    assert left_out.keys() == {"net, 96 px, batch 1"} and "GiB" in str(
        left_out["net, 96 px, batch 1"]
    )
    for each in rows:
        fraction = scaling.with_fraction(each, 1e9).details["sgemm_fraction"]
        assert fraction == pytest.approx(1e6 / (each.median_ms / 1000) / 1e9)
    monkeypatch.setattr(scaling, "free_memory", lambda _: enough - 1)
    rows, left_out = scaling.sweep(wanted, where, 1, "cpu", lambda _: None)
    assert [r.size for r in rows] == [32] and len(left_out) == 2


def test_weights_are_foreseen_once() -> None:
    first = replace(row(32, 2, 1.0), formula_bytes=WEIGHTS + 2 * 32 * 32 * 100)
    assert forecast(first, Point(32, 2)) == 2 * (first.formula_bytes or 0)
    assert forecast(first, Point(64, 3)) == 2 * (WEIGHTS + 3 * 64 * 64 * 100)


def test_a_gpu_gives_back_what_is_kept_before_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(gc, "collect", lambda: calls.append("collect"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("empty"))

    def asked() -> tuple[int, int]:
        calls.append("asked")
        return 5, 9

    monkeypatch.setattr(torch.cuda, "mem_get_info", asked)
    assert scaling.free_memory("cuda") == 5 and calls == ["collect", "empty", "asked"]
    assert scaling.free_memory("cpu") > 2**20 and len(calls) == 3


def test_scaling_prints_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = [replace(provider("", 1.0).ways[0], runtime="torch")]
    monkeypatch.setattr(
        scaling,
        "catalogue",
        lambda wanted, *_: iter(
            [replace(provider(n), ways=ways) for n in (*wanted.losses, *wanted.networks)]
        ),
    )
    monkeypatch.setattr(gradient, "footprint", lambda build, task: FOOTPRINT)
    monkeypatch.setattr(peak, "CALLS", {64: 1})
    words = ("scaling", "--sizes", "32,64", "--batches", "1,2", "--checkpoint", "nano")
    shown = bench(*words, "--threads", 1, "-o", tmp_path / "s.json")
    assert shown.exit_code == 0, shown.exception
    result = load(tmp_path / "s.json")
    assert result.kind == "scaling" and len(result.rows) == 6
    assert len(result.settings["exponents"]) == 2 and result.settings["sgemm_gmacs"] > 0
    assert "time ~ pixels^" in shown.stdout and "vgg19" in shown.stdout
    for each in result.rows:
        assert each.details["sgemm_fraction"] > 0
    alone = bench("scaling", "--sizes", 100, "--batches", 1, "--checkpoint", "nano").stdout
    assert "of sgemm" in alone and "torch:" not in alone, "one point has no exponent"


def test_the_rate_is_that_of_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of both libraries, all sizes and calls by the clock; then the second is not installed."""
    clock = {
        ("torch", 100): [3e-3], ("torch", 200): [9e-3, 8e-3],
        ("onnxruntime", 100): [1e-3], ("onnxruntime", 200): [5e-3, 7e-3],
    }  # fmt: skip
    monkeypatch.setattr(peak, "CALLS", {100: 1, 200: 2})
    monkeypatch.setattr(peak, "_in_torch", lambda threads, device, side: ("torch", side))
    monkeypatch.setattr(peak, "_in_onnxruntime", lambda threads, side: ("onnxruntime", side))

    def seconds(product: tuple[str, int]) -> float:
        clock[product] = [*clock[product][1:], clock[product][0]]
        return clock[product][-1]

    monkeypatch.setattr(peak, "_seconds", seconds)
    assert matmul_rate(1, "cpu") == pytest.approx(8e6 / 5e-3)
    assert matmul_rate(1, "cuda") == pytest.approx(8e6 / 8e-3)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert matmul_rate(1, "cpu") == pytest.approx(8e6 / 8e-3)


def test_what_is_timed_are_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "CALLS", {16: 2})
    a, b = np.random.default_rng(0).random((2, 16, 16), dtype=np.float32)
    found = peak._in_onnxruntime(1, 16)()
    assert isinstance(found, list)
    np.testing.assert_allclose(found[0], a @ b, rtol=1e-5)
    assert 0 < matmul_rate(1, "cpu") < 1e13
