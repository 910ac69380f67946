"""Backbones: the paper's counts, any size, lite against autograd of its distance."""

from __future__ import annotations

import pytest
import thop
import torch
import torch.nn.functional as F
from conftest import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from thop.vision.basic_hooks import count_convNd
from torch import Tensor, nn

from pgn import PgnError
from pgn.backbones import NAMES, Lite, ResNet, UNet, build
from pgn.backbones.lite import SOFTNESS_FLOOR

PUBLISHED = {  # parameters, GMACs at 224x224 (Table 1)
    "resnet4": (1_335_875, 19.79),
    "resnet6": (1_927_235, 27.23),
    "resnet8": (2_518_595, 34.66),
    "unet": (1_765_891, 2.10),
}


def gmacs(net: nn.Module) -> float:
    """Counted by thop as the paper did, biases of convolutions included (thop of 2021)."""
    u = torch.zeros(1, 3, 224, 224)
    operations, _ = thop.profile(net.eval(), (u, u), {nn.Conv2d: count_with_bias}, verbose=False)
    return float(operations) / 1e9


def count_with_bias(conv: nn.Conv2d, inputs: tuple[Tensor], out: Tensor) -> None:
    count_convNd(conv, inputs, out)
    if conv.bias is not None:
        conv.total_ops += out.numel()  # type: ignore[assignment, operator]


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_exactly_those_published(name: str) -> None:
    assert sum(p.numel() for p in build(name).parameters()) == PUBLISHED[name][0]


@pytest.mark.parametrize("name", PUBLISHED)
def test_operations_are_within_one_percent_of_table_1(name: str) -> None:
    assert gmacs(build(name)) == pytest.approx(PUBLISHED[name][1], rel=0.01)


@pytest.mark.parametrize(("name", "wanted"), [("lite", 2.93), ("nano", 1.17)])
def test_ours_cost_what_their_cards_say(name: str, wanted: float) -> None:
    assert gmacs(build(name)) == pytest.approx(wanted, rel=0.02)


TINY = {
    "resnet": ResNet(1, down=(4, 4), up=(4,)).eval(),
    "unet": UNet(down=(4, 4, 4, 4, 4), up=(4, 4, 4, 4, 4)).eval(),
    "lite": Lite(((4,), (4,), (4,), (4,))).eval(),
}


@pytest.mark.parametrize("name", TINY)
@settings(max_examples=12, deadline=None)
@given(height=st.integers(32, 71), width=st.integers(32, 71))
def test_any_size_is_padded_by_replication_and_cropped(name: str, height: int, width: int) -> None:
    net = TINY[name]
    generated, target = torch.rand(2, 1, 3, height, width)
    bottom, right = -height % net.multiple, -width % net.multiple
    edge = (0, right, 0, bottom)
    padded = [F.pad(image, edge, mode="replicate") for image in (generated, target)]
    with torch.no_grad():
        found = net(generated, target)
        wanted = net.predict(*padded)[..., :height, :width]
    assert_close(found, wanted, 0)


@pytest.mark.parametrize("name", NAMES)
def test_output_has_the_shape_of_an_image(name: str) -> None:
    u = torch.rand(1, 3, 33, 45)
    with torch.no_grad():
        assert build(name).eval()(u, u).shape == u.shape


def test_unknown_backbone_suggests_the_nearest() -> None:
    with pytest.raises(PgnError, match=r"got 'resnet5', expected one of .*Did you mean 'resnet"):
        build("resnet5")


def test_unknown_option_is_named() -> None:
    with pytest.raises(PgnError, match="widht"):
        build("lite", widht=3)


def distance(net: Lite, u_generated: Tensor, u_target: Tensor) -> Tensor:
    """The explicit distance whose gradient a tied lite is (module docstring)."""
    total = torch.zeros((), dtype=u_generated.dtype)
    pairs = zip(net.features(u_generated), net.features(u_target), strict=True)
    for k, (a, b) in enumerate(pairs):
        if k >= net.first_compared:
            strength, softness = (p[k - net.first_compared] for p in (net.strength, net.softness))
            root = ((a - b) ** 2 + softness**2 + SOFTNESS_FLOOR).sqrt()
            total = total + (strength * root).sum()
    return total


def test_tied_lite_is_the_gradient_of_an_explicit_distance() -> None:
    torch.manual_seed(1)  # no feature lies within the mask's slope, between 0 and 2^-15
    net = Lite(((4, 5), (6,), (7, 8))).double()
    for parameters in (net.strength, net.softness):
        for parameter in parameters:
            nn.init.uniform_(parameter, 0.1, 1.0)
    u_generated, u_target = torch.randn(2, 1, 3, 24, 36, dtype=torch.float64)
    u_generated.requires_grad_()
    (wanted,) = torch.autograd.grad(distance(net, u_generated, u_target), u_generated)
    assert_close(net(u_generated, u_target).detach(), wanted, 1e-12)
