"""Objectives of a talking head: hand-computed values, naive formulas in float64, known optima."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from conftest import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pgn import PgnError
from pgn.avatar import Discriminator
from pgn.avatar.objectives import (
    ADVERSARIAL,
    adversarial,
    embedding_match,
    feature_matching,
    gradient_penalty,
    proxy_surrogate,
)

Scores = Callable[[Tensor], Tensor]
REAL, GENERATED = [2.0, -1.0], [0.5, -3.0]  # scores of two images each
S = {x: 1 / (1 + math.exp(-x)) for x in (*REAL, *GENERATED)}  # the sigmoid
LOG_REAL, LOG_FAKE, LOG_FOOL = (
    (math.log(S[2.0]) + math.log(S[-1.0])) / 2,
    (math.log(1 - S[0.5]) + math.log(1 - S[-3.0])) / 2,
    (math.log(S[0.5]) + math.log(S[-3.0])) / 2,
)
BY_HAND = {  # the discriminator's loss, and the generator's
    "minimax": (-LOG_REAL - LOG_FAKE, LOG_FAKE),
    "non-saturating": (-LOG_REAL - LOG_FAKE, -LOG_FOOL),
    "least-squares": ((1 + 4) / 4 + (0.25 + 9) / 4, (0.25 + 16) / 4),
    "hinge": ((0 + 2) / 2 + (1.5 + 0) / 2, 1.25),
    "wgan": (-1.25 - 0.5, 1.25),
}


def log_s(x: Tensor) -> Tensor:
    return torch.log(1 / (1 + torch.exp(-x)))


NAIVE: dict[str, tuple[Scores, Scores, Scores]] = {  # of one score: real, generated, generator
    "minimax": (lambda r: -log_s(r), lambda g: -log_s(-g), lambda g: log_s(-g)),
    "non-saturating": (lambda r: -log_s(r), lambda g: -log_s(-g), lambda g: -log_s(g)),
    "least-squares": (
        lambda r: 0.5 * (r - 1) ** 2,
        lambda g: 0.5 * g**2,
        lambda g: 0.5 * (g - 1) ** 2,
    ),
    "hinge": (
        lambda r: -torch.minimum(r - 1, torch.zeros_like(r)),
        lambda g: -torch.minimum(-g - 1, torch.zeros_like(g)),
        lambda g: -g,
    ),
    "wgan": (lambda r: -r, lambda g: g, lambda g: -g),
}


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_values_by_hand(name: str) -> None:
    game = adversarial(name)
    real, generated = torch.tensor(REAL), torch.tensor(GENERATED)
    found = float(game.discriminator(real, generated)), float(game.generator(generated))
    assert found == pytest.approx(BY_HAND[name], rel=1e-6)


def value_and_gradients(loss: Tensor, *scores: Tensor) -> Tensor:
    return torch.cat([loss.detach()[None], *torch.autograd.grad(loss, scores)])


@pytest.mark.parametrize("name", ADVERSARIAL)
@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**31 - 1), count=st.integers(1, 5), span=st.floats(0.1, 20))
def test_values_and_gradients_are_the_naive_formulas(
    name: str, seed: int, count: int, span: float
) -> None:
    noise = torch.Generator().manual_seed(seed)
    real, generated = (
        (span * torch.randn(count, dtype=torch.float64, generator=noise)).requires_grad_()
        for _ in range(2)
    )
    game, (of_real, of_generated, fooled) = adversarial(name), NAIVE[name]
    naive = of_real(real).mean() + of_generated(generated).mean()
    torch.testing.assert_close(  # softplus is linear from 20 on: 2e-9
        value_and_gradients(game.discriminator(real, generated), real, generated),
        value_and_gradients(naive, real, generated),
        rtol=1e-8,
        atol=1e-8,
    )
    torch.testing.assert_close(
        value_and_gradients(game.generator(generated), generated),
        value_and_gradients(fooled(generated).mean(), generated),
        rtol=1e-8,
        atol=1e-8,
    )


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_sure_scores_are_finite(name: str) -> None:
    game = adversarial(name)
    for score in (-1e4, 1e4):
        real, generated = (torch.full((3,), score, requires_grad=True) for _ in range(2))
        for loss in (game.discriminator(real, generated), game.generator(generated)):
            assert torch.isfinite(loss)
            gradients = torch.autograd.grad(loss, (real, generated), allow_unused=True)
            assert all(torch.isfinite(g).all() for g in gradients if g is not None)


def test_known_optima() -> None:
    def at(name: str, real: float, generated: float) -> float:
        scores = torch.tensor([float(real)]), torch.tensor([float(generated)])
        return float(adversarial(name).discriminator(*scores))

    assert at("minimax", 0, 0) == pytest.approx(2 * math.log(2))  # nobody can tell
    assert at("non-saturating", 0, 0) == pytest.approx(2 * math.log(2))
    assert at("least-squares", 0.5, 0.5) == 0.25
    assert at("least-squares", 1, 0) == at("hinge", 1, -1) == at("hinge", 9, -9) == 0  # all told
    assert at("hinge", 0, 0) == 2
    assert at("wgan", 7, 7) == 0
    # where nobody can tell, those scores are the discriminator's best answer
    for name, best in (("minimax", 0.0), ("non-saturating", 0.0), ("least-squares", 0.5)):
        assert min((at(name, s, s), s) for s in (best - 0.1, best, best + 0.1))[1] == best


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_players_pull_apart(name: str) -> None:
    game = adversarial(name)
    real, generated = (torch.zeros(2, requires_grad=True) for _ in range(2))
    judge = torch.autograd.grad(
        game.discriminator(real, generated), (real, generated), allow_unused=True
    )
    (fool,) = torch.autograd.grad(game.generator(generated), generated)
    assert judge[0] is not None and (judge[0] < 0).all()  # real scores rise
    assert judge[1] is not None and (judge[1] >= 0).all()  # generated ones fall,
    assert (fool < 0).all()  # and the generator raises them


def test_saturation_is_what_tells_the_two_generators_apart() -> None:
    lost = torch.tensor([-12.0], requires_grad=True)  # the discriminator is sure
    for name, force in (("minimax", 6e-6), ("non-saturating", 1.0)):
        (gradient,) = torch.autograd.grad(adversarial(name).generator(lost), lost)
        assert -float(gradient) == pytest.approx(force, rel=0.1)


def test_unknown_game_suggests_the_nearest() -> None:
    with pytest.raises(PgnError, match="adversarial: got 'hinges'.*Did you mean 'hinge'"):
        adversarial("hinges")


# --- gradient penalty


@pytest.mark.parametrize("norm, wanted", [(1.0, 0.0), (3.0, 40.0), (0.5, 2.5), (0.0, 10.0)])
def test_penalty_of_a_linear_critic(norm: float, wanted: float) -> None:
    torch.manual_seed(0)
    direction = torch.randn(3, 4, 5)
    weight = (norm * direction / direction.norm()).requires_grad_()
    real, generated = torch.rand(2, 6, 3, 4, 5)
    penalty = gradient_penalty(lambda x: (x * weight).sum((1, 2, 3)), real, generated)
    assert float(penalty.detach()) == pytest.approx(wanted, abs=1e-5)
    (found,) = torch.autograd.grad(penalty, weight)  # 20 (|w| - 1) w / |w|
    if norm > 0:
        torch.testing.assert_close(found, 20 * (norm - 1) * direction / direction.norm())
    else:
        assert torch.isfinite(found).all()


def test_penalty_is_of_each_image_and_not_of_the_batch() -> None:
    images = torch.randn(4, 3, 5, 5, dtype=torch.float64)

    def bowl(x: Tensor) -> Tensor:  # its gradient is x, and x lies between two equal images
        return 0.5 * (x * x).sum((1, 2, 3))

    wanted = sum(10 * (float(image.norm()) - 1) ** 2 for image in images) / 4
    found = gradient_penalty(bowl, images, images)
    assert found.item() == pytest.approx(wanted, rel=1e-12)


def test_penalty_is_taken_between_the_images_with_one_share_each() -> None:
    torch.manual_seed(0)
    real, generated = torch.rand(2, 64, 3, 4, 4, dtype=torch.float64).unbind()
    real.requires_grad_()
    generated.requires_grad_()
    seen: list[Tensor] = []

    def critic(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return (x**3).sum((1, 2, 3))

    torch.autograd.backward(gradient_penalty(critic, real, generated))
    shares = ((seen[0] - generated) / (real - generated)).detach().flatten(1)
    assert (shares - shares[:, :1]).abs().max() < 1e-9
    assert 0 <= shares.min() < 0.1 and 0.9 < shares.max() <= 1  # 64 draws of a uniform share
    assert real.grad is None and generated.grad is None


def test_penalty_trains_a_discriminator() -> None:
    torch.manual_seed(0)
    net = Discriminator(1, (4, 5))
    condition, (real, generated) = torch.rand(2, 3, 32, 32), torch.rand(2, 2, 3, 32, 32)
    torch.autograd.backward(
        gradient_penalty(lambda x: net(x, condition, net.people)[0], real, generated)
    )
    for name, parameter in net.named_parameters():
        if "bias" not in name:  # a bias only moves where features turn positive
            gradient = parameter.grad
            assert gradient is not None and torch.isfinite(gradient).all() and gradient.any(), name


# --- matching, and the surrogate of a proxy


def test_feature_matching_by_hand_weighs_layers_alike() -> None:
    generated = [torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[3.0]]], [[[5.0]]]])]
    real = [torch.tensor([[[[0.0, 4.0]]]]), torch.tensor([[[[3.5]]], [[[2.0]]]])]
    for tensor in (*generated, *real):
        tensor.requires_grad_()
    loss = feature_matching(generated, real)
    assert loss.item() == (1 + 2) / 2 + (0.5 + 3) / 2
    torch.autograd.backward(loss)
    assert generated[0].grad is not None and generated[0].grad.flatten().tolist() == [0.5, -0.5]
    assert generated[1].grad is not None and generated[1].grad.flatten().tolist() == [-0.5, 0.5]
    assert all(tensor.grad is None for tensor in real)
    with pytest.raises(ValueError, match="shorter|longer"):
        feature_matching(generated, real[:1])


def test_embedding_match_pulls_both_sides() -> None:
    identity = torch.tensor([[1.0, 2.0], [0.0, 4.0]], requires_grad=True)
    person = torch.tensor([[0.0, 2.5], [1.0, 1.0]], requires_grad=True)
    loss = embedding_match(identity, person)
    assert loss.item() == (1 + 0.5 + 1 + 3) / 4
    torch.autograd.backward(loss)
    assert identity.grad is not None and person.grad is not None
    assert identity.grad.tolist() == [[0.25, -0.25], [-0.25, 0.25]]
    assert torch.equal(person.grad, -identity.grad)


def test_a_surrogate_has_exactly_the_given_gradient() -> None:
    generated, gradient = torch.randn(2, 3, 3, 4, 5)
    generated.requires_grad_()
    gradient.requires_grad_()
    torch.autograd.backward(proxy_surrogate(generated, gradient))
    assert generated.grad is not None and torch.equal(generated.grad, gradient)
    assert gradient.grad is None


def test_a_surrogate_trains_a_network_as_backward_does_beside_another_loss() -> None:
    torch.manual_seed(0)
    net = nn.Conv2d(3, 3, 3, padding=1)
    image, target, gradient = torch.randn(3, 2, 3, 6, 7)
    loss = proxy_surrogate(net(image), gradient) + (net(image) - target).square().mean()
    torch.autograd.backward(loss)
    found = [p.grad for p in net.parameters()]
    net.zero_grad()
    drawn = net(image)
    drawn.backward(gradient + 2 * (drawn.detach() - target) / target.numel())
    for a, parameter in zip(found, net.parameters(), strict=True):
        assert a is not None and parameter.grad is not None
        assert_close(a, parameter.grad, 1e-5)
