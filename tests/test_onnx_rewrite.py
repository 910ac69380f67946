"""Rewritten ONNX graphs give the same values in onnx's own evaluator; what stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from pgn_export.onnx_rewrite import NARROW, rewrite

Node = onnx.NodeProto


def model(nodes: Sequence[Node], shape: Sequence[int], **constants: object) -> onnx.ModelProto:
    """A graph x -> y, float32, that the checker accepts."""
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, sides)
        for name, sides in (("x", shape), ("y", [None] * len(shape)))
    )
    stored = [
        numpy_helper.from_array(np.asarray(v, dtype=np.float32), name)
        for name, v in constants.items()
    ]
    graph = helper.make_graph(list(nodes), "graph", [x], [y], stored)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return made


def rewritten(before: onnx.ModelProto, x: np.ndarray) -> list[str]:
    """The operators after rewriting, whose values are those before it."""
    after = rewrite(before)
    onnx.checker.check_model(after, full_check=True)
    assert [value.name for value in after.graph.output] == ["y"]
    found, wanted = (ReferenceEvaluator(each).run(None, {"x": x}) for each in (after, before))
    assert isinstance(found, list) and isinstance(wanted, list)
    assert_close(found[0], wanted[0], 1e-5)
    return [node.op_type for node in after.graph.node]


@settings(max_examples=30, deadline=None)
@given(
    channels=st.tuples(st.integers(1, 5), st.integers(1, NARROW)),
    kernel=st.tuples(st.integers(1, 4), st.integers(2, 5)),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_a_narrow_convolution_becomes_its_transposed(
    channels: tuple[int, int], kernel: tuple[int, int], seed: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    pads = [data.draw(st.integers(0, side - 1)) for side in kernel * 2]
    inputs, outputs = channels
    weight = rng.normal(size=(outputs, inputs, *kernel))
    names = ["x", "weight", "bias"][: data.draw(st.integers(2, 3))]
    before = model(
        [helper.make_node("Conv", names, ["y"], pads=pads)],
        (2, inputs, 6, 7),
        weight=weight,
        bias=rng.normal(size=outputs),
    )
    x = rng.normal(size=(2, inputs, 6, 7)).astype(np.float32)
    assert rewritten(before, x) == ["ConvTranspose"]


def test_one_weight_of_two_convolutions() -> None:
    """As in the first layer of a network with two branches."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "weight"], ["first"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["first", "weight"], ["y"]),
    ]
    before = model(nodes, (1, 3, 6, 6), weight=rng.normal(size=(3, 3, 3, 3)))
    found = rewritten(before, rng.normal(size=(1, 3, 6, 6)).astype(np.float32))
    assert found == ["ConvTranspose", "ConvTranspose"]


@pytest.mark.parametrize(
    ("outputs", "attributes"),
    [
        (NARROW + 1, {}),
        (2, {"strides": [2, 1]}),
        (2, {"dilations": [1, 2]}),
        (2, {"pads": [3, 0, 0, 0]}),
        (2, {"auto_pad": "SAME_UPPER"}),
    ],
)
def test_other_convolutions_stay(outputs: int, attributes: Any) -> None:
    rng = np.random.default_rng(0)
    node = helper.make_node("Conv", ["x", "weight"], ["y"], **attributes)
    before = model([node], (1, 4, 8, 8), weight=rng.normal(size=(outputs, 4, 3, 3)))
    assert rewritten(before, rng.normal(size=(1, 4, 8, 8)).astype(np.float32)) == ["Conv"]


def test_a_group_or_a_single_pixel_stays() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 4, 8, 8)).astype(np.float32)
    grouped = helper.make_node("Conv", ["x", "weight"], ["y"], group=4)
    assert rewritten(model([grouped], x.shape, weight=rng.normal(size=(4, 1, 3, 3))), x) == ["Conv"]
    plain = helper.make_node("Conv", ["x", "weight"], ["y"])
    assert rewritten(model([plain], x.shape, weight=rng.normal(size=(3, 4, 1, 1))), x) == ["Conv"]


def test_a_weight_that_is_computed_stays() -> None:
    """As in a fitting step, where it is an input."""
    nodes = [
        helper.make_node("Mul", ["weight", "two"], ["doubled"]),
        helper.make_node("Conv", ["x", "doubled"], ["y"]),
    ]
    before = model(nodes, (1, 2, 5, 5), weight=np.ones((2, 2, 3, 3)), two=2.0)
    assert rewritten(before, np.ones((1, 2, 5, 5), np.float32)) == ["Mul", "Conv"]


def clip(*bounds: str, relu: bool = False) -> list[Node]:
    first = [helper.make_node("Relu", ["x"], ["seen"])] if relu else []
    seen = "seen" if relu else "x"
    scaled = helper.make_node("Mul", [seen, "slope"], ["scaled"])
    return [*first, scaled, helper.make_node("Clip", ["scaled", *bounds], ["y"])]


CONSTANTS = {"slope": 2.0**15, "zero": 0.0, "one": 1.0, "two": 2.0, "below": -1.0}
X = np.array([[-1.0, -1e-6, 0.0, 1e-6, 1e-4, 1.0, 1e6]], dtype=np.float32)


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        (clip("zero", "one"), ["HardSigmoid"]),
        (clip("", "one", relu=True), ["Relu", "HardSigmoid"]),
        (clip("", "one"), ["Mul", "Clip"]),
        (clip("below", "one"), ["Mul", "Clip"]),
        (clip("zero", "two"), ["Mul", "Clip"]),
        (clip("zero"), ["Mul", "Clip"]),
    ],
)
def test_a_mask_is_one_operator_where_it_is_a_step(nodes: list[Node], expected: list[str]) -> None:
    assert rewritten(model(nodes, X.shape, **CONSTANTS), X) == expected


def test_a_slope_of_each_channel_stays() -> None:
    slopes = CONSTANTS | {"slope": np.arange(7.0)}
    assert rewritten(model(clip("zero", "one"), X.shape, **slopes), X) == ["Mul", "Clip"]


def test_in_float16_neither_is_faster() -> None:
    mask = model(clip("zero", "one"), X.shape, **CONSTANTS)
    assert [node.op_type for node in rewrite(mask, "fp16").graph.node] == ["Mul", "Clip"]


def test_a_reciprocal_root_is_a_quotient() -> None:
    nodes = [
        helper.make_node("Sqrt", ["x"], ["root"]),
        helper.make_node("Reciprocal", ["root"], ["reciprocal"]),
        helper.make_node("Mul", ["x", "reciprocal"], ["y"]),
    ]
    x = np.array([[0.25, 1.0, 9.0]], dtype=np.float32)
    assert rewritten(model(nodes, x.shape), x) == ["Sqrt", "Div"]
