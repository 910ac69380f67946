"""`pgn-bench scaling`: both sweeps, the exponents of a law, and the rate that networks reach."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_providers import FOOTPRINT, bench, provider

from pgn_bench import gradient, peak, scaling
from pgn_bench.peak import matmul_rate
from pgn_bench.providers_catalogue import Wanted
from pgn_bench.results import Row, load
from pgn_bench.scaling import Point, exponents, points, slope


def row(size: int, batch: int, median: float, peak: int | None = None) -> Row:
    return Row(
        "net", "torch", "cpu", size, batch, 1, "fp32", median, median, median, 3, peak_bytes=peak
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
    assert exponents([]) == []


def test_a_sweep_stops_before_the_memory_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    way = replace(provider("net", 1.0).ways[0], runtime="torch")
    one = replace(provider("net"), ways=[way, replace(way, runtime="torch.compile")])
    monkeypatch.setattr(scaling, "catalogue", lambda *_: iter([one]))
    monkeypatch.setattr(gradient, "footprint", lambda build, task: FOOTPRINT)
    monkeypatch.setattr(scaling, "free_memory", lambda _: 4 * 2 * 5_000_000 + 1)
    wanted = Wanted(("net",), losses=(), runtimes=("torch",), dtypes=("fp32",))
    where = [Point(32, 1), Point(64, 1), Point(96, 1)]
    rows, left_out = scaling.sweep(wanted, where, 1, "cpu", 1e9, lambda _: None)
    assert [r.size for r in rows] == [32, 64] and {r.runtime for r in rows} == {"torch"}
    assert left_out.keys() == {"net, 96 px, batch 1"} and "GiB" in left_out["net, 96 px, batch 1"]
    for each in rows:
        fraction = each.details["sgemm_fraction"]
        assert fraction == pytest.approx(1e6 / (each.median_ms / 1000) / 1e9)


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
    words = ("scaling", "--sizes", "32,64", "--batches", "1,2", "--checkpoint", "nano")
    shown = bench(*words, "--threads", 1, "-o", tmp_path / "s.json")
    assert shown.exit_code == 0, shown.exception
    result = load(tmp_path / "s.json")
    assert result.kind == "scaling" and len(result.rows) == 6
    assert len(result.settings["exponents"]) == 2 and result.settings["sgemm_gmacs"] > 0
    assert "time ~ pixels^" in shown.stdout and "vgg19" in shown.stdout
    for each in result.rows:
        assert each.details["sgemm_fraction"] > 0


def test_the_rate_is_that_of_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products that take 3 and 1 ms by the clock; then the second is not installed."""
    monkeypatch.setattr(peak, "MATRIX", 100)
    monkeypatch.setattr(peak, "_in_torch", lambda *_: lambda: 3e-3)
    monkeypatch.setattr(peak, "_in_onnxruntime", lambda _: lambda: 1e-3)
    monkeypatch.setattr(peak, "_seconds", lambda product: product())
    assert matmul_rate(1, "cpu") == pytest.approx(1e9)
    assert matmul_rate(1, "cuda") == pytest.approx(1e6 / 3e-3)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert matmul_rate(1, "cpu") == pytest.approx(1e6 / 3e-3)


def test_what_is_timed_are_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "MATRIX", 16)
    a, b = np.random.default_rng(0).random((2, 16, 16), dtype=np.float32)
    found = peak._in_onnxruntime(1)()
    assert isinstance(found, list)
    np.testing.assert_allclose(found[0], a @ b, rtol=1e-5)
    assert 0 < matmul_rate(1, "cpu") < 1e13
