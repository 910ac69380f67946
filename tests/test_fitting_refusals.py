"""What cannot be lowered, or fitted, is refused by name."""

from __future__ import annotations

import pytest
import torch
from test_fitting_step import fitting_of, images, run
from torch import Tensor, nn

from pgn import ConversionError, PgnError
from pgn_export.fitting import build
from pgn_export.fitting.graphs import LOWERINGS
from pgn_export.fitting.tape import Outside, Tape


class Gamma(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.lgamma(x)


def with_layer(layer: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(nn.ReLU(), layer), nn.Conv2d(3, 3, 1))


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (Gamma(), ["aten.lgamma", "in 1.1 of"]),
        (nn.Conv2d(3, 3, 3, padding=2, dilation=2), ["aten.conv2d", "dilation", "in 1.1 of"]),
        (nn.ReflectionPad2d((1, -1, 1, -1)), ["aten.pad", "reflect", "in 1.1 of"]),
        (nn.MaxPool2d(3, 1, 1), ["max_pool2d", "in 1.1 of"]),
    ],
)
def test_an_operation_without_a_way_back_is_named(layer: nn.Module, words: list[str]) -> None:
    generator, (condition, _) = with_layer(layer).double(), images(1, (8, 8))
    lowering = LOWERINGS["onnx"]
    with pytest.raises(ConversionError) as caught:
        tape = Tape(generator, condition, Outside(["0.weight"]), lowering)
        tape.pull_back(run(tape, condition, generator), torch.ones_like(condition))
    assert all(word in str(caught.value) for word in words), caught.value
    tape = Tape(generator, condition, Outside(["2.weight"]), lowering)  # what comes after it goes
    assert tape.prefix and not tape.direct


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, condition: Tensor) -> Tensor:
        out: Tensor = self.layer(condition)
        return out


@pytest.mark.parametrize(
    ("generator", "names", "words"),
    [
        (Unused(), ["layer.wieght"], "Did you mean 'layer.weight'"),
        (Unused(), [], "expected some of unused, layer.weight"),
        (Unused(), ["unused"], "'unused' has no influence"),
        (Unused(), ["layer.weight", "layer.weight"], "Name them once"),
        (nn.Conv2d(3, 4, 1), ["weight"], "expected an image of the same shape"),
    ],
)
def test_what_cannot_be_fitted_is_refused(
    generator: nn.Module, names: list[str], words: str
) -> None:
    with pytest.raises(PgnError, match=words):
        build(fitting_of(generator, names), "onnx")


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(PgnError, match="Did you mean 'onnx'"):
        build(fitting_of(Unused(), ["layer.weight"]), "onxx")
