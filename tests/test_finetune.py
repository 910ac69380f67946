"""Fine-tuning a head against Adam written out on the scalar loss; guidance against autograd."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import pgn
from pgn import PgnError
from pgn.avatar import Generator, GeneratorConfig, PersonalGenerator, personalise, trainable
from pgn.avatar.finetune import DivergedError, FineTuneOptions, fine_tune
from pgn.avatar.generator import TRAINABLE
from pgn.avatar.guidance import Guidance, exact, mean_squared, predicted
from pgn.images import STD, normalise
from pgn.teachers import PerceptualLoss, Teacher, load_teacher

SIZE = 32
PHOTOS = 5
FAST = 1e-2  # a rate at which a few steps change every weight visibly


def head(dtype: torch.dtype = torch.float32) -> tuple[PersonalGenerator, Tensor, Tensor]:
    """A small head, conditions and photos (PHOTOS, 3, SIZE, SIZE)."""
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(SIZE, (4, 5, 6), 1))
    personal = personalise(generator, 0.3 * torch.randn(generator.style_size))
    conditions, photos = torch.rand(2, PHOTOS, 3, SIZE, SIZE)
    return personal.to(dtype), conditions.to(dtype), photos.to(dtype)


def weights(generator: PersonalGenerator) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in generator.named_parameters()}


def plain_loop(
    generator: PersonalGenerator,
    loss: Callable[[Tensor], Tensor],
    conditions: Tensor,
    steps: int,
) -> None:
    """Adam, written out: Kingma and Ba, arXiv 1412.6980, algorithm 1."""
    parameters = list(generator.parameters())
    first = [torch.zeros_like(p) for p in parameters]
    second = [torch.zeros_like(p) for p in parameters]
    for step in range(1, steps + 1):
        gradients = torch.autograd.grad(loss(generator(conditions)), parameters)
        with torch.no_grad():
            for p, g, m, v in zip(parameters, gradients, first, second, strict=True):
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.999).add_(0.001 * g * g)
                corrected = (v / (1 - 0.999**step)).sqrt() + 1e-8
                p.sub_(FAST * m / (1 - 0.9**step) / corrected)


def scalar_zncc(photos: Tensor, mse_weight: float) -> Callable[[Tensor], Tensor]:
    """Mean over photos of 1 - zero-mean NCC, and of the MSE of normalised images."""

    def loss(generated: Tensor) -> Tensor:
        a, b = (image.flatten(1) - image.mean((1, 2, 3))[:, None] for image in (generated, photos))
        zncc = 1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
        std = torch.tensor(STD, dtype=photos.dtype)[:, None, None]
        mse = (((generated - photos) / std) ** 2).mean((1, 2, 3))
        total: Tensor = (zncc + mse_weight * mse).mean()
        return total

    return loss


LOSSES: dict[str, tuple[Callable[[], Guidance], Callable[[Tensor], Callable[[Tensor], Tensor]]]] = {
    "mse": (mean_squared, lambda photos: lambda generated: F.mse_loss(generated, photos)),
    "exact": (
        lambda: exact(load_teacher("zncc"), 0.7),
        lambda photos: scalar_zncc(photos, 0.7),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("microbatch", [None, 2])
def test_fine_tuning_is_adam_on_the_mean_loss_of_the_photos(
    name: str, microbatch: int | None
) -> None:
    guidance, scalar = LOSSES[name]
    found, conditions, photos = head(torch.float64)
    wanted = copy.deepcopy(found)
    for parameter in found.parameters():
        parameter.grad = torch.ones_like(parameter)  # of an earlier backward pass
    options = FineTuneOptions(steps=4, learning_rate=FAST, microbatch=microbatch)
    fine_tune(found, conditions, photos, guidance(), options)
    plain_loop(wanted, scalar(photos), conditions, steps=4)
    before = weights(head(torch.float64)[0])
    for key, tensor in weights(wanted).items():
        assert_close(weights(found)[key], tensor, 1e-9)
        assert not torch.equal(tensor, before[key]), f"{key} did not move"


@settings(max_examples=4, deadline=None)
@given(microbatch=st.integers(1, PHOTOS + 2))
def test_micro_batches_give_the_same_result(microbatch: int) -> None:
    """In float32, with a PGN: as near as its rounding lets Adam come."""
    guidance = predicted(pgn.load("pgn-nano"), 2.0)
    results = []
    for size in (None, microbatch):
        generator, conditions, photos = head()
        options = FineTuneOptions(steps=2, learning_rate=1e-4, microbatch=size)
        report = fine_tune(generator, conditions, photos, guidance, options)
        results.append((report.mse, generator(conditions).detach()))
    (whole, image), (parts, other) = results
    assert parts == pytest.approx(whole, rel=1e-5)
    assert_close(other, image, 1e-4)


@pytest.mark.parametrize("preset", TRAINABLE)
def test_a_preset_changes_its_parameters_and_no_others(preset: str) -> None:
    generator, conditions, photos = head()
    before = weights(generator)
    options = FineTuneOptions(steps=2, learning_rate=FAST, trainable=preset)
    fine_tune(generator, conditions, photos, mean_squared(), options)
    changed = {n for n, tensor in weights(generator).items() if not torch.equal(tensor, before[n])}
    assert changed == set(trainable(generator, preset))
    assert all(p.grad is None for p in generator.parameters()), "gradients were left behind"


def test_it_is_deterministic_and_reports_every_step() -> None:
    told: list[tuple[int, float]] = []
    results = []
    for on_step in (lambda step, mse: told.append((step, mse)), lambda step, mse: None):
        generator, conditions, photos = head()
        first = float((generator(conditions).detach() - photos).square().mean())
        options = FineTuneOptions(steps=6, learning_rate=FAST)
        report = fine_tune(generator, conditions, photos, mean_squared(), options, on_step)
        results.append((report.mse, weights(generator)))
        assert report.mse[0] == pytest.approx(first, rel=1e-5)
        assert report.mse[-1] < report.mse[0]
        assert len(report.seconds) == len(report.guidance_seconds) == 6
        for whole, part in zip(report.seconds, report.guidance_seconds, strict=True):
            assert 0 < part < whole
    (mse, tensors), (mse_again, again) = results
    assert told == list(enumerate(mse, start=1))
    assert mse == mse_again
    assert all(torch.equal(tensor, again[name]) for name, tensor in tensors.items())


def test_parameters_that_were_frozen_are_fitted_too() -> None:
    generator, conditions, photos = head()
    generator.requires_grad_(False)
    before = weights(generator)
    options = FineTuneOptions(steps=1, learning_rate=FAST, trainable="last")
    fine_tune(generator, conditions, photos, mean_squared(), options)
    assert not torch.equal(weights(generator)["last.style"], before["last.style"])


# Guidance


def test_mean_squared_is_autograds_gradient_whatever_the_batch(
    pair: tuple[Tensor, Tensor],
) -> None:
    generated, target = (image.double() for image in pair)
    variable = generated.clone().requires_grad_()
    loss = sum(F.mse_loss(variable[k], target[k]) for k in range(2))
    (wanted,) = torch.autograd.grad(loss, variable)  # type: ignore[arg-type]
    assert_close(mean_squared()(generated, target), wanted, 1e-12)
    assert_close(mean_squared()(generated[1:], target[1:]), wanted[1:], 1e-12)


@pytest.mark.parametrize("mse_weight", [0.0, 3.0])
def test_exact_and_predicted_guidance_are_autograds(
    pair: tuple[Tensor, Tensor], mse_weight: float
) -> None:
    generated, target = pair
    net, teacher = pgn.load("pgn-nano"), PerceptualLoss()
    alpha = net.config.alpha
    variable = generated.clone().requires_grad_()
    u, u_target, u_proxy = map(normalise, (variable, target, net.proxy(generated, target)))
    mse_term = mse_weight * (u - u_target).square().mean((1, 2, 3)).sum()
    predicted_loss = alpha * (u - u_proxy).square().mean((1, 2, 3)).sum() + mse_term
    (wanted,) = torch.autograd.grad(predicted_loss, variable, retain_graph=True)
    assert_close(predicted(net, mse_weight)(generated, target), wanted, 1e-5)
    (wanted,) = torch.autograd.grad(teacher(variable, target).sum() + mse_term, variable)
    guidance = exact(teacher, mse_weight)
    for _ in range(2):  # the second with features of before
        assert_close(guidance(generated, target), wanted, 1e-5)


class Counting:
    """A teacher that counts how often features of a target are computed."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher
        self.gradient = teacher.gradient
        self.calls = 0

    def features(self, image: Tensor) -> list[Tensor]:
        self.calls += 1
        return self.teacher.features(image)


