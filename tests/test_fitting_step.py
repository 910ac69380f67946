"""The fitting step: the way back, the sums, Adam, and their graphs in three runtimes.

The reference is a plain fine-tuning in float64: autograd, PGN.gradient, torch.optim.Adam.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import assert_close
from numpy.typing import NDArray
from torch import Tensor, nn

import pgn
from pgn.avatar import Generator, GeneratorConfig, PersonalGenerator, personalise, trainable
from pgn.avatar.generator import TRAINABLE
from pgn_export.fitting import Fitting, convolutions, tensor_name
from pgn_export.fitting.convolutions import Lowering
from pgn_export.fitting.graphs import LOWERINGS, Gradient, Update
from pgn_export.fitting.names import MEAN, NEW, SQUARE, SUM, VALUE
from pgn_export.fitting.rules import RULES
from pgn_export.fitting.tape import Outside, Tape
from pgn_export.graph import TargetFeatures, Tensors
from pgn_runtime.adam import adam_numbers

aten = torch.ops.aten
Arrays = Mapping[str, NDArray[Any]]
EVERY_LOWERING = pytest.mark.parametrize("target", LOWERINGS)


def person(seed: int = 0) -> PersonalGenerator:
    """A tiny one, with every kind of block of the real one, float64."""
    torch.manual_seed(seed)
    generator = Generator(GeneratorConfig(32, (3, 4, 6), 2))
    return personalise(generator, 0.3 * torch.randn(generator.style_size)).double()


def images(count: int, size: tuple[int, int] = (32, 32), seed: int = 1) -> tuple[Tensor, Tensor]:
    """Conditions and photos, (count, 3, *size) float64."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.rand(2, count, 3, *size, dtype=torch.float64, generator=generator)
    return found[0], found[1]


class Zoo(nn.Module):
    """Every supported layer once, on odd sizes: (N, 3, H, W) -> (N, 3, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 5, stride=2, padding=2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.batch = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 16, (1, 3), padding=(0, 1), groups=2, bias=False)
        self.instance = nn.InstanceNorm2d(16, affine=True)
        self.measured = nn.InstanceNorm2d(16, track_running_stats=True)
        self.groups = nn.GroupNorm(4, 16)
        self.style = nn.Linear(16, 32)
        self.inplace = nn.ReLU(inplace=True)
        self.leaky = nn.LeakyReLU(0.2)
        self.shuffle = nn.PixelShuffle(2)
        self.even = nn.Conv2d(8, 4, 4, padding=1)
        self.image = nn.Conv2d(4, 3, 1)
        for norm in (self.batch, self.measured):
            assert norm.running_mean is not None and norm.running_var is not None
            norm.running_mean.uniform_(-1, 1)
            norm.running_var.uniform_(0.5, 2)

    def forward(self, condition: Tensor) -> Tensor:
        height, width = condition.shape[2:]
        x = self.inplace(self.batch(self.depthwise(self.stem(condition))))
        x = self.leaky(self.instance(self.grouped(x)))
        x = self.groups(x) - self.measured(x) / 2
        scale, bias = self.style(x.mean((2, 3)))[..., None, None].chunk(2, 1)
        x = torch.tanh(x * (1 + scale) + bias)  # (N, 16, (H + 1) / 2, (W + 1) / 2)
        x = self.shuffle(torch.cat([x, 1 - x**2], 1)[:, :16].contiguous())  # (N, 4, H + 1, W + 1)
        x = torch.cat([x, F.avg_pool2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), 2)], 1)
        x = F.interpolate(x, (height + 4, width - 2), mode="bilinear", align_corners=False)
        x = self.even(F.pad(x, (2, 1, 0, 0), value=0.5))  # (N, 4, H + 3, W)
        x = x * torch.rsqrt((x * x).mean(1, keepdim=True) + 1e-3)
        return torch.sigmoid(self.image(x[:, :, 1:-2].flatten(2).reshape(-1, 4, height, width)))


def fitting_of(generator: nn.Module, trainable: Sequence[str], size: int = 32) -> Fitting:
    net = pgn.PGN(pgn.PGNConfig("lite", options={"widths": ((4,), (6,), (8,))}))
    return Fitting(generator, net, trainable, (size, size), microbatch=2)


def autograd(generator: nn.Module, names: Sequence[str], condition: Tensor, g: Tensor) -> Tensors:
    parameters = {name: dict(generator.named_parameters())[name] for name in names}
    image = generator.eval()(condition)
    found = torch.autograd.grad(image, list(parameters.values()), g)
    return dict(zip(names, found, strict=True))


def run(tape: Tape, condition: Tensor, generator: nn.Module) -> dict[Any, Any]:
    """All values of the tape, with the generator's parameters from outside."""
    inputs = {"condition": condition, **values_of(generator)}
    return tape.run({**inputs, **tape.run_prefix(inputs)})


