"""float16 and int8 in an ONNX graph, placed where they do not harm the gradient.

A lite network subtracts the features of two nearly equal images, and masks them where they are
positive. An error of the first layers runs through all that follows, so the smallest weights keep
float32 in either form; without that, pgn-lite falls to a cosine of .965 in int8, .9988 in fp16.

fp16   from the first large convolution to the last one. Outside are the pixels, whose rounding
       is as large as the last differences, and so are divisions with what feeds them: the squares
       under a root, down to 1e-6, are no normal float16 numbers.
int8   weights only, one scale an output channel. Activations before the difference round it away
       (cosine below .02); behind it they cost up to .009 and bring a tenth of the time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from torch import nn

from pgn_export.precision import float_size

FLOAT, FLOAT16 = ir.DataType.FLOAT, ir.DataType.FLOAT16
CONVOLUTIONS = ("Conv", "ConvTranspose")
ARITHMETIC = ("Add", "Sub", "Mul", "Sqrt")


def lower(model: onnx.ModelProto, dtype: str, module: nn.Module) -> onnx.ModelProto:
    """The float32 `model` of `module` in `dtype`, float32 at its inputs and outputs."""
    if dtype == "fp32":
        return model
    lowered = ir.from_proto(onnx.shape_inference.infer_shapes(model, strict_mode=True))
    if dtype == "fp16":
        _halve(lowered.graph, float_size(module))
    else:
        _quantise_weights(lowered.graph, float_size(module))
    return ir.to_proto(lowered)


def _quantise_weights(graph: ir.Graph, float_size: int) -> None:
    """int8 weights, cast and scaled in the graph.

    Not by DequantizeLinear: ONNX Runtime folds these two at load, and that one not, which makes
    each run 1.5 times slower than float32.
    """
    weights = {node.inputs[1] for node in graph if node.op_type == "Conv"}
    for name, value in list(graph.initializers.items()):
        if value not in weights or _array(value).size <= float_size:
            continue
        weight = _array(value)
        largest = np.abs(weight).max(axis=(1, 2, 3), keepdims=True)
        scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        whole = _constant(graph, f"{name}.int8", np.rint(weight / scale).astype(np.int8))
        cast = ir.node("Cast", [whole], {"to": FLOAT})
        scaled = ir.node("Mul", [cast.outputs[0], _constant(graph, f"{name}.scale", scale)])
        value.replace_all_uses_with(scaled.outputs[0])
        del graph.initializers[name]
        graph.insert_before(graph[0], [cast, scaled])


def _halve(graph: ir.Graph, float_size: int) -> None:
    """Compute in float16, with a Cast wherever that begins and ends."""
    halved = _between_convolutions(graph, float_size) - _divisions(graph)
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
    for node in list(graph):
        half = node in halved
        wanted, other = (FLOAT16, FLOAT) if half else (FLOAT, FLOAT16)
        for i, value in enumerate(node.inputs):
            if value is None or value.dtype != other or (node.op_type == "Resize" and i > 0):
                continue  # the scales of a Resize are float32 in any case
            if (value, wanted) not in casts:
                casts[value, wanted] = _cast(graph, value, wanted, node)
            node.replace_input_with(i, casts[value, wanted])
        for value in node.outputs if half else ():
            value.dtype = FLOAT16
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]


def _between_convolutions(graph: ir.Graph, float_size: int) -> set[ir.Node]:
    """Nodes from the first large convolution to the last convolution, but for the outputs."""
    after: set[ir.Node] = set()
    for node in graph:
        large = node.op_type == "Conv" and _array(node.inputs[1]).size > float_size
        if large or any(before in after for before in node.predecessors()):
            after.add(node)
    before: set[ir.Node] = set()
    for node in reversed(graph):
        if node.op_type in CONVOLUTIONS or any(behind in before for behind in node.successors()):
            before.add(node)
    return {
        node
        for node in after & before
        if not any(value.is_graph_output() for value in node.outputs)
    }


def _divisions(graph: ir.Graph) -> set[ir.Node]:
    """Divisions and the arithmetic that feeds them."""
    found: set[ir.Node] = set()
    for node in reversed(graph):
        feeds = node.op_type in ARITHMETIC and any(user in found for user in node.successors())
        if node.op_type == "Div" or feeds:
            found.add(node)
    return found


def _cast(graph: ir.Graph, value: ir.Value, dtype: ir.DataType, user: ir.Node) -> ir.Value:
    """`value` in another type: a Cast before `user`, its first, or another constant."""
    if value.const_value is not None:
        return _constant(graph, f"{value.name}.{dtype}", _array(value).astype(dtype.numpy()))
    node = ir.node("Cast", [value], {"to": dtype})
    node.outputs[0].dtype = dtype
    graph.insert_before(user, node)
    return node.outputs[0]


def _array(value: ir.Value | None) -> np.ndarray[Any, np.dtype[Any]]:
    assert value is not None and value.const_value is not None
    return value.const_value.numpy()


def _constant(graph: ir.Graph, name: str, array: np.ndarray[Any, np.dtype[Any]]) -> ir.Value:
    value = ir.val(name, const_value=ir.tensor(array, name=name))
    graph.register_initializer(value)
    return value
