"""Deep Image Prior: the skip network, the fit and its stops, the interval, a study that resumes."""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SHARED, assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from typer.testing import CliRunner

import pgn
from pgn import PgnError
from pgn.degrade import to_pil
from pgn.evaluate import dip
from pgn.evaluate.bootstrap import gap_closed, gap_interval
from pgn.evaluate.cli import app
from pgn.evaluate.dip import Run, baselines, fit, judge, pgn_run, proxy_target, verdict
from pgn.evaluate.dip_results import Photo, Results, read_photos
from pgn.evaluate.dip_summary import mean_curve, summarise
from pgn.evaluate.skip_network import SkipNetwork, seeded_start
from pgn.files import read_image
from pgn.teachers import PerceptualLoss
from pgn_export.parity import photos

SIZE = 36


# The skip network


def official_skip(parameters: list[Tensor], noise: Tensor) -> Tensor:
    """skip() of Deep Image Prior, written down level by level, from a flat list of parameters."""
    left = iter(parameters)

    def conv(x: Tensor, stride: int = 1) -> Tensor:
        weight, bias = next(left), next(left)
        pad = (weight.shape[-1] - 1) // 2
        return F.conv2d(F.pad(x, (pad,) * 4, mode="reflect"), weight, bias, stride)

    def norm(x: Tensor) -> Tensor:
        mean = x.mean(dim=(0, 2, 3), keepdim=True)
        variance = (x - mean).square().mean(dim=(0, 2, 3), keepdim=True)
        scale, shift = (next(left).view(1, -1, 1, 1) for _ in range(2))
        return (x - mean) / (variance + 1e-5).sqrt() * scale + shift

    def act(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.2 * x)

    def level(x: Tensor, depth: int) -> Tensor:
        skipped = act(norm(conv(x))) if depth in (3, 4) else None
        deep = act(norm(conv(x, stride=2)))
        deep = act(norm(conv(deep)))
        if depth < 4:
            deep = level(deep, depth + 1)
        sides = [2 * side for side in deep.shape[-2:]]
        deep = F.interpolate(deep, sides, mode="bilinear", align_corners=False)
        joined = deep if skipped is None else torch.cat([skipped, deep], dim=1)
        return act(norm(conv(act(norm(conv(norm(joined)))))))

    out = conv(level(noise, 0))
    assert next(left, None) is None, "parameters were left over"
    return out


def test_the_skip_network_is_that_of_deep_image_prior() -> None:
    net, noise = seeded_start(0, 64, 96)
    net, noise = net.double(), noise.double()
    for parameter in net.parameters():  # scales of 1 and shifts of 0 would hide a swap
        nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert_close(net(noise), official_skip(list(net.parameters()), noise), 1e-9)


def test_the_skip_network_has_the_papers_widths() -> None:
    widths, skips, inputs = (8, 16, 32, 64, 128), (0, 0, 0, 4, 4), (3, 8, 16, 32, 64)
    expected = 8 * 3 + 3
    for width, skip, below, entering in zip(
        widths, skips, (16, 32, 64, 128, 128), inputs, strict=True
    ):
        joined = below + skip
        convs = [(entering, width, 9), (width, width, 9), (joined, width, 9), (width, width, 1)]
        convs += [(entering, skip, 1)] if skip else []
        expected += sum(i * o * k + o + 2 * o for i, o, k in convs) + 2 * joined
    assert sum(p.numel() for p in SkipNetwork().parameters()) == expected


@settings(max_examples=8, deadline=None)
@given(height=st.integers(33, 80), width=st.integers(33, 80))
def test_any_size_of_at_least_33_is_drawn(height: int, width: int) -> None:
    net, noise = seeded_start(0, height, width)
    assert net(noise).shape == (1, 3, height, width)


def test_too_small_a_picture_is_refused() -> None:
    net, noise = seeded_start(0, 32, 64)
    with pytest.raises(PgnError, match="expected sides of at least 33"):
        net(noise)


def test_a_start_depends_on_its_seed_alone_and_leaves_the_global_one() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (seeded_start(seed, 40, 40) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first[1], again[1]) and not torch.equal(first[1], other[1])
    for a, b in zip(first[0].parameters(), again[0].parameters(), strict=True):
        assert torch.equal(a, b)
    assert first[1].min() >= 0 and 0.09 < first[1].max() <= 0.1


