"""The front of quality against time: what is on it, how it is drawn, what its command writes."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import photo_folder
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

import pgn
from pgn import GateError
from pgn.degrade import blur
from pgn.evaluate.measures import Interval
from pgn.teachers import PerceptualLoss
from pgn_bench import front, front_cli, front_plot
from pgn_bench.cli import app
from pgn_bench.front import COMPILED, EXPORTED, PYTORCH, Contenders, Point, fastest, pareto, timed
from pgn_bench.front_plot import draw
from pgn_bench.providers import RANDOM, Uncompiled, _random_weights, images, load_loss
from pgn_bench.providers_exported import Call, Task
from pgn_bench.timing import BLOCK, Timing, interleaved


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two photos of 64x64."""
    return photo_folder(tmp_path / "photos", 2, 64)


def bench(*words: object) -> Any:
    return CliRunner().invoke(app, list(map(str, words)))


def point(time_ms: float, cosine: float, name: str = "", runtime: str = EXPORTED) -> Point:
    timing = Timing(time_ms, time_ms, time_ms, BLOCK, time_ms)
    return Point(name, name.startswith("pgn"), runtime, Interval(cosine, None), timing)


@given(st.sets(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_the_front_is_what_nothing_dominates(places: set[tuple[int, int]]) -> None:
    found = {(p.timing.median_ms, p.cosine.mean) for p in pareto([point(*p) for p in places])}
    assert found == {
        (t, c)
        for t, c in places
        if not any(s <= t and d >= c and (s, d) != (t, c) for s, d in places)
    }


PLACES = {
    "mse": (0.2, 0.26), "vgg19": (198, 1), "vgg19-half": (80, 0.5), "vgg16": (150, 0.6),
    "vgg11": (90, 0.55), "lpips-alex": (18, 0.13), "pgn-lite": (16, 0.80),
    "pgn-nano": (8, 0.72), "pgn-resnet4": (136, 0.81), "pgn-unet": (50, 0.78),
    "pgn-lite-long": (16.4, 0.81), "pgn-resnet8": (227, 0.83),
}  # fmt: skip


def test_names_cover_neither_names_nor_points() -> None:
    runtimes = dict.fromkeys(("mse", "vgg19-half"), PYTORCH)
    points = [point(*place, name, runtimes.get(name, EXPORTED)) for name, place in PLACES.items()]
    figure = draw(points, "title")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == [
        f"{name} (PyTorch)" if name in runtimes else name for name in PLACES
    ]
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in axes.texts]
    for index, box in enumerate(boxes):
        assert not box.count_overlaps(boxes[:index] + boxes[index + 1 :]), points[index].name
        assert not any(box.contains(*at) for at in axes.transData.transform([*PLACES.values()]))
        assert axes.bbox.contains(box.x0, box.y0) and axes.bbox.contains(box.x1, box.y1)


def test_a_gradient_is_drawn_in_its_fastest_form() -> None:
    slow, other, fast = point(3, 1, "a", PYTORCH), point(5, 0, "b"), point(2, 1, "a")
    assert fastest([slow, other, fast]) == [fast, other] == fastest([fast, other, slow])


def test_a_crowd_is_named_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_plot, "DISTANCES", (1.0,))
    figure = draw([point(1, 0.5, f"network {k}") for k in range(12)], "title")
    assert len(figure.axes[0].texts) == 12


def front_words(folder: Path) -> tuple[object, ...]:
    torch.manual_seed(0)
    pgn.save(pgn.PGN(pgn.PGNConfig("nano", gamma=1.0)), folder.parent / "mine.safetensors")
    flags = ("--checkpoint", folder.parent / "mine.safetensors", "--size", 64, "--threads", 1)
    return ("front", "--images", folder, "-o", folder.parent / "out", "--rounds", 1, *flags)


