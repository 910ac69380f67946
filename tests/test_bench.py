"""Timing is interleaved and honest, what is timed is right, and the demo shows what it promises."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import assert_close
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text
from torch import Tensor
from typer.testing import CliRunner

import pgn
from pgn import GateError, PgnError
from pgn.degrade import to_pil
from pgn.distill import bank as banks
from pgn.distill.distiller import Distiller
from pgn.distill.loop import start_fabric
from pgn.distill.options import DistillOptions
from pgn.evaluate.measures import Interval
from pgn_bench import front, front_plot, train
from pgn_bench.cli import app
from pgn_bench.front import Point, pareto
from pgn_bench.front_plot import draw
from pgn_bench.gradient import check_agreement
from pgn_bench.timing import BLOCK, WARM_UP, Timing, interleaved, machine
from pgn_bench.train import NO_REPLAY, OURS, PLAIN, PlainLoop, check_teacher, compare_loops
from pgn_export.parity import photos

TINY: dict[str, Any] = {
    "backbone": "nano",
    "batch": 6,
    "crop": 32,
    "canvas": 64,
    "precision": "fp32",
    "images": 36,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two photos of 64x64."""
    found = tmp_path / "photos"
    found.mkdir()
    for index, photo in enumerate(photos((64, 64))[:2]):
        to_pil(photo[0]).save(found / f"{index}.png")
    return found


def bench(*words: object) -> Any:
    return CliRunner().invoke(app, list(map(str, words)))


def test_blocks_are_interleaved_after_a_rest_and_an_unmeasured_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[str] = []
    clock = [0.0]

    def call(name: str, slow: float) -> None:
        rested = order[-1] == "rest" if order else False
        clock[0] += 1000.0 if rested else slow  # the first after a rest must not count
        order.append(name)

    monkeypatch.setattr(time, "sleep", lambda seconds: order.append("rest"))
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    calls = {"a": lambda: call("a", 1.0), "b": lambda: call("b", 2.0)}
    timings = interleaved(calls, rounds=2)
    block = [["rest"] + [name] * (1 + BLOCK) for name in "ab"]
    assert order == ["a"] * WARM_UP + ["b"] * WARM_UP + (block[0] + block[1]) * 2
    assert timings["a"] == Timing(1000.0, 1000.0, 1000.0, 2 * BLOCK)
    assert timings["b"] == Timing(2000.0, 2000.0, 2000.0, 2 * BLOCK)


def test_percentiles_are_those_of_all_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(range(1, 100))
    clock = [0.0]

    def call() -> None:
        clock[0] += next(times)

    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    found = interleaved({"a": call}, rounds=1)["a"]
    first = WARM_UP + 2  # seconds of the first call that counts
    assert found.median_ms == 1000.0 * (first + (BLOCK - 1) / 2)
    assert found.p10_ms == pytest.approx(1000 * (first + 0.1 * (BLOCK - 1)))
    assert found.p90_ms == pytest.approx(1000 * (first + 0.9 * (BLOCK - 1)))


def test_the_machine_is_described() -> None:
    described = machine()
    assert described["cores"] and described["torch"] and described["processor"]


def test_another_gradient_is_not_timed(photo: Tensor) -> None:
    assert check_agreement("same", photo * 3, photo) == pytest.approx(1.0)
    for wrong in (-photo, photo * float("nan"), photo.flip(-1)):
        with pytest.raises(GateError, match="wrong: cosine"):
            check_agreement("wrong", wrong, photo)


def tiny_options(folder: Path, **settings: Any) -> DistillOptions:
    return DistillOptions(str(folder), folder / "run", **(TINY | settings))


def tiny_loops(folder: Path, **settings: Any) -> tuple[PlainLoop, Distiller]:
    """Both loops with the same weights."""
    options = tiny_options(folder, **settings)
    ours = Distiller(options, start_fabric(options), None)
    ours.set_up()
    return PlainLoop(options, ours.net), ours


def tiny_photos() -> Tensor:
    """(6, 3, 64, 64) uint8."""
    found = torch.cat(photos((64, 64)))[:3]
    return (torch.cat([found, found.flip(-1)]) * 255).byte()


def test_the_plain_loop_does_what_ours_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, ours = tiny_loops(tmp_path, degraded=0, vgg_weight=0.003, l1_weight=0.2)
    for autoencoder, surrogate in zip(plain.autoencoders, ours.observer.surrogates, strict=True):
        autoencoder.load_state_dict(surrogate.net.state_dict())
    lesson = ours.observer.observe(tiny_photos(), step=0)
    monkeypatch.setattr(train, "normalise", lambda crops: lesson.u_target)
    loss = plain.step(tiny_photos())
    residual, wanted, _ = ours.learn(lesson)
    ours.observer.follow(residual)
    assert loss == pytest.approx(wanted, rel=1e-4)
    for autoencoder, surrogate in zip(plain.autoencoders, ours.observer.surrogates, strict=True):
        found, true = (
            [p.grad for p in net.parameters()][-2] for net in (autoencoder, surrogate.net)
        )
        assert found is not None and true is not None
        assert_close(found, true, 1e-3)


