"""What one step of a distillation learns, and how weights move: Eq. 10, Muon, averages."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assert_close, lesson
from lightning.fabric import Fabric
from torch import Tensor, nn

import pgn
from pgn import PgnError
from pgn.distill import distiller as distiller_module
from pgn.distill.bank import Lesson
from pgn.distill.distiller import Distiller
from pgn.distill.optimise import Average, Optimiser, rate_factor
from pgn.distill.options import DistillOptions
from pgn.images import normalise
from pgn_export.parity import photos


@pytest.fixture
def options(tmp_path: Path) -> DistillOptions:
    tiny: dict[str, Any] = {"images": 36, "batch": 6, "crop": 32, "canvas": 64}
    return DistillOptions("photos", tmp_path, backbone="nano", precision="fp32", **tiny)


@pytest.fixture
def distiller(options: DistillOptions) -> Distiller:
    made = Distiller(options, Fabric(accelerator="cpu"), None)
    made.set_up()
    return made


def test_meta_loss_is_equation_10(distiller: Distiller, options: DistillOptions) -> None:
    distiller.options = replace(options, vgg_weight=0.5, l1_weight=0.2)
    generator = torch.Generator().manual_seed(0)
    photo, pixels = torch.rand(2, 2, 3, 32, 32, generator=generator)
    residual, truth = torch.randn(2, 2, 3, 32, 32, generator=generator)
    proxy, u_target = normalise(pixels), normalise(photo)
    found = distiller.meta_loss(residual, Lesson(residual, u_target, truth), proxy)
    wanted = 18.9 * (residual - truth).square().mean()
    wanted = wanted + 0.2 * (proxy - u_target).abs().mean()
    wanted = wanted + 0.5 * distiller.teacher(pixels, photo).mean()
    assert float(found) == pytest.approx(float(wanted), rel=1e-4)


def test_a_lesson_holds_the_teachers_gradient(distiller: Distiller) -> None:
    images = (torch.cat(photos((64, 64)) + photos((64, 64))[:2]) * 255).round().byte()
    seen = distiller.observer.observe(images, step=0)
    assert seen.u_generated.shape == seen.residual.shape == (6, 3, 32, 32)
    u = seen.u_generated[4:5].clone().requires_grad_()  # an autoencoder's picture
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (pgn.images.MEAN, pgn.images.STD))
    loss = distiller.teacher(u * std + mean, seen.u_target[4:5] * std + mean)
    (gradient,) = torch.autograd.grad(loss.sum(), u)  # by u, not by pixels: Eq. 5
    assert_close(seen.residual[4:5], gradient * (3 * 32 * 32) / (2 * 40.0), 1e-4)


def test_a_diverged_network_stops_the_run(distiller: Distiller) -> None:
    nn.init.constant_(next(distiller.net.parameters()), torch.nan)
    with pytest.raises(PgnError, match="loss is nan at step 0.*learning_rate"):
        distiller.learn(lesson())


def test_a_surrogate_that_turned_nan_does_no_harm(distiller: Distiller) -> None:
    for parameter in distiller.observer.surrogates[1].net.parameters():
        nn.init.constant_(parameter, torch.nan)
    images = torch.randint(0, 256, (6, 3, 64, 64), dtype=torch.uint8)
    for _ in range(2):
        learnt = distiller.step(images)
        assert np.isfinite([learnt.loss, learnt.cosine]).all()
    assert all(torch.isfinite(p).all() for p in distiller.net.parameters())


@pytest.mark.parametrize("optimiser", ["adam", "muon"])
def test_a_step_moves_every_weight(optimiser: str, options: DistillOptions) -> None:
    """Muon's matrices must be views of the filters: copies would leave them where they are."""
    made = Distiller(replace(options, optimiser=optimiser), Fabric(accelerator="cpu"), None)
    made.set_up()
    before = deepcopy(made.net.state_dict())
    made.learn(lesson())
    stuck = [key for key, value in made.net.state_dict().items() if torch.equal(value, before[key])]
    assert not stuck, stuck


