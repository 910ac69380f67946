"""Studies of `pgn-eval heads`: what they write, that they resume, and what they refuse."""

from __future__ import annotations

import itertools
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

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
from pgn.avatar.finetune import FineTuneReport
from pgn.avatar.guidance import mean_squared
from pgn.avatar.model import Avatar
from pgn.avatar.rendered import HELD_OUT
from pgn.evaluate import heads
from pgn.evaluate.cli import app
from pgn.evaluate.heads import Fit, Run, Sitter, fit, judge
from pgn.evaluate.heads_people import synthetic_sitters
from pgn.evaluate.heads_results import Results
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


def test_memory_is_measured_until_it_is_known(tmp_path: Path) -> None:
    results, run = Results(tmp_path / "out", {"steps": 0}), Run("mse", mean_squared)
    values = iter((None, 7, 9))
    assert [results.memory(run, lambda: next(values)) for _ in range(3)] == [None, 7, 7]


def test_persons_whom_the_avatar_may_know_are_named(
    people: Path, avatar: Path, tmp_path: Path, fast: None
) -> None:
    known = tiny_avatar()
    known.info["training"] = {"data": ["synthetic", "people"], "holdout": ["bob"]}
    checkpoint.save(known, avatar)
    words = ("--checkpoint", avatar, "--data", people, "--person", "ann", "--person", "bob")
    done = study(*words, "-o", tmp_path / "out", "--json")
    (note,) = json.loads(done.stdout)["notes"]
    assert note.startswith("ann may have been in the avatar's training")
    assert f"warning: {note}" in done.stderr
    assert json.loads((tmp_path / "out" / "heads.json").read_text())["notes"] == [note]
    assert note.split("avatar")[0] in (tmp_path / "out" / "index.html").read_text()


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
    next(net.parameters()).data *= 2
    pgn.save(net, own)
    assert "own.json was made by another checkpoint" in refusal(*words)
    damaged = tmp_path / "out" / f"synthetic-{HELD_OUT}" / "mse.json"
    whole = json.loads(damaged.read_text())
    infinite = whole | {"train": whole["train"] | {"vgg19": float("inf")}}
    seconds = whole | {"step_seconds": "1"}
    parts = (whole | {"train": 3}, whole | {"holdout": {"vgg19": 1, "mse": "x"}}, infinite, seconds)
    for text in ("{", "[1]", '{"made_by": {}}', *map(json.dumps, parts)):
        damaged.write_text(text)
        assert re.search(r"mse.json.*Delete it", refusal(*words))
    damaged.write_text(json.dumps(whole))
    next(net.parameters()).data /= 2
    pgn.save(net, own)
    (tmp_path / "out" / "memory.json").write_text('{"mse": "x"}')
    assert re.search(r"memory.json is damaged. Delete it", refusal(*words))
    (tmp_path / "out" / "memory.json").unlink()
    picture = damaged.with_suffix(".png")
    drawn = picture.read_bytes()
    picture.write_bytes(drawn[:50])
    assert re.search(r"mse.png cannot be decoded", refusal(*words))
    picture.write_bytes(drawn)
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
