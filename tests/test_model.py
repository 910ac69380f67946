"""The closed form is autograd's gradient, and what is no image is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import assert_close
from torch import Tensor

from pgn import PGN, PGNConfig, PgnError, heads
from pgn.images import normalise

CASES: dict[str, dict[str, Any]] = {
    "resnet4": {"down": [4, 8], "up": [4]},
    "lite": {"widths": [[4], [4]]},
}


def network(head: str, backbone: str = "resnet4") -> PGN:
    torch.manual_seed(0)
    options = CASES[backbone]
    net = PGN(PGNConfig(backbone, head, gamma=0.5, options=options)).eval()
    for name, buffer in net.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
    return net


@pytest.mark.parametrize("backbone", CASES)
@pytest.mark.parametrize("mse_weight", [0.0, 20.0])
@pytest.mark.parametrize("head", heads.NAMES)
def test_gradient_is_autograd_of_mse_to_the_detached_proxy(
    head: str, mse_weight: float, backbone: str, pair: tuple[Tensor, Tensor]
) -> None:
    net = network(head, backbone).double()
    generated, target = (image.double() for image in pair)
    variable = generated.clone().requires_grad_()
    u, u_target = normalise(variable), normalise(target)
    proxy = net(u, u_target).detach()
    loss = net.config.alpha * (u - proxy).square().mean(dim=(1, 2, 3))
    loss = loss + mse_weight * (u - u_target).square().mean(dim=(1, 2, 3))
    (wanted,) = torch.autograd.grad(loss.sum(), variable)
    assert_close(net.gradient(generated, target, mse_weight), wanted, 1e-12)


def test_gradient_of_an_image_does_not_depend_on_its_batch(pair: tuple[Tensor, Tensor]) -> None:
    net = network("constrained")
    generated, target = pair
    whole = net.gradient(generated, target)
    alone = net.gradient(generated[1:], target[1:])
    assert_close(whole[1:], alone, 1e-5)


def test_a_little_outside_the_range_is_accepted(pair: tuple[Tensor, Tensor]) -> None:
    generated, target = pair
    assert torch.isfinite(network("hybrid").gradient(generated * 1.4 - 0.2, target)).all()


def broken(image: Tensor, how: str) -> Any:
    changed: dict[str, Any] = {
        "NaN": image * torch.where(torch.arange(image.shape[-1]) == 3, torch.nan, 1.0),
        "0..255": image * 255,
        "uint8": (image * 255).byte(),
        "NHWC": image.permute(0, 2, 3, 1),
        "one image": image[0],
        "small": image[..., :31, :],
        "other size": image[..., :-8],
        "none": image[:0],
        "numpy": image.numpy(),
        "float64": image.double(),
    }
    return changed[how]


@pytest.mark.parametrize("which", ["generated", "target"])
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("NaN", "got NaN or infinite values.*diverged"),
        ("0..255", "divide by 255"),
        ("uint8", r"got torch.uint8.*image / 255.0"),
        ("NHWC", r"expected \(N, 3, H, W\).*permute"),
        ("one image", r"image\[None\]"),
        ("small", "at least 32"),
        ("other size", "expected that of generated"),
        ("none", "an image or more"),
        ("numpy", r"got ndarray.*torch.from_numpy"),
        ("float64", r"torch.float64"),
    ],
)
def test_what_is_no_pair_of_images_is_refused_with_a_remedy(
    how: str, message: str, which: str, pair: tuple[Tensor, Tensor]
) -> None:
    images: dict[str, Any] = dict(zip(("generated", "target"), pair, strict=True))
    images[which] = broken(images[which], how)
    with pytest.raises(PgnError, match=message):
        network("proxy").proxy(**images)


def test_images_of_another_dtype_than_the_network_are_refused(pair: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(PgnError, match=r"got torch.float64.*network is torch.float32"):
        network("proxy").proxy(*(image.double() for image in pair))


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_wrong_mse_weight_is_refused(weight: float, pair: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(PgnError, match="mse_weight"):
        network("proxy").gradient(*pair, mse_weight=weight)


def test_unknown_head_suggests_the_nearest() -> None:
    with pytest.raises(PgnError, match="Did you mean 'constrained'"):
        PGNConfig("lite", "constraint")


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_scales_must_be_positive(value: float) -> None:
    with pytest.raises(PgnError, match="alpha"):
        PGNConfig(alpha=value)
