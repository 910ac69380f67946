"""The front of quality against time: what is on it, how it is drawn, what its command writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import photo_folder
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text
from torch import Tensor
from typer.testing import CliRunner

import pgn
from pgn import GateError
from pgn.evaluate.measures import Interval
from pgn_bench import front, front_plot
from pgn_bench.cli import app
from pgn_bench.front import Point, pareto
from pgn_bench.front_plot import draw
from pgn_bench.providers import Uncompiled, images
from pgn_bench.providers_exported import Task
from pgn_bench.timing import BLOCK, Timing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two photos of 64x64."""
    return photo_folder(tmp_path / "photos", 2, 64)


def bench(*words: object) -> Any:
    return CliRunner().invoke(app, list(map(str, words)))


def point(time_ms: float, cosine: float, name: str = "", *, is_network: bool = True) -> Point:
    timing = Timing(time_ms, time_ms, time_ms, BLOCK, time_ms)
    return Point(name, is_network, "PyTorch", Interval(cosine, None), timing)


@given(st.sets(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_the_front_is_what_nothing_dominates(places: set[tuple[int, int]]) -> None:
    found = {(p.timing.median_ms, p.cosine.mean) for p in pareto([point(*p) for p in places])}
    assert found == {
        (t, c)
        for t, c in places
        if not any(s <= t and d >= c and (s, d) != (t, c) for s, d in places)
    }


PLACES = {
    "mse": (0.2, 0.26), "vgg19": (265, 1), "vgg19, compiled": (198, 1), "vgg19-half": (80, 0.5),
    "vgg16": (220, 0.6), "vgg11": (140, 0.55), "lpips-alex": (25, 0.13), "pgn-lite": (16, 0.80),
    "pgn-nano": (8, 0.72), "pgn-resnet4": (136, 0.81), "pgn-unet": (50, 0.78),
    "pgn-lite-long": (16.4, 0.81), "pgn-resnet8": (227, 0.83),
}  # fmt: skip


def test_names_cover_neither_names_nor_points() -> None:
    points = [
        point(*place, name, is_network=name.startswith("pgn")) for name, place in PLACES.items()
    ]
    figure = draw(points, "title")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == list(PLACES)
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in axes.texts]
    for index, box in enumerate(boxes):
        assert not box.count_overlaps(boxes[:index] + boxes[index + 1 :]), points[index].name
        assert not any(box.contains(*at) for at in axes.transData.transform([*PLACES.values()]))
        assert axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1)


def test_a_crowd_is_named_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_plot, "DISTANCES", (1.0,))
    figure = draw([point(1, 0.5, f"network {k}") for k in range(12)], "title")
    assert len(figure.axes[0].texts) == 12


def front_words(folder: Path) -> tuple[object, ...]:
    torch.manual_seed(0)
    pgn.save(pgn.PGN(pgn.PGNConfig("nano", gamma=1.0)), folder.parent / "mine.safetensors")
    flags = ("--checkpoint", folder.parent / "mine.safetensors", "--size", 64, "--threads", 1)
    return ("front", "--images", folder, "-o", folder.parent / "out", "--rounds", 1, *flags)


def check_front(report: dict[str, Any], out: Path, names: set[str]) -> None:
    assert report == json.loads((out / "front.json").read_text())
    points = {row["name"]: row for row in report["points"]}
    assert points.keys() == names
    assert points["vgg19"]["cosine"]["mean"] == pytest.approx(1.0, abs=1e-6)
    assert points["mine"]["is_network"] and points["mine"]["runtime"] == "ONNX Runtime"
    assert not points["mse"]["is_network"] and 0 < points["mse"]["cosine"]["mean"] < 0.9
    assert points["mse"]["timing"]["median_ms"] < points["vgg19"]["timing"]["median_ms"]
    assert points["mse"]["on_front"]
    assert report["photos"] == ["0.png", "1.png"] and report["machine"]["torch"]
    assert report["command"] and report["left_out"].keys() == {"vgg16", "vgg11", "lpips-alex"}
    assert (out / "front.svg").read_text().count("<svg") == 1
    assert sorted(path.name for path in out.iterdir()) == ["front.json", "front.svg"]


def gradient(net: pgn.PGN, task: Task) -> Tensor:
    return net.gradient(*images(task))


def no_compiler(*_: object) -> None:
    raise Uncompiled("no compiler")


@pytest.mark.usefixtures("offline")
def test_front_writes_what_it_measured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "compiled_gradient", no_compiler)
    monkeypatch.setattr(front, "exported", lambda net, task: lambda: gradient(net, task))
    words, out = front_words(folder), folder.parent / "out"
    report = json.loads(bench(*words, "--json").stdout)
    check_front(report, out, {"mine", "vgg19", "vgg19, exported", "mse", "vgg19-half"})
    monkeypatch.setattr(front, "exported", lambda net, task: lambda: -gradient(net, task))
    before = (out / "front.json").read_bytes()
    refused = bench(*words)
    assert isinstance(refused.exception, GateError) and "mine" in str(refused.exception)
    assert (out / "front.json").read_bytes() == before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of converters and the compiler, not ours
@pytest.mark.usefixtures("offline")
def test_front_exports_and_compiles(folder: Path) -> None:
    shown = bench(*front_words(folder))
    assert shown.exit_code == 0, shown.exception
    assert "mine" in shown.stdout and "ONNX Runtime" in shown.stdout
    out = folder.parent / "out"
    report = json.loads((out / "front.json").read_text())
    check_front(
        report, out, {"mine", "vgg19", "vgg19, compiled", "vgg19, exported", "mse", "vgg19-half"}
    )
