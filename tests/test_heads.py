"""Studies of `pgn-eval heads`: figures, what they write, that they resume, what they refuse."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SHARED, assert_close
from PIL import Image
from spots import write_frames
from torch import Tensor, nn
from typer.testing import CliRunner

import pgn
from pgn import PgnError
from pgn.avatar import GeneratorConfig, checkpoint
from pgn.avatar.finetune import FineTuneOptions, FineTuneReport, fine_tune
from pgn.avatar.guidance import mean_squared, predicted
from pgn.avatar.landmarks import draw
from pgn.avatar.model import Avatar
from pgn.avatar.people import Person
from pgn.avatar.readers import read_people
from pgn.avatar.rendered import HELD_OUT, rendered_person
from pgn.evaluate import heads
from pgn.evaluate.cli import app
from pgn.evaluate.heads import Fit, Run, Sitter, baselines, fit, judge, seat
from pgn.evaluate.heads_memory import peak_memory
from pgn.evaluate.heads_people import read_sitters, synthetic_sitters
from pgn.evaluate.heads_results import Results
from pgn.evaluate.heads_summary import mean_interval, summarise
from pgn.files import read_image
from pgn.teachers import PerceptualLoss

SIZE = 32
FRAMES = 2
RUNS = ["before", "mse", "vgg19", "pgn-nano"]
load_teacher = cache(PerceptualLoss)


def tiny_avatar() -> Avatar:
    torch.manual_seed(0)
    return Avatar(GeneratorConfig(SIZE, (4, 6), 1), (4, 6))


@pytest.fixture
def avatar(tmp_path: Path) -> Path:
    return checkpoint.save(tiny_avatar(), tmp_path / "avatar.safetensors")


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Two persons with frames enough, and one with three."""
    for name, frames in (("ann", 4), ("bob", 6), ("few", 3)):
        write_frames(tmp_path / "people" / name, frames)
    return tmp_path / "people"


