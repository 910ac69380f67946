"""The rules of the way back, each as functions of torch, against autograd in float64."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pgn_export.fitting import resampling
from pgn_export.fitting.convolutions import Geometry, Lowering
from pgn_export.fitting.graphs import LOWERINGS
from pgn_export.fitting.rules import RULES, Convolution, Rule

LIMIT = 1e-11  # of the largest element
aten = torch.ops.aten
EVERY_LOWERING = pytest.mark.parametrize("lowering", LOWERINGS.values(), ids=LOWERINGS)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def check(operation: Callable[..., Any], rules: Sequence[Rule], *arguments: Any) -> None:
    """Every rule's gradient is autograd's; they are for the arguments in turn."""
    groups = [_tensors(argument) for argument, _ in zip(arguments, rules, strict=False)]
    for tensor in chain(*groups):
        tensor.requires_grad_()
    out = operation(*arguments)
    outs = _tensors(out)
    gradients = [noise(*o.shape, seed=9) for o in outs]
    wanted = iter(torch.autograd.grad(outs, list(chain(*groups)), gradients))
    g = gradients[0] if isinstance(out, Tensor) else gradients
    for tensors, rule in zip(groups, rules, strict=False):
        found = _tensors(rule(g, out, *arguments)) if tensors else []
        for one, want in zip(found, [next(wanted) for _ in tensors], strict=True):
            assert_close(one.detach().expand(want.shape), want, LIMIT)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return list(value) if isinstance(value, (list, tuple)) else []


X = (2, 3, 5, 7)
CASES: dict[Any, list[tuple[Any, ...]]] = {
    aten.add.Tensor: [(noise(*X), noise(*X)), (noise(*X), noise(1, 3, 1, 1)), (noise(*X), 2.0)],
    aten.sub.Tensor: [(noise(*X), noise(2, 3, 1, 1)), (noise(3, 1, 1), noise(*X))],
    aten.rsub.Scalar: [(noise(*X), 2.0)],
    aten.mul.Tensor: [
        (noise(*X), noise(*X, seed=1)),
        (noise(1, 3, 1, 1), noise(*X)),
        (noise(3), 2.0),
    ],
    aten.div.Tensor: [(noise(*X), noise(1, 3, 1, 1).abs() + 1), (noise(*X), 3.0)],
    aten.neg.default: [(noise(*X),)],
    aten.pow.Tensor_Scalar: [(noise(*X), 2)],
    aten.sqrt.default: [(noise(*X).abs() + 0.1,)],
    aten.rsqrt.default: [(noise(*X).abs() + 0.1,)],
    aten.relu.default: [(noise(*X),)],
    aten.leaky_relu.default: [(noise(*X),), (noise(*X), 0.2)],
    aten.sigmoid.default: [(noise(*X),)],
    aten.tanh.default: [(noise(*X),)],
    aten.mean.default: [(noise(*X),)],
    aten.mean.dim: [(noise(*X), [2, 3], True), (noise(*X), [-1, 1]), (noise(*X), [0], True)],
    aten.cat.default: [([noise(2, 3, 4, 5), noise(2, 1, 4, 5), noise(2, 2, 4, 5)], 1)],
    aten.split.Tensor: [(noise(2, 5, 3), 2, 1)],
    aten.split_with_sizes.default: [(noise(2, 5, 3), [1, 4], 1)],
    aten.slice.Tensor: [(noise(*X), 2, 1, -1), (noise(*X), 1, 0, 2), (noise(*X), -1, 3)],
    aten.pad.default: [(noise(*X), [1, 2, 0, 3]), (noise(*X), [0, 1, 2, 0, 1, 1])],
    aten.constant_pad_nd.default: [(noise(*X), [1, 2, 0, 3], 0.5)],
    aten.expand.default: [(noise(1, 3, 1), [2, 3, 4]), (noise(3, 1), [2, 3, 4])],
    aten.view.default: [(noise(*X), [2, 3, -1])],
    aten.reshape.default: [(noise(*X), [6, 35])],
    aten._unsafe_view.default: [(noise(*X), [6, 35])],
    aten.unsqueeze.default: [(noise(2, 3), 2)],
    aten.squeeze.dim: [(noise(2, 1, 3), 1)],
    aten.squeeze.dims: [(noise(2, 1, 3, 1), [1, 3])],
    aten.flatten.using_ints: [(noise(*X), 1)],
    aten.clone.default: [(noise(*X),)],
    aten.alias.default: [(noise(*X),)],
    aten.linear.default: [(noise(2, 4), noise(3, 4), noise(3)), (noise(2, 5, 4), noise(3, 4))],
    aten.upsample_nearest2d.vec: [(noise(*X), None, [2.0, 2.0]), (noise(*X), [15, 14], None)],
    aten.upsample_bilinear2d.vec: [
        (noise(*X), None, False, [2.0, 2.0]),
        (noise(*X), [8, 20], False, None),
        (noise(*X), [9, 13], True, None),
        (noise(*X), [3, 1], True, None),
    ],
    aten.avg_pool2d.default: [
        (noise(*X), [2, 2]),
        (noise(*X), [3, 3], [2, 2], [1, 1]),
        (noise(*X), [3, 2], [1, 2]),
    ],
    aten.pixel_shuffle.default: [(noise(2, 12, 3, 5), 2), (noise(1, 18, 2, 3), 3)],
}


@pytest.mark.parametrize("operation", CASES, ids=str)
def test_a_rule_is_autograds(operation: Any) -> None:
    for arguments in CASES[operation]:
        check(operation, RULES[operation], *arguments)


def test_every_rule_has_a_case() -> None:
    assert RULES.keys() - CASES.keys() == {operator.getitem}


def test_getitem_gives_its_gradient_to_one_part() -> None:
    (rule,) = RULES[operator.getitem]
    g = noise(2)
    assert rule(g, g, (noise(3), noise(2), noise(1)), 1) == [None, g, None]


def test_alpha_scales_the_second_term() -> None:
    x, y, g = noise(2, 3), noise(3), noise(2, 3, seed=1)
    for operation, sign in ((aten.add.Tensor, 1), (aten.sub.Tensor, -1)):
        _, second = RULES[operation]
        assert_close(second(g, x, x, y, alpha=0.5), sign * 0.5 * g.sum(0), LIMIT)
    (of_x,) = RULES[aten.rsub.Scalar]
    assert_close(of_x(g, x, x, 1.0, alpha=0.5), -0.5 * g, LIMIT)


def test_where_relu_is_zero_nothing_passes() -> None:
    """Also at a unit that is exactly zero, and at one that is barely not."""
    x = torch.tensor([-1.0, 0.0, 1e-30, 2.0])
    (rule,) = RULES[aten.relu.default]
    assert rule(torch.ones(4), torch.relu(x), x).tolist() == [0, 0, 1, 1]
    (leaky,) = RULES[aten.leaky_relu.default]
    assert leaky(torch.ones(4), F.leaky_relu(x, 0.25), x, 0.25).tolist() == [0.25, 0.25, 1, 1]


# --- convolutions


@st.composite
def layers(draw: st.DrawFn) -> tuple[Tensor, Tensor, Geometry]:
    """x, weight and geometry, odd sizes and unequal sides included."""
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    inputs, outputs = (groups * draw(st.integers(1, 3)) for _ in range(2))
    kernel = [draw(st.sampled_from([1, 3, 4, 5])) for _ in range(2)]
    stride = [draw(st.sampled_from([1, 1, 2, 3])) for _ in range(2)]
    padding = [draw(st.integers(0, taps - 1)) for taps in kernel]
    sides = [
        draw(st.integers(max(1, taps - 2 * p), taps + 6))
        for taps, p in zip(kernel, padding, strict=True)
    ]
    seed = draw(st.integers(0, 99))
    x = noise(draw(st.sampled_from([1, 3])), inputs, *sides, seed=seed)
    weight = noise(outputs, inputs // groups, *kernel, seed=seed + 1)
    return x, weight, Geometry((stride[0], stride[1]), (padding[0], padding[1]), groups)


def depthwise(channels: int, kernel: int, stride: int) -> tuple[Tensor, Tensor, Geometry]:
    padding = (kernel // 2, kernel // 2)
    weight = noise(channels, 1, kernel, kernel, seed=1)
    return noise(2, channels, 6, 7), weight, Geometry((stride, stride), padding, channels)


def check_convolution(layer: tuple[Tensor, Tensor, Geometry], lowering: Lowering) -> None:
    x, weight, geometry = layer
    wanted = F.conv2d(x, weight, None, geometry.stride, geometry.padding, 1, geometry.groups)
    assert_close(lowering.convolve(x, weight, geometry), wanted, LIMIT)
    call = Convolution(lowering)
    bias = noise(len(weight), seed=5)
    how = (geometry.stride, geometry.padding, (1, 1), geometry.groups)
    assert_close(call(x, weight, bias, *how), wanted + bias[:, None, None], LIMIT)
    x, weight, bias = (tensor.requires_grad_() for tensor in (x, weight, bias))
    out = F.conv2d(x, weight, bias, *how)
    g = noise(*out.shape, seed=7)
    gradients = torch.autograd.grad(out, (x, weight, bias), g)
    with torch.no_grad():
        for rule, gradient in zip(call.rules, gradients, strict=True):
            found = rule(g, out, x, weight, bias, *how)
            # of elements that no tap reaches, the true gradient is 0 everywhere
            limit = LIMIT if gradient.any() else 0.0
            assert found.shape == gradient.shape
            assert float((found - gradient).abs().max()) <= limit * float(gradient.abs().max())


@EVERY_LOWERING
@given(layer=layers())
@settings(max_examples=80, deadline=None)
def test_a_convolution_and_its_gradients(
    lowering: Lowering, layer: tuple[Tensor, Tensor, Geometry]
) -> None:
    check_convolution(layer, lowering)


@EVERY_LOWERING
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_depthwise_convolution(lowering: Lowering, kernel: int, stride: int) -> None:
    check_convolution(depthwise(5, kernel, stride), lowering)


DILATED = Convolution(LOWERINGS["onnx"])


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: resampling.nearest_gradient(noise(1, 1, 5, 4), noise(1, 1, 2, 2)), "scale"),
        (lambda: DILATED(noise(*X), noise(1, 3, 3, 3), None, (1, 1), (1, 1), (2, 2)), "dilation"),
        (lambda: RULES[aten.pow.Tensor_Scalar][0](noise(2), noise(2), noise(2), 3), "exponent 3"),
        (lambda: RULES[aten.slice.Tensor][0](noise(2), noise(2), noise(4), 0, 0, 4, 2), "step 2"),
        (lambda: RULES[aten.pad.default][0](noise(4), noise(4), noise(2), [1, 1], "wrap"), "wrap"),
        (lambda: RULES[aten.pad.default][0](noise(4), noise(4), noise(2), [3, -1]), "-1"),
    ],
)
def test_what_a_rule_lacks_is_said(call: Callable[[], Any], word: str) -> None:
    with pytest.raises(NotImplementedError, match=word):
        call()