def check_front(report: dict[str, Any], out: Path, forms: dict[str, set[str]]) -> None:
    """`forms`: the runtimes of every gradient."""
    assert report == json.loads((out / "front.json").read_text())
    points = {(row["name"], row["runtime"]): row for row in report["points"]}
    assert points.keys() == {(name, each) for name, runtimes in forms.items() for each in runtimes}
    for (name, _), row in points.items():
        assert row["is_network"] == (name == "mine")
    mse, vgg19 = points["mse", PYTORCH], points["vgg19", PYTORCH]
    assert vgg19["cosine"]["mean"] == pytest.approx(1.0, abs=1e-6)
    assert 0 < mse["cosine"]["mean"] < 0.9 and mse["on_front"]
    assert mse["timing"]["median_ms"] < vgg19["timing"]["median_ms"]
    assert report["photos"] == ["0.png", "1.png"] and report["machine"]["torch"]
    assert report["command"] and report["left_out"].keys() == {"vgg16", "vgg11"}
    drawn = (out / "front.svg").read_text()
    assert drawn.count("<svg") == 1
    for name in forms:  # once each, as matplotlib writes texts beside their outlines
        assert len(re.findall(rf"<!-- {name}( \(.*\))? -->", drawn)) == 1
    assert sorted(path.name for path in out.iterdir()) == ["front.json", "front.svg"]


def alex_weights(path: Path) -> Path:
    """Random ones that keep activations of order 1."""
    save_file(_random_weights("lpips-alex"), path)
    return path


def gradient(net: pgn.PGN, task: Task) -> Tensor:
    return net.gradient(*images(task))


def no_compiler(*_: object) -> None:
    raise Uncompiled("no compiler")


CHEAP = {"mse": {PYTORCH}, "vgg19-half": {PYTORCH}}  # that are not exported


@pytest.mark.usefixtures("offline")
def test_front_writes_what_it_measured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer is exported, too, and checked as the teacher is."""
    monkeypatch.setattr(front_cli, "interleaved", partial(interleaved, block_seconds=0.0))
    monkeypatch.setattr(front, "compiled_gradient", no_compiler)
    monkeypatch.setattr(front, "exported", lambda net, task: lambda: gradient(net, task))
    peer = f"lpips-alex={alex_weights(folder.parent / 'alex.safetensors')}"
    words, out = (*front_words(folder), "--peer", peer), folder.parent / "out"
    report = json.loads(bench(*words, "--json").stdout)
    both = {PYTORCH, EXPORTED}
    forms = {"mine": {EXPORTED}, "vgg19": both, "lpips-alex": both, **CHEAP}
    check_front(report, out, forms)


@pytest.mark.parametrize("wrong", ["mine", "vgg19", "lpips-alex", "vgg19, compiled"])
def test_a_form_that_gives_another_gradient_is_refused(
    wrong: str, photo: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exported(net: pgn.PGN, task: Task) -> Call:
        name = net.config.backbone.removeprefix("exact ").replace("nano", "mine")
        return lambda: (-1 if name == wrong else 1) * gradient(net, task)

    def compiled(loss: PerceptualLoss, dtype: str, task: Task) -> Call:
        return lambda: (-1 if "compiled" in wrong else 1) * loss.gradient(*images(task))

    monkeypatch.setattr(front, "exported", exported)
    monkeypatch.setattr(front, "compiled_gradient", compiled)
    networks = {"mine": pgn.PGN(pgn.PGNConfig("nano", gamma=1.0)).eval()}
    peers = {"lpips-alex": load_loss("lpips-alex", RANDOM)}
    target = photo[..., :64, :64]
    pair = blur(target[0], 1.5)[None], target
    contenders = Contenders(PerceptualLoss("vgg19"), networks, peers)
    runtime = COMPILED if "compiled" in wrong else EXPORTED
    with pytest.raises(GateError, match=f"^{wrong.split(',')[0]}, {runtime}: cosine -"):
        timed(contenders, pair, torch.get_num_threads())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of converters and the compiler, not ours
@pytest.mark.usefixtures("offline")
def test_front_exports_and_compiles(folder: Path) -> None:
    peer = f"lpips-alex={alex_weights(folder.parent / 'alex.safetensors')}"
    shown = bench(*front_words(folder), "--peer", peer)
    assert shown.exit_code == 0, shown.exception
    assert "mine" in shown.stdout and "ONNX Runtime" in shown.stdout
    out = folder.parent / "out"
    report = json.loads((out / "front.json").read_text())
    all_three = {PYTORCH, EXPORTED, COMPILED}
    forms = {"mine": {EXPORTED}, "vgg19": all_three, "lpips-alex": all_three, **CHEAP}
    check_front(report, out, forms)