@pytest.fixture
def sitter() -> Sitter:
    return synthetic_sitters(1, FRAMES, SIZE)[0]


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loads the teacher once, and measures no memory, each time in a process of seconds."""
    monkeypatch.setattr("pgn.evaluate.heads_cli.PerceptualLoss", load_teacher)
    monkeypatch.setattr("pgn.evaluate.heads_cli.peak_memory", lambda build, frames, size: 2**20)


def study(*words: object) -> Any:
    flags = ("--frames", FRAMES, "--steps", 2, "--pgn", "pgn-nano")
    return CliRunner().invoke(app, [str(w) for w in ("heads", *flags, *words)])


def refusal(*words: object) -> str:
    error = study(*words).exception
    assert isinstance(error, PgnError), repr(error)
    assert error.exit_code == 2
    return str(error)


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


def test_read_persons_are_spread_over_their_frames(people: Path) -> None:
    ann, bob = read_sitters([people], ["bob", "ann"], FRAMES, SIZE)
    assert [ann.name, bob.name] == ["ann", "bob"]
    six = read_people(people, SIZE)[1].images
    for split, frames in (("train", [0, 3]), ("holdout", [2, 5])):  # 0, 5/3, 10/3 and 5, rounded
        assert torch.equal(bob.splits[split].photos, six[frames] / 255.0)


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


def test_a_fit_that_ends_in_nan_is_thrown_away(sitter: Sitter) -> None:
    def nan() -> Callable[[Tensor, Tensor], Tensor]:
        return lambda generated, target: generated * float("nan")

    avatar, options = tiny_avatar(), FineTuneOptions(3)
    found = fit(avatar, sitter, Run("nan", nan), options)
    assert found.diverged
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
    assert [before.name, mse.name, exact.name] == RUNS[:3] and before.guidance is None
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


# The study


def test_a_study_is_written_printed_and_reprinted_without_fits(
    people: Path, avatar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: None
) -> None:
    output = tmp_path / "out"
    words = ("--checkpoint", avatar, "--data", people, "--person", "ann", "--synthetic", 1,
             "-o", output, "--json")  # fmt: skip
    done = study(*words)
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    persons = ["ann", f"synthetic-{HELD_OUT}"]
    assert [row["run"] for row in summary["runs"]] == RUNS
    files = {"heads.json", "index.html", "memory.json", *persons}
    assert {p.name for p in output.iterdir()} == files
    pictures = {f"{name}.png" for name in ("condition", "photo", *RUNS)}
    records = {f"{name}.json" for name in RUNS}
    assert {p.name for p in (output / "ann").iterdir()} == pictures | records
    for row in summary["runs"]:
        fits = [json.loads((output / p / f"{row['run']}.json").read_text()) for p in persons]
        for split, found in row["splits"].items():
            wanted = sum(f[split]["vgg19"] for f in fits) / 2
            assert found["means"]["vgg19"] == pytest.approx(wanted)
        assert row["memory_bytes"] == (None if row["run"] == "before" else 2**20)
    starts = {json.loads(p.read_text())["mse_at_steps"][0] for p in output.glob("ann/[mpv]*.json")}
    assert len(starts) == 1, "every loss begins with the same picture"
    page = (output / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 2 * (2 * FRAMES) * (2 + len(RUNS))
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page), "the page loads something"

    monkeypatch.setattr("pgn.evaluate.heads_cli.fit", None)  # any fit would fail now
    monkeypatch.setattr("pgn.evaluate.heads_cli.peak_memory", None)
    again = study(*words)
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout) == summary
    assert "holdout frames" in study(*words[:-1]).stdout


def test_an_interrupted_study_resumes_fit_by_fit(
    avatar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: None
) -> None:
    words = ("--checkpoint", avatar, "--synthetic", 1)
    whole = study(*words, "-o", tmp_path / "whole", "--json")
    calls = itertools.count()

    def killed(*arguments: Any) -> Fit:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return fit(*arguments)

    monkeypatch.setattr("pgn.evaluate.heads_cli.fit", killed)
    assert study(*words, "-o", tmp_path / "killed").exit_code != 0
    assert len(list((tmp_path / "killed").glob("synthetic-*/*.json"))) == 2
    resumed = study(*words, "-o", tmp_path / "killed", "--json")
    assert next(calls) == 5, "the third of four fits was begun twice, the others once"
    for row, wanted in zip(*(json.loads(r.stdout)["runs"] for r in (resumed, whole)), strict=True):
        assert row["splits"] == wanted["splits"]


class Distance(nn.Module):
    """Stands for LPIPS: the mean absolute difference."""

    def forward(self, generated: Tensor, target: Tensor) -> Tensor:
        return (generated - target).abs().mean(dim=(1, 2, 3))


def test_lpips_is_of_the_saved_pictures_and_may_come_later(sitter: Sitter, tmp_path: Path) -> None:
    results = Results(tmp_path / "out", {"steps": 0})
    run = Run("mse", mean_squared)
    drawn = {split: 1.5 * torch.rand(FRAMES, 3, SIZE, SIZE) for split in heads.SPLITS}
    assert results.load(sitter, run) is None
    figures = judge(load_teacher("vgg19", None), drawn, sitter)
    results.store(sitter, run, Fit(drawn, FineTuneReport([0.5], [3.0], [1.0])), figures)
    stored = results.load(sitter, run)
    assert stored is not None and stored["train"] == figures["train"]
    assert stored["step_seconds"] == 3.0 and stored["loss_seconds"] == 1.0
    metric: Any = {"lpips-alex": Distance()}
    found = results.measure(sitter, run, metric)
    column = read_image(results.picture(sitter, "mse"))
    every = torch.cat([drawn["train"], drawn["holdout"]]).clamp(0, 1)
    assert_close(torch.stack(torch.split(column, SIZE, 1)), every, 0.5 / 255 + 1e-6)
    for split, images in drawn.items():
        photos = sitter.splits[split].photos
        eight_bit = (images.clamp(0, 1) * 255).round() / 255
        wanted = float((eight_bit - photos).abs().mean())
        assert found[split]["lpips-alex"] == pytest.approx(wanted, rel=1e-5)
    assert results.measure(sitter, run, {}) == found, "it was kept"
    with Image.open(results.picture(sitter, "photo")) as picture:
        assert picture.size == (SIZE, 2 * FRAMES * SIZE)
    results.picture(sitter, "photo").unlink()
    assert results.load(sitter, run) is None, "a fit without its pictures is made again"


def test_lpips_columns_with_the_real_weights(avatar: Path, tmp_path: Path, fast: None) -> None:
    weights = SHARED / "weights"
    if not weights.is_dir():
        pytest.skip(f"{weights} is not here; the test above is the offline twin")
    words = ("--checkpoint", avatar, "--synthetic", 1, "-o", tmp_path / "out", "--json")
    done = study(*words, "--lpips", weights)
    assert done.exit_code == 0, done.output
    for row in json.loads(done.stdout)["runs"]:
        assert set(row["splits"]["holdout"]["means"]) == {"vgg19", "mse", "lpips-alex", "lpips-vgg"}


def test_other_settings_checkpoints_and_damaged_files_are_refused(
    avatar: Path, tmp_path: Path, fast: None
) -> None:
    own = tmp_path / "own.safetensors"
    net = pgn.load("pgn-nano")
    pgn.save(net, own)
    words = ("--checkpoint", avatar, "--synthetic", 1, "-o", tmp_path / "out", "--pgn", own)
    assert study(*words).exit_code == 0
    for flag, value, named in (
        ("--steps", 3, "steps"),
        ("--synthetic", 2, "persons"),
        ("--mse-weight", 3, "mse_weight"),
        ("--learning-rate", 1e-4, "learning_rate"),
    ):
        assert f"other settings ({named}: " in refusal(*words, flag, value)
    net.info["note"] = "another"
    pgn.save(net, own)
    assert "own.json was made by another checkpoint" in refusal(*words)
    damaged = tmp_path / "out" / f"synthetic-{HELD_OUT}" / "mse.json"
    whole = json.loads(damaged.read_text())
    for text in ("{", "[1]", '{"made_by": {}}', json.dumps(whole | {"train": 3})):
        damaged.write_text(text)
        assert re.search(r"mse.json.*Delete it", refusal(*words))
    with torch.no_grad():
        other = tiny_avatar()
        other.generator.last.image.bias.add_(1)  # type: ignore[union-attr]
    checkpoint.save(other, avatar)
    assert "other settings (avatar: " in refusal(*words)


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--data", "people"), r"person few: got 3 usable frames, expected 4: 2 to fit and 2"),
        (("--data", "people", "--person", "anne"), "--person: got 'anne'.*Did you mean 'ann'"),
        (
            ("--data", "people", "--person", "bob", "--frames", 4),
            r"person bob: got 6 .* expected 8",
        ),
        (("--data", "people", "--data", "people"), "2 persons are called 'ann'"),
        (("--data", "nowhere"), "people: got nowhere"),
        ((), "nobody to fit. Give --data"),
        (("--person", "ann"), "--person: got 'ann'"),
        (("--synthetic", 1, "--mse-weight", "nan"), "mse_weight: got nan"),
        (("--synthetic", 1, "--learning-rate", 0), "learning_rate: got 0"),
        (("--synthetic", 1, "--pgn", "pgn-nano"), "called 'pgn-nano'"),
        (("--synthetic", 1, "--pgn", "photo.safetensors"), "would be called 'photo'"),
        (("--synthetic", 1, "--pgn", "pgn-light"), "Did you mean 'pgn-lite'"),
        (("--synthetic", 1, "--checkpoint", "avatr-demo"), "Did you mean 'avatar-demo'"),
        (("--synthetic", 1, "--lpips", "people"), "--lpips: people holds no lpips_alex"),
    ],
)
def test_bad_flags_are_refused_before_anything_is_written(
    flags: tuple[object, ...],
    message: str,
    people: Path,
    avatar: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    pgn.save(pgn.load("pgn-nano"), "photo.safetensors")
    assert re.search(message, refusal("--checkpoint", avatar, "-o", "out", *flags))
    assert not (tmp_path / "out").exists()
