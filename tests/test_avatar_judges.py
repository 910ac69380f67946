"""Embedder and discriminator of a talking head against their formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conftest import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from test_avatar_networks import without_gradient
from torch import Tensor, nn

from pgn.avatar import (
    Discriminator,
    Embedder,
)
from pgn.avatar.embedder import HalvingBlock


@given(height=st.integers(20, 150), width=st.integers(20, 150))
@settings(max_examples=8, deadline=None)
def test_embedder_takes_any_size(height: int, width: int) -> None:
    embedder = Embedder(9, (4, 5))
    images, conditions = torch.rand(2, 3, 3, height, width)
    identity = embedder(images, conditions)
    assert identity.shape == (3, embedder.embedding_size) == (3, 5)
    assert identity.min() >= 0
    assert embedder.style(identity.mean(0)).shape == (9,)


def test_styles_are_linear_in_the_identity() -> None:
    embedder, identity = Embedder(9, (4, 5)), torch.rand(3, 5)
    weight, bias = embedder.projection.weight.double(), embedder.projection.bias.double()
    wanted = torch.einsum("se,ne->ns", weight, identity.double()) + bias
    assert_close(embedder.style(identity).detach(), wanted.detach(), 1e-6)


def test_embedder_looks_at_64_pixels_whatever_the_size() -> None:
    embedder = Embedder(9, (4, 5))
    images, conditions = torch.rand(2, 2, 3, 128, 256)
    small = [x.unfold(2, 2, 2).unfold(3, 4, 4).mean((4, 5)) for x in (images, conditions)]
    assert small[0].shape == (2, 3, 64, 64)
    assert_close(embedder(images, conditions).detach(), embedder(*small).detach(), 1e-5)


def test_embedder_starts_alive_and_tells_people_apart() -> None:
    torch.manual_seed(0)
    embedder, noise = Embedder(2720), torch.randn(4, 3, 8, 8)
    images = torch.sigmoid(3 * F.interpolate(noise, 128, mode="bicubic"))
    identity = embedder(images, torch.zeros_like(images))
    assert (identity.std(0) > 0).float().mean() > 0.7
    styles = embedder.style(identity)
    assert 0.05 < styles.std() < 0.5  # near plain instance norm, and not at it
    assert (styles.std(0) / styles.std()).mean() > 0.03  # 0.02 with torch's biases
    torch.autograd.backward(styles.square().sum())
    assert without_gradient(embedder) == []


def test_halving_is_the_mean_of_the_papers_block() -> None:
    torch.manual_seed(0)
    block = HalvingBlock(3, 4).double()
    for conv in (block.first, block.second, block.shortcut):
        assert conv.bias is not None and not conv.bias.any()
        nn.init.normal_(conv.bias)
    x = torch.randn(2, 3, 7, 6, dtype=torch.float64)
    first, second, shortcut = block.first, block.second, block.shortcut
    inner = F.conv2d(x.clamp(min=0), first.weight, first.bias, padding=1).clamp(min=0)
    whole = F.conv2d(inner, second.weight, second.bias, padding=1)
    whole = whole + F.conv2d(x, shortcut.weight, shortcut.bias)
    wanted = whole.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
    assert_close(block(x).detach(), wanted.detach(), 1e-12)


# --- discriminator


def judged(people: int = 3) -> tuple[Discriminator, Tensor, Tensor]:
    torch.manual_seed(0)
    image, condition = torch.rand(2, 4, 3, 37, 50)
    return Discriminator(people, (4, 5, 6)), image, condition


def test_score_is_realism_and_likeness() -> None:
    net, image, condition = judged()
    person = net.people[torch.tensor([2, 0, 1, 2])]
    net.eval()  # spectral norm rests: the weights stay for the reference
    with torch.no_grad():
        score, features = net(image, condition, person)
    vector = features[-1].clamp(min=0).sum((2, 3))
    for n in range(4):
        w = (person[n] + net.realism.weight[0]).detach()
        wanted = sum(float(vector[n, c] * w[c]) for c in range(6)) + net.realism.bias.item()
        assert float(score[n]) == pytest.approx(wanted, rel=1e-4)
    assert score.shape == (4,)
    assert [tuple(f.shape) for f in features] == [(4, 5, 9, 12), (4, 6, 4, 6)]


def test_the_score_sees_the_image_the_condition_and_the_person() -> None:
    net, image, condition = judged()
    net.eval()
    score, _ = net(image, condition, net.people[:1])
    for changed in (
        (image.flip(3), condition, net.people[:1]),
        (image, condition.flip(3), net.people[:1]),
        (image, condition, net.people[1:2]),
    ):
        assert (net(*changed)[0] - score).abs().min() > 1e-6


def test_no_layer_of_the_discriminator_stretches() -> None:
    net, image, condition = judged()
    for _ in range(60):  # power iterations, one a call
        net(image, condition, net.people[:1])
    layers = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(layers) == 1 + 3 * 2 + 1
    for layer in layers:
        largest = float(torch.linalg.svdvals(layer.weight.detach().flatten(1))[0])
        assert largest == pytest.approx(1.0, abs=1e-3)


def test_gradients_reach_the_discriminator_its_people_and_the_image() -> None:
    net, image, condition = judged()
    image.requires_grad_()
    score, _ = net(image, condition, net.people[[0, 1, 1, 1]])
    torch.autograd.backward(score.sum())
    assert without_gradient(net) == []
    assert image.grad is not None and image.grad.any()
    assert net.people.grad is not None
    assert net.people.grad[:2].any(1).all() and not net.people.grad[2].any()
