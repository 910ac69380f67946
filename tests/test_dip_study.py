"""Studies of `pgn-eval dip`: what they write, that they resume, and what they refuse."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SHARED, assert_close, photo_folder
from torch import Tensor, nn
from typer.testing import CliRunner

import pgn
from pgn import PgnError
from pgn.evaluate import dip
from pgn.evaluate.cli import app
from pgn.evaluate.dip import Run, fit
from pgn.evaluate.dip_results import Photo, Results, read_photos
from pgn.files import read_image
from pgn.teachers import PerceptualLoss
from pgn_export.parity import photos

SIZE = 36


@pytest.fixture
def target() -> Tensor:
    return photos((SIZE, SIZE))[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return photo_folder(tmp_path / "photos", 3, 64)


def study(*words: object) -> Any:
    flags = ("--size", SIZE, "--steps", 2)
    return CliRunner().invoke(app, [str(w) for w in ("dip", *flags, *words)])


def test_recorded_figures_travel_and_the_study_goes_on(folder: Path, tmp_path: Path) -> None:
    words = ("--images", folder, "--count", 2, "-o", tmp_path / "out", "--json")
    done = study(*words, "--record", tmp_path / "cards")
    assert done.exit_code == 0, done.output
    rows = {row["run"]: row for row in json.loads(done.stdout)["runs"]}
    card = tmp_path / "cards" / "pgn-lite.safetensors"
    info = pgn.load(card).info["deep_image_prior"]
    assert (info["photos"], info["size"], info["steps"]) == (2, SIZE, 2)
    assert info["rows"] == [
        {
            "mse_weight": weight,
            "gap_closed": rows[name]["gap_closed"],
            "interval_95": rows[name]["gap_interval"],
        }
        for weight, name in ((0.0, "pgn-lite"), (20.0, "pgn-lite+20mse"))
    ]
    changed = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("pgn-lite*.json")}
    again = study(*words, "--checkpoint", card)
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout) == json.loads(done.stdout), "the same network in another file"
    assert changed == {path: path.stat().st_mtime_ns for path in changed}, "nothing is fitted again"


def test_without_baselines_there_is_nothing_to_record(folder: Path, tmp_path: Path) -> None:
    words = ("--images", folder, "--no-baselines", "--record", tmp_path / "cards")
    refused = study(*words, "-o", tmp_path / "out")
    assert isinstance(refused.exception, PgnError) and "--baselines" in str(refused.exception)
    assert not (tmp_path / "cards").exists()


def test_a_study_is_written_printed_and_reprinted_without_fits(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    words = ("--images", folder, "--count", 2, "--skip", 1, "-o", output, "--json")
    done = study(*words)
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    names = ["mse", "vgg19", "pgn-lite", "pgn-lite+20mse"]
    assert [row["run"] for row in summary["runs"]] == names
    assert sorted(p.name for p in output.iterdir()) == ["001-1", "002-2", "dip.json", "index.html"]
    assert {p.name for p in (output / "001-1").iterdir()} == {
        "target.png", "pgn-lite.proxy.png", "pgn-lite+20mse.proxy.png",
        *(f"{name}.{suffix}" for name in names for suffix in ("json", "png")),
    }  # fmt: skip
    for row in summary["runs"]:
        fits = [json.loads((output / p / f"{row['run']}.json").read_text()) for p in PHOTOS]
        assert row["means"]["vgg19"] == pytest.approx(sum(f["vgg19"] for f in fits) / 2)
    starts = {fit["vgg19_at_steps"][0] for fit in _fits(output, "001-1")}
    assert len(starts) == 1, "every loss begins with the same picture"
    page = (output / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 2 * (1 + 4 + 2) and "<svg" in page
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page), "the page loads something"

    monkeypatch.setattr("pgn.evaluate.dip_cli.fit", None)  # any fit would fail now
    again = study(*words)
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout) == summary
    assert "gap closed" in study(*words[:-1]).stdout
    alone = json.loads(study(*words, "--no-baselines").stdout)
    assert [row["gap_closed"] for row in alone["runs"]] == [None, None]


PHOTOS = ("001-1", "002-2")


def _fits(output: Path, photo: str) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((output / photo).glob("*.json"))]


def test_an_interrupted_study_resumes_run_by_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--images", folder, "--count", 1, "--mse-weight", 0)
    whole = study(*words, "-o", tmp_path / "whole", "--json")
    calls = itertools.count()

    def killed(*arguments: Any) -> dip.Fit:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return fit(*arguments)

    monkeypatch.setattr("pgn.evaluate.dip_cli.fit", killed)
    assert study(*words, "-o", tmp_path / "killed").exit_code != 0
    assert len(list((tmp_path / "killed").glob("*/*.json"))) == 2
    resumed = study(*words, "-o", tmp_path / "killed", "--json")
    assert next(calls) == 4, "the third of three fits was begun twice, the others once"
    assert json.loads(resumed.stdout) == json.loads(whole.stdout)


def test_other_settings_and_other_checkpoints_are_refused(folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.safetensors"
    net = pgn.load("pgn-lite")
    pgn.save(net, own)
    words = ("--images", folder, "--count", 1, "-o", tmp_path / "out", "--mse-weight", 0)
    assert study(*words, "--checkpoint", own).exit_code == 0
    for flag, value, named in (
        ("--steps", 3, "steps"),
        ("--size", 40, "size"),
        ("--skip", 1, "photos"),
    ):
        error = study(*words, flag, value).exception
        assert isinstance(error, PgnError), error
        assert f"other settings ({named}: " in str(error)
    next(net.parameters()).data *= 2
    pgn.save(net, own)
    with pytest.raises(PgnError, match=r"own.json was made by another checkpoint"):
        raise study(*words, "--checkpoint", own).exception
    damaged = tmp_path / "out" / "000-0" / "mse.json"
    for text in ("{", "[1]", '{"made_by": {}}'):
        damaged.write_text(text)
        with pytest.raises(PgnError, match=r"mse.json.*Delete it"):
            raise study(*words).exception


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--count", 4), r"holds 3 photos, expected at least --skip \+ --count = 4"),
        (("--count", 1, "--skip", 3), "holds 3 photos"),
        (("--count", 1, "--checkpoint", "pgn-light"), "Did you mean 'pgn-lite'"),
        (("--count", 1, "--mse-weight", "nan"), "--mse-weight: got nan"),
        (("--count", 1, "--mse-weight", 2, "--mse-weight", "2.0"), "would be called 'pgn-lite.2m"),
        (("--count", 1, "--checkpoint", "mse.safetensors"), "would be called 'mse'"),
        (("--count", 1, "--lpips", "photos"), r"--lpips: photos holds no lpips_alex"),
    ],
)
def test_bad_flags_are_refused_before_anything_is_written(
    flags: tuple[object, ...],
    message: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    pgn.save(pgn.load("pgn-lite"), "mse.safetensors")
    with pytest.raises(PgnError, match=message):
        raise study("--images", folder, "-o", "out", "--mse-weight", 0, *flags).exception
    assert not (tmp_path / "out").exists()


class Distance(nn.Module):
    """Stands for LPIPS: the mean absolute difference."""

    def forward(self, generated: Tensor, target: Tensor) -> Tensor:
        return (generated - target).abs().mean(dim=(1, 2, 3))


def test_lpips_is_of_the_saved_picture_and_may_come_later(
    folder: Path, tmp_path: Path, target: Tensor
) -> None:
    (photo,) = read_photos(folder, 0, 1, SIZE)
    results = Results(tmp_path / "out", {"steps": 0})
    run = Run("mse", lambda _: torch.zeros_like)
    image = target + 0.6  # much of it above 1
    assert results.load(photo, run) is None
    results.store(photo, run, dip.Fit(image, [0], [1.5], ""))
    metric: Any = {"lpips-alex": Distance()}
    found = results.measure(photo, run, metric)
    saved = read_image(results.picture(photo, "mse"))
    assert_close(saved[None], image.clamp(0, 1), 0.5 / 255 + 1e-6)
    wanted = float((saved - photo.pixels).abs().mean())
    assert found["lpips-alex"] == pytest.approx(wanted, rel=1e-5)
    assert found["mse"] == pytest.approx(float((image - photo.pixels).square().mean()))
    assert results.measure(photo, run, {}) == found, "it was kept"
    results.picture(photo, "mse").unlink()
    assert results.load(photo, run) is None, "a fit without its picture is made again"


def test_photos_are_those_after_the_skipped_ones(folder: Path) -> None:
    found = read_photos(folder, 1, 2, 32)
    assert [(photo.name, photo.seed) for photo in found] == [("001-1", 1), ("002-2", 2)]
    assert isinstance(found[0], Photo)
    centre = read_image(folder / "1.png")[:, 16:48, 16:48]
    assert torch.equal(found[0].pixels[0], centre)


def test_lpips_columns_with_the_real_weights(folder: Path, tmp_path: Path) -> None:
    weights = SHARED / "weights"
    if not weights.is_dir():
        pytest.skip(f"{weights} is not here; the test above is the offline twin")
    words = ("--images", folder, "--count", 1, "--mse-weight", 0, "-o", tmp_path / "out", "--json")
    without = json.loads(study(*words).stdout)
    done = json.loads(study(*words, "--lpips", weights).stdout)
    again = study(*words)
    assert json.loads(again.stdout) == done and "LPIPS is left out" not in again.stderr
    target_ = read_image(tmp_path / "out" / "000-0" / "target.png")[None]
    for before, row in zip(without["runs"], done["runs"], strict=True):
        assert "lpips-alex" not in before["means"]
        picture = read_image(tmp_path / "out" / "000-0" / f"{row['run']}.png")[None]
        for name, file in (("alex", "lpips_alex"), ("vgg", "lpips_vgg16_fp16")):
            metric = PerceptualLoss(f"lpips-{name}", weights / f"{file}.safetensors")
            with torch.no_grad():
                wanted = float(metric(picture, target_))
            assert row["means"][f"lpips-{name}"] == pytest.approx(wanted, rel=1e-4)
