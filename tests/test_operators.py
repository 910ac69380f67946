"""`pgn-bench operators`: sums of the profiler's events, and a real profile of a small network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_providers import bench

from pgn_bench import operators_cli, peak
from pgn_bench.operators import CALLS, PRODUCTS, WARM_UP, Operator, in_products, operators
from pgn_bench.results import Result, Row, load


def event(node: str, kind: str, microseconds: float, part: str = "kernel_time") -> dict[str, Any]:
    """As ONNX Runtime writes it."""
    args = {"op_name": kind} if part == "kernel_time" else {}
    return {"cat": "Node", "name": f"{node}_{part}", "dur": microseconds, "args": args}


def test_nodes_are_summed_by_kind_from_the_median_call() -> None:
    slow = [event("first", "Conv", 9e6), event("second", "Conv", 9e6), event("third", "Mul", 9e6)]
    events: list[dict[str, Any]] = WARM_UP * slow  # that do not count
    for microseconds in (1000, 3000, 80_000):
        events += [
            event("first", "Conv", microseconds),
            event("second", "Conv", 500),
            event("third", "Mul", 250),
            event("third", "", 7e6, "fence_before"),
        ]
    events.append({"cat": "Session", "name": "model_run", "dur": 5e6, "args": {}})
    found = operators(events)
    assert found == [Operator("Conv", 2, 3.5), Operator("Mul", 1, 0.25)]
    assert in_products(found) == 3.5


@pytest.mark.filterwarnings("ignore")  # of torch.onnx, not ours
def test_a_real_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "CALLS", {256: 2})
    words = ("operators", "--size", 32, "--threads", 1, "--rounds", 1, "--losses", "vgg11")
    shown = bench(*words, "--checkpoint", "pgn-nano", "-o", tmp_path / "o.json")
    assert shown.exit_code == 0, shown.exception
    result = load(tmp_path / "o.json")
    assert [row.provider for row in result.rows] == ["exact vgg11", "pgn-nano"]
    for row in result.rows:
        milliseconds = row.details["operators_ms"]
        assert {"Conv", "Mul", "Sub"} <= milliseconds.keys()
        assert 0 < milliseconds["Conv"] <= sum(milliseconds.values())
        assert list(milliseconds.values()) == sorted(milliseconds.values(), reverse=True)
        assert row.details["sgemm_fraction"] > 0
        ideal = 1000 * (row.macs or 0) / (1e9 * result.settings["sgemm_gmacs"])
        assert row.details["sgemm_fraction"] * row.median_ms == pytest.approx(ideal)
        products = sum(milliseconds.get(name, 0) for name in PRODUCTS)
        assert row.details["products_sgemm_fraction"] * products == pytest.approx(ideal)
    assert "pgn-nano" in shown.stdout and "of sgemm" in shown.stdout
    assert CALLS > 1


def test_a_graph_without_products_has_no_fraction_of_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    row = Row("mse", "onnxruntime", "cpu", 32, 1, 1, "fp32", 2.0, 2.0, 2.0, 3, macs=0)
    detailed = operators_cli._detailed(row, [Operator("Sub", 1, 2.0)], 1e9)
    assert detailed.details == {"sgemm_fraction": 0.0, "operators_ms": {"Sub": 2.0}}
    operators_cli._print(Result("operators", {}, [detailed], {"sgemm_gmacs": 1.0}))
    assert "Sub 2.0" in capsys.readouterr().out


def test_a_loss_without_a_written_gradient_is_refused() -> None:
    shown = bench("operators", "--losses", "ssim")
    assert shown.exit_code != 0 and "expected one of vgg19" in str(shown.exception)