# The fit


@pytest.fixture(scope="module")
def teacher() -> PerceptualLoss:
    return PerceptualLoss()


@pytest.fixture(scope="module")
def target() -> Tensor:
    return photos((SIZE, SIZE))[0]


def zero(generated: Tensor) -> Tensor:
    return torch.zeros_like(generated)


def test_a_fit_is_what_autograd_on_the_loss_gives(teacher: PerceptualLoss, target: Tensor) -> None:
    """Exact VGG-19 and MSE, against a loop that backpropagates the loss itself."""
    losses = (lambda image: (image - target).square().mean(), lambda image: teacher(image, target))
    for run, loss in zip(baselines(teacher), losses, strict=True):
        net, noise = seeded_start(3, SIZE, SIZE)
        optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
        for _ in range(2):
            optimiser.zero_grad()
            loss(net(noise)).sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        with torch.no_grad():
            wanted = net(noise)
        found = fit(run.towards(target), judge(teacher, target), seeded_start(3, SIZE, SIZE), 2)
        assert_close(found.image, wanted, 1e-3)
        assert found.steps == [0, 2] and found.stopped == ""
        assert found.vgg19[-1] == pytest.approx(float(teacher(wanted, target)), rel=1e-3)
        assert found.vgg19[-1] < found.vgg19[0]


def test_a_pgn_run_pulls_as_the_public_gradient(target: Tensor) -> None:
    net = pgn.load("pgn-lite")
    generated = (target + 0.1).clamp(0, 1)
    for weight in (0.0, 20.0):
        run = pgn_run("pgn-lite", net, weight)
        wanted = net.gradient(generated, target, weight)
        assert_close(run.towards(target)(generated), wanted, 1e-6)
    assert_close(proxy_target(net, generated, target), net.proxy(generated, target), 1e-6)
    assert run.name == "pgn-lite+20mse" and pgn_run("x", net, 0.0).name == "x"
    outside = generated.clone()
    outside[0, 0, 0, 0] = 4.5  # where an untrained network may begin
    assert run.towards(target)(outside).isfinite().all()


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_a_bad_mse_weight_is_refused(weight: float) -> None:
    with pytest.raises(PgnError, match="--mse-weight: got"):
        pgn_run("pgn-lite", pgn.load("pgn-lite"), weight)


@pytest.mark.parametrize(
    ("steps", "losses", "wanted"),
    [
        ([0], [1.0], ""),
        ([0, 25], [1.0, 2.0], ""),
        ([0, 25], [1.0, 2.01], "diverged"),
        ([0, 25, 50], [1.0, 0.1, 1.9], ""),  # twice the first counts, not twice the best
        ([0, 1975, 2000], [1.0, 1.2, 1.1], "stagnated"),
        ([0, 25, 2000], [1.0, 0.9, 1.1], ""),
        ([0, 25, 2025], [1.0, 0.9, 0.9], "stagnated"),  # equal is no progress
        ([0, 25, 2025], [1.0, 0.9, 0.8], ""),
    ],
)
def test_stops_are_those_of_table_5(steps: list[int], losses: list[float], wanted: str) -> None:
    assert verdict(steps, losses) == wanted


def test_a_fit_is_judged_on_schedule_and_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dip, "CHECK_EVERY", 2)
    start = seeded_start(0, 33, 33)
    losses = iter([1.0, 0.5, 0.7, 3.0, 0.1])
    taken: list[None] = []
    found = fit(zero, lambda _: next(losses), start, 20, lambda: taken.append(None))
    assert (found.steps, found.vgg19, found.stopped) == ([0, 2, 4, 6], [1, 0.5, 0.7, 3], "diverged")
    assert len(taken) == 6
    found = fit(zero, lambda _: 1.0, start, 5)
    assert found.steps == [0, 2, 4, 5]


def test_a_fit_that_turns_nan_has_diverged_and_keeps_its_last_picture(
    monkeypatch: pytest.MonkeyPatch, teacher: PerceptualLoss, target: Tensor
) -> None:
    monkeypatch.setattr(dip, "CHECK_EVERY", 1)
    calls = itertools.count()

    def pull(generated: Tensor) -> Tensor:
        return torch.full_like(generated, math.nan if next(calls) == 2 else 1e-5)

    found = fit(pull, judge(teacher, target), seeded_start(0, SIZE, SIZE), 10)
    assert found.stopped == "diverged" and found.steps == [0, 1, 2]
    assert found.image.isfinite().all() and np.isfinite(found.vgg19).all()


