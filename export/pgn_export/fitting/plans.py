"""What running a graph takes, counted in its .onnx, .tflite or .mlpackage file.

What a runtime takes for itself was measured (ONNX Runtime 1.31.1, LiteRT 2.3.0, on an AMD EPYC); of
Core ML nothing could be, so there it counts as nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from torch import Tensor

from pgn_export.fitting.liveness import Operation, most_alive

MEBIBYTE = 2**20
IN_PLACE = {  # operations of ONNX and TFLite whose kernels can write over an input
    *("Add", "Sub", "Mul", "Div", "Neg", "Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "Sqrt"),
    *("Reciprocal", "Pow", "ADD", "SUB", "MUL", "DIV", "RELU", "LEAKY_RELU", "LOGISTIC", "TANH"),
    *("MAXIMUM", "MINIMUM", "SQRT", "RSQRT"),
}
BITS = {"FLOAT32": 32, "FLOAT16": 16, "INT64": 64, "INT32": 32, "INT16": 16, "INT8": 8, "BOOL": 8}
VIEWS = {"Reshape", "Squeeze", "Unsqueeze", "Identity", "Flatten", "RESHAPE", "SQUEEZE"}


@dataclass(frozen=True)
class Plan:
    """Bytes that running a graph takes."""

    weights: int  # constants of the file
    inputs: Mapping[str, int]  # the caller's arrays, by name
    outputs: Mapping[str, int]
    activations: int  # the most that lives at a time in between
    where: str  # the operation at which the activations are that many
    runtime: int  # for the runtime's own purposes

    @property
    def interface(self) -> int:
        """Of all inputs and outputs."""
        return sum(self.inputs.values()) + sum(self.outputs.values())

    @property
    def own(self) -> int:
        """All but the caller's arrays."""
        return self.weights + self.activations + self.runtime

    @property
    def peak(self) -> int:
        """All of it at a time."""
        return self.interface + self.own