def values_of(generator: nn.Module) -> Tensors:
    return {VALUE + tensor_name(n): value.detach() for n, value in generator.named_parameters()}


def check_way_back(
    generator: nn.Module, names: Sequence[str], condition: Tensor, lowering: Lowering
) -> Tape:
    """Image and gradients of every named parameter are autograd's."""
    generator.requires_grad_(True)
    tape = Tape(generator, condition, Outside(names), lowering)
    values = run(tape, condition, generator)
    image = generator.eval()(condition).detach()
    assert_close(values[tape.image], image, 1e-12)
    g = torch.randn(image.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    wanted = autograd(generator, names, condition, g)
    found = tape.pull_back(values, g)
    assert found.keys() == wanted.keys()
    for name in names:
        assert_close(found[name], wanted[name], 1e-10)
    return tape


# --- the way back


@EVERY_LOWERING
@pytest.mark.parametrize("preset", TRAINABLE)
def test_every_preset_goes_back_as_autograd_does(preset: str, target: str) -> None:
    generator = person()
    condition, _ = images(3, (16, 24))
    tape = check_way_back(generator, trainable(generator, preset), condition, LOWERINGS[target])
    assert (tape.prefix == []) == (preset == "all")


@EVERY_LOWERING
@pytest.mark.parametrize("count", [1, 3])
def test_every_layer_goes_back_as_autograd_does(count: int, target: str) -> None:
    torch.manual_seed(0)
    zoo = Zoo().double()
    condition, _ = images(count, (9, 11))
    check_way_back(zoo, [name for name, _ in zoo.named_parameters()], condition, LOWERINGS[target])


def test_given_parameters_come_from_outside_and_are_not_trained() -> None:
    """Of a person, of whom only the last block is trained: its styles before that belong to it."""
    generator, other = person(0), person(1)
    condition, _ = images(2, (16, 16))
    names = ["last.block.image.weight"]
    given = [name for name in trainable(generator, "adain") if name not in names]
    tape = Tape(generator, condition, Outside(names, given), LOWERINGS["onnx"])
    assert "value_of_last__style" not in tape.suffix_inputs  # the prefix has used it up
    assert "value_of_last__style" in tape.prefix_inputs
    generator.load_state_dict(generator.state_dict() | _styles(other, given))
    values = run(tape, condition, generator)
    assert_close(values[tape.image], generator(condition).detach(), 1e-12)
    g = torch.ones_like(condition)
    (found,) = tape.pull_back(values, g).values()
    assert_close(found, autograd(generator, names, condition, g)[names[0]], 1e-10)


def test_a_given_parameter_beside_trained_ones_is_an_input() -> None:
    generator = person()
    condition, _ = images(1, (16, 16))
    tape = Tape(
        generator,
        condition,
        Outside(["last.block.first.weight"], ["last.style"]),
        LOWERINGS["onnx"],
    )
    values = run(tape, condition, generator)
    g = torch.ones_like(condition)
    (found,) = tape.pull_back(values, g).values()
    wanted = autograd(generator, ["last.block.first.weight"], condition, g)
    assert_close(found, wanted["last.block.first.weight"], 1e-10)


def _styles(generator: nn.Module, names: Sequence[str]) -> Tensors:
    return {name: generator.state_dict()[name] for name in names}


def test_parameters_come_from_outside() -> None:
    """The traced copy's own are stale: they must not be used."""
    generator, other = person(0), person(1)
    condition, _ = images(1, (16, 16))
    names = trainable(generator, "all")
    tape = Tape(generator, condition, Outside(names), LOWERINGS["onnx"])
    values = run(tape, condition, other)
    assert_close(values[tape.image], other(condition).detach(), 1e-12)
    g = torch.ones_like(condition)
    wanted = autograd(other, names, condition, g)
    for name, found in tape.pull_back(values, g).items():
        assert_close(found, wanted[name], 1e-10)


def _without_a_tap(g: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    found = CORRECT_WEIGHT_GRADIENT(g, x, weight, *rest).clone()
    found[..., 0, 0] = 0
    return found


CORRECT_INPUT_GRADIENT = convolutions.input_gradient
CORRECT_WEIGHT_GRADIENT = convolutions.weight_gradient
PLANTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "wrong sign": lambda patch: patch.setitem(
        RULES, aten.sub.Tensor, (RULES[aten.add.Tensor][0], RULES[aten.add.Tensor][1])
    ),
    "missing tap": lambda patch: patch.setattr(convolutions, "weight_gradient", _without_a_tap),
    "stale weight": lambda patch: patch.setattr(
        convolutions,
        "input_gradient",
        lambda g, x, weight, *rest: CORRECT_INPUT_GRADIENT(g, x, weight * 1.001, *rest),
    ),
}


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_fault_is_seen(plant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    PLANTS[plant](monkeypatch)
    generator = person()
    condition, _ = images(1, (16, 16))
    with pytest.raises(AssertionError, match="worst element"):
        check_way_back(generator, trainable(generator, "all"), condition, LOWERINGS["onnx"])


# --- the step, in PyTorch


def reference_gradients(
    generator: nn.Module, names: Sequence[str], net: pgn.PGN, data: tuple[Tensor, Tensor]
) -> Tensors:
    """Of the mean over photos of the closed form, by autograd."""
    condition, photo = data
    image = generator(condition)
    g = net.gradient(image.detach(), photo, mse_weight=20.0) / len(photo)
    return autograd(generator, names, condition, g)


@pytest.mark.parametrize("backbone", ["lite", "unet"])
def test_sums_are_the_scaled_gradients(backbone: str) -> None:
    """With and without a branch of the target's own; two micro-batches."""
    generator, data = person(), images(4)
    torch.manual_seed(3)
    net = pgn.PGN(pgn.PGNConfig(backbone)).double().eval()
    names = trainable(generator, "decoder")
    tape = Tape(generator, data[0][:2], Outside(names), LOWERINGS["onnx"])
    fitting = Fitting(generator, net, names, (32, 32), microbatch=2)
    step = Gradient(tape, fitting).double()
    known = dict(generator.named_parameters())
    inputs = {name: values_of(generator)[name] for name in tape.inputs if name != "condition"}
    sums = {SUM + tensor_name(name): torch.zeros_like(known[name]) for name in names}
    for condition, photo in ((data[0][k : k + 2], data[1][k : k + 2]) for k in (0, 2)):
        boundary = tape.run_prefix({"condition": condition})
        features = TargetFeatures(net).double()(photo) if backbone == "lite" else {}
        with torch.no_grad():
            out = step(**inputs, **sums, **boundary, photo=photo, **features)
        sums = {name: out[NEW + name] for name in sums}
        assert_close(out["generated"], generator(condition).detach(), 1e-12)
        assert_close(out["mse"], ((out["generated"] - photo) ** 2).mean((1, 2, 3)), 1e-12)
    wanted = reference_gradients(generator, names, net, data)
    for name in names:
        scale = 4 * 3 * 32 * 32 / 2
        assert_close(sums[SUM + tensor_name(name)] / scale, wanted[name], 1e-9)


def test_twenty_updates_are_torchs_adam() -> None:
    """On gradients down to 1e-9, where epsilon matters, scaled as the sums are."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(2, 3, dtype=torch.float64, generator=generator)
    parameter = nn.Parameter(start.clone())
    optimiser = torch.optim.Adam([parameter], lr=1e-3)
    state = {VALUE + "x": start, MEAN + "x": torch.zeros(2, 3), SQUARE + "x": torch.zeros(2, 3)}
    scale = 8 * 3 * 10 * 20 / 2
    for step in range(1, 21):
        g = torch.randn(2, 3, dtype=torch.float64, generator=generator)
        parameter.grad = g * torch.tensor([[1e-9, 1e-8, 1e-6], [1e-4, 1.0, 0.0]])
        optimiser.step()
        numbers = {
            name: torch.tensor([value], dtype=torch.float64)
            for name, value in adam_numbers(1e-3, step, photos=8, size=(10, 20)).items()
        }
        out = Update(["x"])(**state, **{SUM + "x": parameter.grad * scale}, **numbers)
        state = {name: out[NEW + name] for name in state}
    assert_close(state[VALUE + "x"] - start, (parameter - start).detach(), 1e-9)
