"""Exact gradients written out as graphs, and what is counted of a gradient, against autograd."""

from __future__ import annotations

import pytest
import torch
from conftest import assert_close
from torch import Tensor, nn

from pgn import PgnError
from pgn.teachers import PerceptualLoss
from pgn_bench.gradient_graph import gradient_graph
from pgn_bench.memory_formula import count
from pgn_bench.providers import RANDOM, load_loss
from pgn_bench.providers_catalogue import weights_of


def written_out(loss: PerceptualLoss, generated: Tensor, target: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = gradient_graph(loss)(generated, loss.features(target))
    return found


@pytest.mark.parametrize("name", ["vgg11", "vgg16", "lpips-alex", "lpips-vgg"])
@pytest.mark.parametrize("size", [(48, 48), (37, 45)])
def test_it_is_the_gradient(name: str, size: tuple[int, int]) -> None:
    loss = load_loss(name, RANDOM).double()
    generator = torch.Generator().manual_seed(5)
    generated, target = torch.rand(2, 2, 3, *size, generator=generator, dtype=torch.float64)
    assert_close(written_out(loss, generated, target), loss.gradient(generated, target), 1e-9)


def test_it_is_the_gradient_of_the_oxford_weights(pair: tuple[Tensor, Tensor]) -> None:
    """Which take 0..255 in BGR."""
    loss = PerceptualLoss("vgg19", layers={"relu2_1": 0.5, "relu3_2": 2.0}).double()
    generated, target = (image.double() for image in pair)
    assert_close(written_out(loss, generated, target), loss.gradient(generated, target), 1e-9)


def test_equal_images_have_no_gradient(pair: tuple[Tensor, Tensor]) -> None:
    for name in ("vgg11", "lpips-alex"):
        assert not written_out(load_loss(name, RANDOM), pair[0], pair[0]).any()


def test_a_dark_image_has_a_finite_gradient() -> None:
    """Where all channels of a layer are 0, LPIPS divides by their length."""
    loss = load_loss("lpips-alex", RANDOM)
    for conv in loss.network.get_submodule("convs").children():
        assert isinstance(conv, nn.Conv2d) and conv.bias is not None
        conv.bias.fill_(-100.0)
    found = written_out(loss, torch.rand(1, 3, 48, 48), torch.rand(1, 3, 48, 48))
    assert found.isfinite().all()


def test_another_norm_is_refused() -> None:
    loss = PerceptualLoss("vgg19", norm="squared-l2", layers={"relu1_1": 1.0})
    with pytest.raises(PgnError, match="squared-l2"):
        gradient_graph(loss)


def test_random_weights_keep_activations_alive() -> None:
    features = load_loss("vgg19", RANDOM).features(torch.rand(1, 3, 64, 64))
    for feature in features:
        assert 0.05 < feature.std() < 20 and 0.2 < (feature > 0).double().mean() < 0.8


def test_weights_are_those_given_or_random() -> None:
    assert weights_of("vgg16", {"vgg16": "file"}) == "file"
    assert weights_of("vgg16", {}) == RANDOM and weights_of("vgg19", {}) == "oxford"


def test_macs_are_those_of_the_layers() -> None:
    conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
    image = torch.rand(2, 3, 10, 12, requires_grad=True)
    forward = 2 * 4 * 3 * 9 * 5 * 6
    assert count(lambda: conv(image))[0] == forward
    back = forward  # to the image; as much again to the weights
    assert count(lambda: torch.autograd.grad(conv(image).sum(), image))[0] == forward + back
    assert count(lambda: torch.mm(torch.rand(3, 5), torch.rand(5, 7)))[0] == 3 * 5 * 7


def test_vgg19_costs_what_is_published() -> None:
    """36.2 GMACs at 224x224: two passes of 18.1 (research of the paper's double count)."""
    loss = load_loss("vgg19", RANDOM).to("meta")
    generated, target = torch.rand(2, 1, 3, 224, 224, device="meta")
    features = loss.features(target)
    macs, _ = count(lambda: torch.autograd.grad(
        loss(generated.requires_grad_(), features).sum(), generated
    ))  # fmt: skip
    assert macs == pytest.approx(36.24e9, rel=2e-3)


def test_live_bytes_are_the_peak_not_the_sum() -> None:
    given = torch.rand(1000)

    def chain() -> Tensor:
        x = given * 2  # 4000 bytes
        for _ in range(5):
            x = x + 1  # the old one and the new one
        return x.view(10, 100)  # no bytes of its own

    def kept() -> list[Tensor]:
        return [given + k for k in range(5)]

    assert count(chain)[1] == 8000
    assert count(kept)[1] == 20_000
    assert count(lambda: given.view(10, 100).add_(1))[1] == 0, "what was there is not counted"