# Figures over photos


def test_the_share_of_the_gap_is_computed_by_hand() -> None:
    mse, exact, run = np.array([4.0, 6.0]), np.array([2.0, 2.0]), np.array([3.0, 3.0])
    assert gap_closed(mse, exact, run) == pytest.approx(2 / 3)
    assert gap_closed(mse, exact, mse) == 0 and gap_closed(mse, exact, exact) == 1
    assert gap_closed(exact, mse, run) is None
    assert gap_interval(mse[:1], exact[:1], run[:1]) is None
    assert gap_interval(np.array([1.0, 4.0]), np.array([2.0, 2.0]), run) is None


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_is_that_of_all_resamples(seed: int) -> None:
    """3 photos have 27 equally likely resamples: their own 2.5 and 97.5 % points."""
    random = np.random.default_rng(seed)
    mse, exact = random.uniform(4, 5, 3), random.uniform(1, 2, 3)
    run = random.uniform(1, 5, 3)
    shares = []
    for drawn in itertools.product(range(3), repeat=3):
        totals = [sum(losses[i] for i in drawn) for losses in (mse, exact, run)]
        shares.append((totals[0] - totals[2]) / (totals[0] - totals[1]))
    shares.sort()
    low, high = shares[math.floor(0.025 * 27)], shares[math.ceil(0.975 * 27) - 1]
    found = gap_interval(mse, exact, run)
    assert found == pytest.approx((low, high), rel=1e-9)


def test_the_interval_covers_what_it_should() -> None:
    """Many photos of one distribution: about 1.96 standard errors to either side."""
    random = np.random.default_rng(0)
    mse, exact = np.full(200, 5.0), np.full(200, 1.0)
    run = random.normal(2.0, 0.4, 200)
    found = gap_interval(mse, exact, run)
    half = 1.96 * run.std() / math.sqrt(200) / 4
    centre = gap_closed(mse, exact, run)
    assert centre is not None
    assert found == pytest.approx((centre - half, centre + half), abs=0.1 * half)


def record(vgg19: list[float], stopped: str = "", **figures: float) -> dict[str, Any]:
    steps = [25 * i for i in range(len(vgg19))]
    return {"vgg19": vgg19[-1], "vgg19_at_steps": vgg19, "steps": steps, "stopped": stopped} | (
        figures
    )


def test_figures_are_means_and_stops_are_counted() -> None:
    rows = summarise(
        {
            "mse": [record([4.0], mse=0.1) | {"lpips-vgg": 0.5}, record([6.0], mse=0.3)],
            "vgg19": [record([2.0], mse=0.1), record([2.0], mse=0.1)],
            "net": [record([2.0], "stagnated", mse=0.1), record([5.0], "diverged", mse=0.1)],
        }
    )
    mse, exact, net = rows
    assert mse.means == pytest.approx({"vgg19": 5.0, "mse": 0.2})  # LPIPS not of every fit: none
    assert (net.diverged, net.stagnated, mse.diverged) == (1, 1, 0)
    assert net.gap_closed_by_photo == [1.0, 0.25]
    assert net.gap_closed == pytest.approx(0.5) and exact.gap_closed == 1


def test_the_curve_ends_with_the_fit_that_stopped_first() -> None:
    fits = [record([9.0, 4.0, 2.0, 1.0]), record([9.0, 6.0, 3.0])]
    assert mean_curve(fits) == ([25, 50], [5.0, 2.5])


# The study


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    where = tmp_path / "photos"
    where.mkdir()
    for index, photo in enumerate(photos((64, 64))[:3]):
        to_pil(photo[0]).save(where / f"{index}.png")
    return where


def study(*words: object) -> Any:
    flags = ("--size", SIZE, "--steps", 2)
    return CliRunner().invoke(app, [str(w) for w in ("dip", *flags, *words)])


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
    net.info["note"] = "another"
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
    run = Run("mse", lambda _: zero)
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