def test_the_plain_loop_learns(tmp_path: Path) -> None:
    plain, _ = tiny_loops(tmp_path, teacher="ssd", alpha=0.05)
    losses = [plain.step(tiny_photos()) for _ in range(12)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("wrong", [lambda r: -r, lambda r: r.flip(-1), lambda r: r * float("nan")])
def test_a_loop_with_another_teacher_is_refused(
    wrong: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, ours = tiny_loops(tmp_path)
    assert check_teacher(plain, ours, tiny_photos()) > 0.99999
    right = ours.observer.true_residual
    monkeypatch.setattr(ours.observer, "true_residual", lambda *pair: wrong(right(*pair)))
    with pytest.raises(GateError, match="teacher of our loop"):
        check_teacher(plain, ours, tiny_photos())


def test_loops_are_compared_and_nothing_stays(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    steps = []
    options = tiny_options(folder, teacher="ssd", replay=2, bank=6)
    found = compare_loops(replace(options, devices=2), 4, lambda: steps.append(1))
    assert len(steps) == 2, "4 steps are two blocks"
    assert found.precision == "32-true" and found.teacher_cosine > 0.99999
    assert found.speeds.keys() == {PLAIN, NO_REPLAY, OURS}
    for name, learnt in ((PLAIN, 6), (NO_REPLAY, 6), (OURS, 18)):
        speed = found.speeds[name]
        assert (speed.new, speed.learnt, speed.step.calls) == (6, learnt, 2 * BLOCK)
        assert speed.new_per_second == pytest.approx(6 / (speed.step.median_ms / 1000))
        assert speed.learnt_per_second == pytest.approx(learnt / (speed.step.median_ms / 1000))
    assert found.times(PLAIN) == {"times_new": 1.0, "times_learnt": 1.0}
    assert found.times(OURS)["times_learnt"] == pytest.approx(3 * found.times(OURS)["times_new"])
    assert not any(temporary.iterdir()) and not (folder / "run").exists()


def test_train_prints_json_and_a_table(folder: Path) -> None:
    words = ["train", "--data", folder, "--steps", 1, "--set", "teacher=ssd"]
    for key, value in (TINY | {"replay": 0, "bank": 0}).items():
        words += ["--set", f"{key}={value}"]
    shown = bench(*words)
    assert shown.exit_code == 0, shown.exception
    assert PLAIN in shown.stdout and NO_REPLAY not in shown.stdout
    report = json.loads(bench(*words, "--json").stdout)
    assert report["settings"]["crop"] == 32 and report["machine"]["cores"]
    assert report["precision"] == "32-true" and report["teacher_cosine"] > 0.99999
    assert [row["loop"] for row in report["rows"]] == [PLAIN, OURS]
    for row in report["rows"]:
        assert row["new_images_per_second"] == row["learnt_images_per_second"] > 0
        assert row["step"]["calls"] == BLOCK and row["times_new"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "--data", "gone"), "no folder gone"),
        (("train", "--data", "photos", "--recipe", "lite-cpi"), "Did you mean 'lite-cpu'"),
        (("train", "--data", "photos", "--set", "crops=32"), "Did you mean 'crop'"),
        (("train", "--data", "photos", "--set", "crop"), "expected key=value"),
        (("train", "--data", "bank"), "got bank, the bank of a run"),
        (("front", "--images", "gone", "-o", "x"), "no folder gone"),
        (("front", "--images", "photos", "-o", "file"), "cannot write to file"),
        (("front", "--images", "photos", "-o", "x", "--peer", "vgg61"), "Did you mean 'vgg16'"),
        (("front", "--images", "photos", "-o", "x", "--peer", "vgg16=gone.pth"), "gone.pth"),
        (
            ("front", "--images", "photos", "-o", "x", "--checkpoint", "pgn-light"),
            "Did you mean 'pgn-lite'",
        ),
    ],
)
def test_bad_input_is_told(
    words: tuple[str, ...], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    Path("file").touch()
    banks.create(Path("bank"), 6, 32, {})
    error = bench(*words).exception
    assert isinstance(error, PgnError), error
    assert re.search(message, str(error)), error


def point(time_ms: float, cosine: float, name: str = "", *, is_network: bool = True) -> Point:
    timing = Timing(time_ms, time_ms, time_ms, BLOCK)
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


@pytest.mark.usefixtures("offline")
def test_front_writes_what_it_measured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "compiled", lambda *rest: None)
    monkeypatch.setattr(
        front, "exported", lambda net, target, pair, threads: lambda: net.gradient(*pair)
    )
    words, out = front_words(folder), folder.parent / "out"
    report = json.loads(bench(*words, "--json").stdout)
    check_front(report, out, {"mine", "vgg19", "mse", "vgg19-half"})
    monkeypatch.setattr(
        front, "exported", lambda net, target, pair, threads: lambda: -net.gradient(*pair)
    )
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
    check_front(report, out, {"mine", "vgg19", "vgg19, compiled", "mse", "vgg19-half"})


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