def test_exact_guidance_computes_features_once_for_every_micro_batch() -> None:
    generator, conditions, photos = head()
    teacher: Any = Counting(load_teacher("ssd"))
    guidance = exact(teacher, 0.0)
    for calls in (3, 6):  # other slices of the same photos are other tensors
        fine_tune(generator, conditions, photos, guidance, FineTuneOptions(3, microbatch=2))
        assert teacher.calls == calls


# What is refused


@pytest.mark.parametrize("mse_weight", [-1.0, float("nan"), float("inf")])
def test_weights_that_are_none_are_refused(mse_weight: float) -> None:
    with pytest.raises(PgnError, match="mse_weight: got"):
        exact(load_teacher("ssd"), mse_weight)
    with pytest.raises(PgnError, match="mse_weight: got"):
        predicted(pgn.load("pgn-nano"), mse_weight)


def test_divergence_is_told_with_the_step_and_the_way_out() -> None:
    generator, conditions, photos = head()
    nan: Guidance = lambda generated, target: generated * float("nan")  # noqa: E731
    with pytest.raises(DivergedError, match="at step 2 the images hold NaN.*Lower the learning"):
        fine_tune(generator, conditions, photos, nan, FineTuneOptions(steps=3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, p: (c[:4], p), r"photos: got shape \(5, .* conditions of shape \(4, "),
        (lambda c, p: (c[:0], p[:0]), "K at least 1"),
        (lambda c, p: (c[0], p[0]), r"expected \(K, 3, H, W\)"),
        (lambda c, p: (c, (p * 255).byte()), "photos: got torch.uint8.*Divide 8-bit"),
        (lambda c, p: (c.double(), p), "conditions: got torch.float64"),
        (lambda c, p: (c[..., :30], p[..., :30]), "condition: got shape"),
    ],
)
def test_photos_that_do_not_fit_are_refused(
    change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], message: str
) -> None:
    generator, conditions, photos = head()
    with pytest.raises(PgnError, match=message):
        fine_tune(generator, *change(conditions, photos), mean_squared(), FineTuneOptions())


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"steps": 0}, "steps: got 0"),
        ({"learning_rate": 0.0}, "learning_rate: got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate: got nan"),
        ({"trainable": "decodr"}, "Did you mean 'decoder'"),
        ({"microbatch": 0}, "microbatch: got 0"),
    ],
)
def test_options_are_checked(option: dict[str, Any], message: str) -> None:
    with pytest.raises(PgnError, match=message):
        FineTuneOptions(**option)