def test_a_synchronised_step_is_that_of_the_whole_batch(distiller: Distiller) -> None:
    """What DistributedDataParallel must give: the mean of the processes' gradients."""
    both = lesson()
    halves = [Lesson(*(part[k : k + 3] for part in both)) for k in (0, 3)]

    def gradient(which: Lesson) -> Tensor:
        distiller.net.zero_grad()
        proxy = distiller.net(which.u_generated, which.u_target)
        loss = distiller.meta_loss(which.u_generated - proxy, which, proxy)
        loss.backward()  # type: ignore[no-untyped-call]
        return torch.cat(
            [p.grad.flatten() for p in distiller.net.parameters() if p.grad is not None]
        )

    assert_close((gradient(halves[0]) + gradient(halves[1])) / 2, gradient(both), 1e-4)


def test_clipping_is_at_a_multiple_of_the_running_norm(
    distiller: Distiller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distiller_module, "GRADIENT_WEIGHT", 1.0)
    distiller.learn(lesson())
    before = distiller.clip.mean
    assert before is not None
    distiller.learn(lesson()._replace(residual=1e4 * lesson().residual))
    assert distiller.clip.mean == pytest.approx(0.99 * before + 0.01 * 5 * before, rel=1e-4)


def test_muon_moves_filters_by_orthogonal_steps_and_adam_the_rest() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(), nn.Conv2d(8, 3, 1))
    before = [p.detach().clone() for p in net.parameters()]
    optimiser = Optimiser(net, "muon", 0.01)
    net(torch.randn(4, 3, 8, 8)).square().sum().backward()
    optimiser.step(0.5)
    moved = [p.detach() - old for p, old in zip(net.parameters(), before, strict=True)]
    singular = torch.linalg.svdvals(moved[0].flatten(1).double())
    scale = 0.01 * 0.5 * 0.2 * 27**0.5  # rate, factor, and 0.2 sqrt(longer side) as Adam's steps
    assert ((singular / scale) > 0.5).all() and ((singular / scale) < 1.5).all(), singular / scale
    for step in moved[1:]:  # Adam's first step: the rate, whatever the gradient's size
        assert_close(step.abs(), torch.full_like(step, 1e-3 * 0.5), 1e-3)
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("name", ["adam", "muon"])
def test_an_optimiser_goes_on_as_if_never_saved(name: str) -> None:
    def train(net: nn.Module, optimiser: Optimiser, steps: range) -> None:
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            net(torch.randn(2, 3, 8, 8, generator=generator)).square().sum().backward()
            optimiser.step(1.0)

    torch.manual_seed(0)
    net = nn.Conv2d(3, 8, 3)
    start = deepcopy(net.state_dict())
    optimiser = Optimiser(net, name, 0.01)
    train(net, optimiser, range(3))
    saved = deepcopy((optimiser.state_dict(), net.state_dict()))
    train(net, optimiser, range(3, 6))
    again = nn.Conv2d(3, 8, 3)
    again.load_state_dict(start)
    resumed = Optimiser(again, name, 0.01)
    again.load_state_dict(saved[1])
    resumed.load_state_dict(saved[0])
    train(again, resumed, range(3, 6))
    assert torch.equal(net.weight, again.weight) and not torch.equal(net.weight, start["weight"])


def test_schedules() -> None:
    assert rate_factor("cosine", 0, 1000) == pytest.approx(0.01)
    assert rate_factor("cosine", 500, 1000) == pytest.approx(0.5)
    assert rate_factor("cosine", 1000, 1000) == pytest.approx(0.0)
    assert rate_factor("constant", 999, 1000) == 1.0


def test_the_average_is_the_exponential_mean_of_the_weights() -> None:
    weight = torch.zeros(1)
    average = Average([weight], 0.5)
    expected = 0.0
    for step in range(1, 6):
        weight += 1
        average.update([weight], step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    average.copy_to([weight])
    assert float(weight) == pytest.approx(expected)
