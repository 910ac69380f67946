"""Talking heads as a measure: the figures, whom they are of, the fits, and what a loss takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assert_close
from spots import write_frames
from torch import Tensor

import pgn
from pgn.avatar import GeneratorConfig
from pgn.avatar.finetune import FineTuneOptions, fine_tune
from pgn.avatar.guidance import mean_squared, predicted
from pgn.avatar.landmarks import draw
from pgn.avatar.model import Avatar
from pgn.avatar.people import Person
from pgn.avatar.readers import read_people
from pgn.avatar.rendered import HELD_OUT, rendered_person
from pgn.evaluate import heads
from pgn.evaluate.bootstrap import mean_interval
from pgn.evaluate.heads import Run, Sitter, baselines, fit, judge, seat
from pgn.evaluate.heads_memory import peak_memory
from pgn.evaluate.heads_people import perhaps_trained_on, read_sitters, synthetic_sitters
from pgn.evaluate.heads_summary import summarise
from pgn.teachers import PerceptualLoss

SIZE = 32
FRAMES = 2
load_teacher = cache(PerceptualLoss)


def tiny_avatar() -> Avatar:
    torch.manual_seed(0)
    return Avatar(GeneratorConfig(SIZE, (4, 6), 1), (4, 6))


@pytest.fixture
def sitter() -> Sitter:
    return synthetic_sitters(1, FRAMES, SIZE)[0]


# Figures


def record(train: float, holdout: float, **besides: Any) -> dict[str, Any]:
    seconds = {"step_seconds": 0.5, "loss_seconds": 0.25}
    splits = {
        "train": {"vgg19": train, "mse": train / 8},
        "holdout": {"vgg19": holdout, "mse": 1.0},
    }
    return {"diverged": False, **seconds, **splits, **besides}


def test_the_figures_of_two_persons_by_hand() -> None:
    records = {
        "before": [record(8, 8), record(8, 8)],
        "mse": [record(4, 6), record(6, 6)],
        "vgg19": [record(2, 6), record(2, 7)],
        "net": [record(2, 1, step_seconds=2.5), record(17, 1, diverged=False)],
        "nan": [record(8, 8, diverged=True, step_seconds=None, loss_seconds=None)] * 2,
    }
    rows = {row.run: row for row in summarise(records, {"net": 7})}
    train = {run: row.splits["train"] for run, row in rows.items()}
    assert train["mse"].means == {"vgg19": 5.0, "mse": 0.625}
    shares = [train[run].gap.closed for run in ("mse", "vgg19", "net", "before")]
    assert shares == [0, 1, pytest.approx((5 - 9.5) / (5 - 2)), None], "before is no loss"
    assert train["net"].gap.by_case == pytest.approx([1.0, (6 - 17) / 4])
    holdout = {run: row.splits["holdout"] for run, row in rows.items()}
    assert holdout["net"].gap.closed is None, "held-out frames show no gap"
    # the mean of two draws of (run - MSE) = -2, -4 is -2, -3 or -4, a quarter of them each extreme
    beyond = [train[run].beyond_mse["vgg19"] for run in ("vgg19", "mse")]
    assert beyond == [(-4, -2), (0, 0)]
    assert [row.diverged for row in rows.values()] == [0, 0, 0, 1, 2], "17 is over twice 8"
    assert rows["net"].step_seconds == 1.5 and rows["net"].memory_bytes == 7
    assert rows["nan"].step_seconds is None and rows["mse"].memory_bytes is None


def test_figures_that_not_all_have_are_left_out() -> None:
    records = {name: [record(1, 1), record(1, 1)] for name in ("before", "mse")}
    records["mse"][0]["train"]["lpips-alex"] = 0.5
    assert summarise(records, {})[1].splits["train"].means == {"vgg19": 1, "mse": 0.125}


def test_the_interval_of_a_mean_is_as_wide_as_its_normal_one() -> None:
    values = np.random.default_rng(1).normal(3, 2, 200)
    found = mean_interval(values)
    half = 1.96 * values.std() / 200**0.5
    assert found == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)
    assert mean_interval(values[:1]) is None


# Persons


def test_frames_are_fitted_and_held_out_in_turn() -> None:
    images = torch.arange(9, dtype=torch.uint8)[:, None, None, None].expand(9, 3, SIZE, SIZE)
    landmarks = rendered_person(0, 9, SIZE).landmarks
    found = seat(Person("p", images, landmarks), 4)
    for start, split in enumerate(("train", "holdout")):
        frames = found.splits[split]
        levels = frames.photos.mean((1, 2, 3)) * 255
        assert levels.tolist() == pytest.approx([start, start + 2, start + 4, start + 6])
        assert torch.equal(frames.conditions, draw(landmarks[start:8:2], SIZE))
    other = seat(Person("p", images, landmarks + 0.01), 4)
    assert other.sha256 != found.sha256


def test_synthetic_persons_are_those_kept_from_training() -> None:
    found = synthetic_sitters(2, 1, SIZE)
    wanted = [seat(rendered_person(HELD_OUT + k, 2, SIZE), 1) for k in range(2)]
    assert [(s.name, s.sha256) for s in found] == [(s.name, s.sha256) for s in wanted]


def test_read_persons_are_spread_over_their_frames(tmp_path: Path) -> None:
    people = tmp_path / "people"
    for name, count in (("ann", 4), ("bob", 6)):
        write_frames(people / name, count)
    ann, bob = read_sitters([people], ["bob", "ann"], FRAMES, SIZE)
    assert [ann.name, bob.name] == ["ann", "bob"]
    six = read_people(people, SIZE)[1].images
    for split, frames in (("train", [0, 3]), ("holdout", [2, 5])):  # 0, 5/3, 10/3 and 5, rounded
        assert torch.equal(bob.splits[split].photos, six[frames] / 255.0)


INFO = {"training": {"data": ["synthetic", "/elsewhere/people"], "holdout": ["bob"]}}


@pytest.mark.parametrize(
    ("info", "source", "wanted"),
    [
        (INFO, "people", ["ann"]),
        (INFO, "people/ann", ["ann"]),
        (INFO, "people/bob", []),
        (INFO, "others", []),
        (INFO, "synthetic", []),
        ({"training": {"data": ["people"]}}, "people", ["ann", "bob"]),
        ({"training": {"data": ["synthetic"], "holdout": []}}, "people", []),
        ({}, "people", []),
        ({"training": {"data": 3, "holdout": [["bob"]]}}, "people", []),
        ({"training": {"data": ["people"], "holdout": {"bob": 1}}}, "people", ["ann", "bob"]),
        ({"training": ["people"]}, "people", []),
    ],
)
def test_who_was_in_a_recorded_source_and_not_held_out_may_have_been_trained_on(
    info: dict[str, Any], source: str, wanted: list[str], tmp_path: Path
) -> None:
    for folder in ("people", "others", "synthetic"):
        for name in ("ann", "bob"):
            (tmp_path / folder / name).mkdir(parents=True)
            (tmp_path / folder / name / "0.png").touch()
    assert perhaps_trained_on(info, [tmp_path / source]) == wanted


# Fits


def test_a_fit_is_that_of_fine_tune_from_the_embedded_person(sitter: Sitter) -> None:
    avatar, options = tiny_avatar(), FineTuneOptions(3, 1e-3)
    shown = sitter.splits["train"]
    personal = avatar.person(shown.photos, shown.conditions)
    net = pgn.load("pgn-nano")
    before = fit(avatar, sitter, Run("before"), options)
    steps: list[int] = []
    run = Run("net", partial(predicted, net, 2.0), net)
    found = fit(avatar, sitter, run, options, lambda: steps.append(1))
    for split, frames in sitter.splits.items():
        assert torch.equal(before.drawn[split], personal(frames.conditions).detach())
    fine_tune(personal, shown.conditions, shown.photos, predicted(net, 2.0), options)
    for split, frames in sitter.splits.items():
        assert torch.equal(found.drawn[split], personal(frames.conditions).detach())
    assert len(steps) == 3 and len(found.report.mse) == 3 and not before.report.mse


@pytest.mark.parametrize("steps", [1, 3])  # after the only step no other one looks
def test_a_fit_that_ends_in_nan_is_thrown_away(steps: int, sitter: Sitter) -> None:
    def nan() -> Callable[[Tensor, Tensor], Tensor]:
        return lambda generated, target: generated * float("nan")

    avatar, options = tiny_avatar(), FineTuneOptions(steps)
    found = fit(avatar, sitter, Run("nan", nan), options)
    assert found.diverged and not found.report.mse
    before = fit(avatar, sitter, Run("before"), options)
    assert all(torch.equal(found.drawn[split], before.drawn[split]) for split in heads.SPLITS)


def test_the_judge_takes_means_over_frames(sitter: Sitter) -> None:
    teacher = load_teacher("vgg19", None)
    drawn = {split: torch.rand(FRAMES, 3, SIZE, SIZE) for split in heads.SPLITS}
    found = judge(teacher, drawn, sitter)
    for split, images in drawn.items():
        photos = sitter.splits[split].photos
        losses = [float(teacher(images[k : k + 1], photos[k : k + 1])) for k in range(FRAMES)]
        assert found[split]["vgg19"] == pytest.approx(sum(losses) / FRAMES, rel=1e-5)
        wanted = float((images.double() - photos.double()).square().mean())
        assert found[split]["mse"] == pytest.approx(wanted, rel=1e-5)


def test_the_baselines_have_the_weight_of_the_mse_term(pair: tuple[Tensor, Tensor]) -> None:
    before, mse, exact = baselines(load_teacher("vgg19", None), 3.0)
    assert [before.name, mse.name, exact.name] == [
        "before",
        "mse",
        "vgg19",
    ] and before.guidance is None
    assert mse.guidance is mean_squared and exact.guidance is not None
    bare = baselines(load_teacher("vgg19", None), 0.0)[2].guidance
    assert bare is not None
    difference = exact.guidance()(*pair) - bare()(*pair)
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    assert_close(difference, 3.0 * (pair[0] - pair[1]) * 2 / pair[0][0].numel() / std**2, 1e-3)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells it alone")
def test_peak_memory_is_what_was_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # the child finds `allocating`
    found = [peak_memory(partial(allocating, mebibytes), 1, 8) for mebibytes in (8, 64)]
    assert None not in found
    low, high = (float(value or 0) / 2**20 for value in found)
    assert 8 <= low < 24 and high - low == pytest.approx(56, abs=4)


def allocating(mebibytes: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Guidance that fills so much memory and frees it."""

    def guidance(generated: Tensor, target: Tensor) -> Tensor:
        torch.ones(mebibytes * 2**18)
        return generated

    return guidance