def plan_onnx(path: Path) -> Plan:
    """In the order in which ONNX Runtime runs it."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True).graph
    shapes = {
        value.name: [side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.input, *graph.output)
    } | {constant.name: list(constant.dims) for constant in graph.initializer}
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    sizes = {name: _bytes(shapes[name], _onnx_bits(kind)) for name, kind in kinds.items()}
    operations = [
        Operation(
            f"{node.op_type} {node.name}",
            node.input,
            node.output,
            is_view=node.op_type in VIEWS,
            in_place=node.op_type in IN_PLACE,
            scratch=_columns(node, shapes) if node.op_type == "ConvTranspose" else 0,
        )
        for node in in_run_order(graph.node)
    ]
    weights = sum(_bytes(c.dims, _onnx_bits(c.data_type)) for c in graph.initializer)
    return Plan(
        weights,
        {value.name: _bytes(shapes[value.name]) for value in graph.input},
        {value.name: _bytes(shapes[value.name]) for value in graph.output},
        *most_alive(operations, sizes),
        # what is kept of every operation, and the weights in the kernels' own order
        runtime=2 * MEBIBYTE + 3072 * len(operations) + weights,
    )


def in_run_order(nodes: Sequence[Any]) -> list[Any]:
    """A graph's nodes in the order in which ONNX Runtime runs them, which is not the file's.

    It goes back from what nobody takes, the last such node first (GraphViewer in its graph.cc).
    """
    makers = {name: index for index, node in enumerate(nodes) for name in node.output}
    needs = [sorted(makers[name] for name in node.input if name in makers) for node in nodes]
    taken = {index for group in needs for index in group}
    stack = [(index, False) for index in range(len(nodes)) if index not in taken]
    order, seen = [], set()
    while stack:
        index, has_inputs = stack.pop()
        if has_inputs:
            order.append(nodes[index])
        elif index not in seen:
            seen.add(index)
            stack.append((index, True))
            stack += [(needed, False) for needed in needs[index]]
    return order


def _columns(node: Any, shapes: Mapping[str, Sequence[int]]) -> int:
    """Of a transposed convolution: it multiplies first, and adds up afterwards."""
    return _bytes([*shapes[node.input[1]][1:], *shapes[node.input[0]][2:]])


def _onnx_bits(kind: int) -> int:
    import onnx

    return 8 * int(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize)


def plan_tflite(path: Path) -> Plan:
    """Of its only graph, as LiteRT runs it with XNNPACK."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    graph, signature = model.subgraphs[0], model.signatureDefs[0]
    kinds = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    codes = [kinds[code.builtinCode] for code in model.operatorCodes]
    sizes = {str(index): _tflite_bytes(tensor) for index, tensor in enumerate(graph.tensors)}
    inputs, outputs = (
        {entry.name.decode(): sizes.pop(str(entry.tensorIndex)) for entry in entries}
        for entries in (signature.inputs, signature.outputs)
    )
    constants = {
        str(index)
        for index, tensor in enumerate(graph.tensors)
        if model.buffers[tensor.buffer].data is not None
    }
    weights = sum(sizes.pop(name) for name in constants & sizes.keys())
    operations = [
        Operation(
            f"{codes[operator.opcodeIndex]} {graph.tensors[operator.outputs[0]].name.decode()}",
            [str(index) for index in operator.inputs],
            [str(index) for index in operator.outputs],
            is_view=codes[operator.opcodeIndex] in VIEWS,
            in_place=codes[operator.opcodeIndex] in IN_PLACE,
        )
        for operator in graph.operators
    ]
    shapes = [tensor.shape for tensor in graph.tensors]
    pointers = sum(
        _pointers(shapes[operator.inputs[1]], shapes[operator.outputs[0]])
        for operator in graph.operators
        if codes[operator.opcodeIndex] == "CONV_2D"
    )
    interface = sum(inputs.values()) + sum(outputs.values())
    return Plan(
        weights,
        inputs,
        outputs,
        *most_alive(operations, sizes),
        # inputs and outputs of its own, weights in the kernels' own order
        runtime=4 * MEBIBYTE + interface + weights + pointers,
    )


def _pointers(weight: Sequence[int], output: Sequence[int]) -> int:
    """Of XNNPACK's convolution to all that each tap sees: (O, kh, kw, C) to (N, h, w, O)."""
    taps = int(prod(weight[1:3]))
    return _bytes([taps, *output[:3]], 64) if taps > 1 else 0


def _tflite_bytes(tensor: Any) -> int:
    from ai_edge_litert import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.TensorType).items()}
    return _bytes([] if tensor.shape is None else tensor.shape, BITS[names[tensor.type]])


def plan_coreml(path: Path) -> Plan:
    """As the program says; Core ML's own plans are not known."""
    from pgn_export.mil.package import open_package
    from pgn_export.mil.program import read_graph

    graph = read_graph(open_package(path))
    types = {
        name: declared
        for operation in graph.operations
        for name, declared in operation.outputs.items()
    }
    sizes = {
        name: _bytes([side or 1 for side in declared.shape], declared.data_type.bits)
        for name, declared in types.items()
    }
    outputs = {name: sizes.pop(name) for name in graph.outputs}
    operations = [
        Operation(
            str(operation),
            [name for group in operation.inputs.values() for name in group],
            list(operation.outputs),
            is_view=operation.kind in VIEWS,
            in_place=operation.kind in IN_PLACE,
        )
        for operation in graph.operations
    ]
    constants = (value for value in graph.constants.values() if isinstance(value, Tensor))
    return Plan(
        sum(constant.nbytes for constant in constants),
        {name: _bytes(feature.shape) for name, feature in graph.inputs.items()},
        outputs,
        *most_alive(operations, sizes),
        runtime=0,
    )


def _bytes(shape: Sequence[int], bits: int = 32) -> int:
    return int(prod(shape)) * bits // 8  # TFLite tells shapes as NumPy's int32
