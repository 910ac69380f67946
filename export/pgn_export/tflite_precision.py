"""float16 and int8 in a .tflite file, placed where they do not harm the gradient.

A PGN of ours subtracts the features of two nearly equal images, and what is left decides signs.
So precision follows two rules, for any network:
- Before that difference the smallest layers keep float32: they are the first ones, an error there
  runs through all that follows, and they hardly weigh. With int8 weights everywhere pgn-lite's
  residual has a cosine of .988 to float64, pgn-nano's .982; with 15 % of the weights in float32
  both have .9996 (224x224, the worst photo and distance).
- int8 activations come only behind the difference, where values are of order one. Before it they
  round it away (cosine .34 near the target); behind it they cost .0006 and the graph runs 1.3
  times as fast, 1.5 times with the target cached. Each image's own range is taken at run time:
  no calibration can go stale. A network without a difference gets int8 weights only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ai_edge_litert.schema_py_generated import BuiltinOperator
from ai_edge_litert.tools import flatbuffer_utils
from ai_edge_quantizer import qtyping
from ai_edge_quantizer.algorithm_manager import AlgorithmName
from ai_edge_quantizer.quantizer import Quantizer

FLOAT32_SHARE = 0.15  # of all weights: the smallest layers that keep float32
WEIGHTED = {  # operations with weights as input 1, and the quantizer's name of each
    BuiltinOperator.CONV_2D: "CONV_2D",
    BuiltinOperator.DEPTHWISE_CONV_2D: "DEPTHWISE_CONV_2D",
    BuiltinOperator.TRANSPOSE_CONV: "CONV_2D_TRANSPOSE",
    BuiltinOperator.FULLY_CONNECTED: "FULLY_CONNECTED",
}
HALF = qtyping.OpQuantizationConfig(
    weight_tensor_config=qtyping.TensorQuantizationConfig(
        num_bits=16, dtype=qtyping.TensorDataType.FLOAT
    ),
    compute_precision=qtyping.ComputePrecision.FLOAT,
    explicit_dequantize=True,
)


@dataclass(frozen=True)
class Layer:
    """An operation with weights."""

    scope: str  # a pattern of its name that fits no other layer
    operation: str
    buffer: int  # of its weights; both images' branches share one
    size: int  # count of weights
    behind_difference: bool


def lower(model: Any, dtype: str) -> Any:
    """The float32 `model` (a `ModelT`) with weights of `dtype`, fp16 or int8.

    Inputs, outputs and everything between the layers stay float32.
    """
    quantizer = Quantizer(flatbuffer_utils.convert_object_to_bytearray(model))
    layers = _layers(model)
    largest_kept = _largest_kept(layers)
    for layer in layers:
        name = (layer.scope, qtyping.TFLOperationName(layer.operation))
        if not layer.behind_difference and layer.size <= largest_kept:
            continue
        if dtype == "fp16":
            quantizer.update_quantization_recipe(*name, HALF, AlgorithmName.FLOAT_CASTING)
        elif layer.behind_difference:
            quantizer.add_dynamic_config(*name, num_bits=8)
        else:
            quantizer.add_weight_only_config(*name, num_bits=8)
    return flatbuffer_utils.read_model_from_bytearray(quantizer.quantize().quantized_model)


def _largest_kept(layers: list[Layer]) -> int:
    """Count of weights up to which all layers before the difference keep float32, 0 for none."""
    sizes = {layer.buffer: layer.size for layer in layers if not layer.behind_difference}.values()
    share = {size: sum(s for s in sizes if s <= size) / sum(sizes) for size in sizes}
    return max((size for size in sizes if share[size] <= FLOAT32_SHARE), default=0)


def _layers(model: Any) -> list[Layer]:
    """All operations with weights, in order."""
    graph = model.subgraphs[0]
    constant = {k for k, t in enumerate(graph.tensors) if model.buffers[t.buffer].data is not None}
    behind: set[int] = set()  # tensors that a difference of two activations runs into
    layers = []
    for operator in graph.operators:
        code = flatbuffer_utils.get_builtin_code_from_operator_code(
            model.operatorCodes[operator.opcodeIndex]
        )
        inputs, outputs = set(operator.inputs), list(operator.outputs)
        if code in WEIGHTED:
            weights = graph.tensors[operator.inputs[1]]
            size = model.buffers[weights.buffer].data.nbytes // 4
            scope = f"^{re.escape(graph.tensors[outputs[0]].name.decode())};$"
            layer = Layer(scope, WEIGHTED[code], weights.buffer, size, bool(inputs & behind))
            layers.append(layer)
        if inputs & behind or (code == BuiltinOperator.SUB and not inputs & constant):
            behind.update(outputs)
    return layers
