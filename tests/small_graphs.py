"""Files of a few operations, written by hand: ONNX and TFLite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Shape = Sequence[int | str]


def write_onnx(
    path: Path,
    nodes: Sequence[Any],
    inputs: Mapping[str, Shape],
    outputs: Mapping[str, Shape],
    constants: Sequence[Any] = (),
) -> Path:
    """A model of nodes by onnx.helper.make_node; all inputs and outputs are float32."""
    import onnx
    from onnx import TensorProto, helper

    values = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in group]
        for group in (inputs.items(), outputs.items())
    ]
    graph = helper.make_graph(nodes, "small", values[0], values[1], constants)
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def write_tflite(
    path: Path, operators: Sequence[tuple[str, list[str], str]], tensors: dict[str, list[int]]
) -> Path:
    """A model of (name, inputs, output) that takes x and gives y, all tensors float32."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    names = list(tensors)
    kinds = sorted({operator[0] for operator in operators})
    codes = [getattr(schema.BuiltinOperator, kind) for kind in kinds]
    model = schema.ModelT(
        version=3,
        buffers=[schema.BufferT()],
        operatorCodes=[
            schema.OperatorCodeT(deprecatedBuiltinCode=code, builtinCode=code, version=1)
            for code in codes
        ],
        signatureDefs=[
            schema.SignatureDefT(
                signatureKey="serving_default",
                inputs=[schema.TensorMapT(name="x", tensorIndex=names.index("x"))],
                outputs=[schema.TensorMapT(name="y", tensorIndex=names.index("y"))],
            )
        ],
        subgraphs=[
            schema.SubGraphT(
                tensors=[schema.TensorT(name=n, shape=s, hasRank=True) for n, s in tensors.items()],
                inputs=[names.index("x")],
                outputs=[names.index("y")],
                operators=[
                    schema.OperatorT(
                        opcodeIndex=kinds.index(kind),
                        inputs=[names.index(name) for name in inputs],
                        outputs=[names.index(output)],
                    )
                    for kind, inputs, output in operators
                ],
            )
        ],
    )
    path.write_bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    return path
