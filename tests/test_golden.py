"""Outputs of the official implementation: tiny ones kept here, whole ones where shared/ is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FIXTURES, assert_close
from torch import Tensor, nn

import pgn
from pgn import heads
from pgn.backbones import ResNet, UNet
from pgn.distill.autoencoders import DEPTHS, Autoencoder
from pgn.files import read_image
from pgn.images import denormalise, pixel_per_u
from pgn.model import closed_form

LIMIT = 1e-5
ALPHA = 40.0  # grad_scale 0.025


def restore(net: nn.Module, arrays: dict[str, np.ndarray]) -> nn.Module:
    prefix = "state/"
    state = {k[len(prefix) :]: torch.from_numpy(v) for k, v in arrays.items() if prefix in k}
    net.load_state_dict(state)
    return net.eval().requires_grad_(False)


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def gradient_in_u(u: Tensor, proxy: Tensor, alpha: float) -> Tensor:
    """Our closed form, which takes and gives pixels, on normalised images."""
    pixels, proxy_pixels = denormalise(u.double()), denormalise(proxy.double())
    return closed_form(pixels, pixels, proxy_pixels, alpha, 0.0) * pixel_per_u(pixels)


@pytest.mark.parametrize("name", heads.NAMES)
def test_tiny_resnet_gives_the_official_proxy_and_gradient(name: str) -> None:
    arrays = arrays_of(FIXTURES / "tiny_resnet.npz")
    net = restore(ResNet(2, down=(8, 16), up=(8,)), arrays)
    u, u_target = (torch.from_numpy(arrays[key]) for key in ("generated", "target"))
    proxy = heads.head(name)(net(u, u_target), u, 1.1, 1 / 512)
    kept = arrays["positions"]
    assert_close(proxy.flatten()[kept], arrays[f"{name}/proxy"], LIMIT)
    # the official direct gradient is u - (u - B/512) in float32, which cancels to 1e-3 itself
    residual_limit = LIMIT if name != "direct" else 1e-3
    gradient = gradient_in_u(u, proxy, ALPHA).flatten()[kept]
    assert_close(gradient, arrays[f"{name}/grad"], residual_limit)


def test_tiny_unet_gives_the_official_proxy_and_gradient() -> None:
    arrays = arrays_of(FIXTURES / "tiny_unet.npz")
    net = restore(UNet(down=(8, 8, 16, 16, 32), up=(8, 16, 16, 16, 32)), arrays)
    u, u_target = (torch.from_numpy(arrays[key]) for key in ("generated", "target"))
    out = net(u, u_target)
    proxy = heads.head("constrained")(out, u, 1.1, 1 / 512)
    kept = arrays["positions"]
    assert_close(out.flatten()[kept], arrays["backbone_out"], LIMIT)
    assert_close(proxy.flatten()[kept], arrays["proxy"], LIMIT)
    assert_close(gradient_in_u(u, proxy, ALPHA).flatten()[kept], arrays["grad"], LIMIT)


@pytest.mark.parametrize("name", ["resnet4", "unet"])
def test_official_checkpoints_give_their_golden_outputs(name: str, golden: Path) -> None:
    net = pgn.load(golden / f"{name}_constrained.pth")
    arrays = arrays_of(golden / f"{name}_constrained.npz")
    u, u_target = (torch.from_numpy(arrays[key]) for key in ("generated", "target"))
    with torch.no_grad():
        out, proxy = net.backbone(u, u_target), net(u, u_target)
    assert net.config.backbone == name and net.config.head == "constrained"
    assert_close(out, arrays["backbone_out"], LIMIT)
    assert_close(proxy, arrays["proxy"], LIMIT)
    assert_close(gradient_in_u(u, proxy, net.config.alpha), arrays["grad"], LIMIT)


@pytest.mark.parametrize("depth", DEPTHS)
def test_autoencoders_give_their_golden_outputs(depth: int, golden: Path) -> None:
    arrays = arrays_of(golden / f"autoencoder{depth}.npz")
    net = restore(Autoencoder(depth), arrays)
    assert_close(net(torch.from_numpy(arrays["input"])), arrays["output"], LIMIT)


@pytest.mark.parametrize(
    ("name", "file", "wanted"),
    [
        ("lpips-alex", "lpips_alex.safetensors", (0.722, 0.138)),
        ("lpips-vgg", "lpips_vgg16_fp16.safetensors", (0.569, 0.422)),
    ],
)
def test_lpips_gives_its_published_distances(
    name: str, file: str, wanted: tuple[float, float], golden: Path
) -> None:
    loss = pgn.PerceptualLoss(name, golden.parent / "weights" / file)
    reference = read_image(golden / "lpips" / "ex_ref.png")[None]
    found = [
        float(loss(reference, read_image(golden / "lpips" / f"ex_p{i}.png")[None])) for i in (0, 1)
    ]
    assert found == pytest.approx(wanted, abs=5e-4)
