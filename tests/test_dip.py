"""Deep Image Prior: the skip network, the fit and its stops, the interval."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import pgn
from pgn import PgnError
from pgn.evaluate import dip
from pgn.evaluate.bootstrap import gap_closed, gap_interval
from pgn.evaluate.dip import baselines, fit, judge, pgn_run, proxy_target, verdict
from pgn.evaluate.dip_summary import mean_curve, summarise
from pgn.evaluate.skip_network import SkipNetwork, seeded_start
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


def test_without_baselines_there_is_no_share_of_a_gap() -> None:
    (row,) = summarise({"net": [record([2.0], mse=0.1), record([5.0], mse=0.1)]})
    assert (row.gap_closed, row.gap_interval) == (None, None)
    assert row.gap_closed_by_photo == [None, None] and row.means["vgg19"] == pytest.approx(3.5)
