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
from conftest import assert_close, photo_folder
from torch import Tensor
from typer.testing import CliRunner

from pgn import GateError, PgnError
from pgn.distill import bank as banks
from pgn.distill.distiller import Distiller
from pgn.distill.loop import start_fabric
from pgn.distill.options import DistillOptions
from pgn_bench import timing, train
from pgn_bench.cli import app
from pgn_bench.gradient import check_agreement
from pgn_bench.timing import BLOCK, WARM_UP, Timing, interleaved, machine, noise_warning
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
    return photo_folder(tmp_path / "photos", 2, 64)


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
    monkeypatch.setattr(time, "process_time", lambda: 2 * clock[0])
    calls = {"a": lambda: call("a", 1.0), "b": lambda: call("b", 2.0)}
    found = interleaved(calls, rounds=2)
    block = [["rest"] + [name] * (1 + BLOCK) for name in "ab"]
    rounds = block[0] + block[1] + block[1] + block[0]  # each begins with another one
    assert order == ["a"] * WARM_UP + ["b"] * WARM_UP + rounds
    assert found["a"] == Timing(1000.0, 1000.0, 1000.0, 2 * BLOCK, 2000.0)
    assert found["b"] == Timing(2000.0, 2000.0, 2000.0, 2 * BLOCK, 4000.0)


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


def test_the_machine_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    described = machine()
    assert described["cores"] and described["torch"] and described["processor"]
    assert "gpu" not in described or torch.cuda.is_available()
    monkeypatch.setattr(timing, "PACKAGES", ("torch", "not-installed"))
    assert "not-installed" not in machine()


def test_a_gpu_is_named_where_it_was_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never run on a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "fast")
    for used in (False, True):
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda used=used: used)
        assert ("gpu" in machine()) == used


def test_short_calls_are_timed_many_times(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def call() -> None:
        clock[0] += 0.01

    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    assert interleaved({"a": call}, rounds=2)["a"].calls in (40, 42), "0.2 s each; 0.01 is inexact"


@pytest.mark.parametrize(
    ("p10", "median", "p90", "noisy"), [(10, 10, 12, False), (10, 12, 13.1, True)]
)
def test_noise_is_told(p10: float, median: float, p90: float, noisy: bool) -> None:
    assert Timing(median, p10, p90, 3, 1.0).noisy == noisy
    assert ("1 of 2 rows are noisy" in noise_warning([noisy, False])) == noisy


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
    assert report["settings"]["teacher_cosine"] > 0.99999
    found = [(row["provider"], row["dtype"], row["calls"]) for row in report["rows"]]
    assert found == [(PLAIN, "fp32", BLOCK), (OURS, "32-true", BLOCK)]
    for row in report["rows"]:
        speed = row["details"]
        assert speed["new_images_per_second"] == speed["learnt_images_per_second"] > 0
        assert speed["times_new"] > 0


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
    (fitted,) = re.findall(r"fitted to 8 frames: MSE ([\d.]+) -> ([\d.]+), 50 steps", done.stdout)
    assert float(fitted[1]) < 0.5 * float(fitted[0])
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 8
    page = (tmp_path / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 10 and "<svg" in page
    loaded = re.findall(r"""(?:src|href)=["'](?!data:|#)([^"']*)""", page)
    assert loaded == ["person/index.html"], "the page loads something"
    assert (tmp_path / "person" / "index.html").exists()
