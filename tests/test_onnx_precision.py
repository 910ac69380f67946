"""Where float16 and int8 lie in an ONNX file, on a network of three layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import assert_close
from torch import Tensor, nn

from pgn_export import onnx as target
from pgn_export import onnx_precision
from pgn_export.graph import Conversion, Tensors, example, trace
from pgn_export.precision import float_size

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch.onnx, not ours

METADATA = {"pgn.version": "1", "pgn.alpha": "40.0", "licence": "Größe"}


class Tiny(nn.Module):
    """Two layers, the second one large: the least that the rules of precision can tell apart."""

    def __init__(self) -> None:
        super().__init__()
        self.small = nn.Conv2d(3, 4, 1)
        self.large = nn.Conv2d(4, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, generated: Tensor, target: Tensor) -> Tensors:
        features = torch.relu(self.large(torch.relu(self.small(generated))))
        push = features * torch.rsqrt(features * features + 1e-6)
        return {"proxy": generated - self.last(push) + target}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: Any) -> Callable[[str], onnx.ModelProto]:
    """A function that gives `Tiny` in a dtype."""
    torch.manual_seed(0)
    module = Tiny().eval()
    assert float_size(module) == 24, "both small layers, and not the large one"
    graph = trace(module, example((8, 8)))
    folder = tmp_path_factory.mktemp("tiny")

    def export(dtype: str) -> onnx.ModelProto:
        path = folder / f"{dtype}.onnx"
        if not path.exists():
            target.export(Conversion(graph, dtype, metadata=METADATA), path)
        return onnx.load(path)

    return export


@pytest.mark.parametrize("dtype", target.DTYPES)
def test_names_types_and_metadata_are_ours_and_the_tools_notes_are_gone(
    dtype: str, tiny: Callable[[str], onnx.ModelProto]
) -> None:
    model = tiny(dtype)
    assert [(entry.key, entry.value) for entry in model.metadata_props] == sorted(METADATA.items())
    assert model.producer_name == "pgn-edge"
    assert [value.name for value in model.graph.input] == ["generated", "target"]
    assert [value.name for value in model.graph.output] == ["proxy"]
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT, value.name


def weights(model: onnx.ModelProto) -> dict[str, Any]:
    """Every constant by its name."""
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


def test_int8_weights_are_the_rounded_ones_with_a_scale_per_channel(
    tiny: Callable[[str], onnx.ModelProto],
) -> None:
    full, quantised = weights(tiny("fp32")), weights(tiny("int8"))
    name = "large.weight"
    assert quantised[f"{name}.int8"].dtype == np.int8
    for channel, (whole, scale) in enumerate(
        zip(quantised[f"{name}.int8"], quantised[f"{name}.scale"].flatten(), strict=True)
    ):
        row = full[name][channel].astype(np.float64)
        assert float(scale) == pytest.approx(np.abs(row).max() / 127, rel=1e-6)
        assert np.abs(whole).max() == 127
        assert np.abs(whole * float(scale) - row).max() <= 0.5001 * scale
    for small in ("small.weight", "last.weight"):
        np.testing.assert_array_equal(quantised[small], full[small])


def test_int8_weights_are_folded_at_load(
    tiny: Callable[[str], onnx.ModelProto], tmp_path: Path
) -> None:
    """What ONNX Runtime runs holds no cast: int8 is as fast as float32."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(tiny("int8").SerializeToString(), options)
    found = {node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node}
    assert "Cast" not in found and "Conv" in found


def test_a_channel_of_zeros_stays_zero() -> None:
    weight = np.zeros((2, 1, 3, 3), np.float32)
    weight[0, 0, 1, 1] = 2.0
    nodes = [onnx.helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], group=1)]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, channels, 4, 4])
        for name, channels in (("x", 1), ("y", 2))
    ]
    held = [onnx.numpy_helper.from_array(weight, "w")]
    graph = onnx.helper.make_graph(nodes, "zeros", ends[:1], ends[1:], held)
    opset = [onnx.helper.make_opsetid("", target.OPSET)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    with np.errstate(all="raise"):
        lowered = onnx_precision.lower(model, "int8", nn.Module())
    x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    found = onnxruntime.InferenceSession(lowered.SerializeToString()).run(None, {"x": x})[0]
    assert_close(found, np.concatenate([2 * x, 0 * x], axis=1), 1e-6)


def test_float16_lies_between_large_convolutions_and_around_divisions(
    tiny: Callable[[str], onnx.ModelProto],
) -> None:
    model = tiny("fp16")
    types = {value.name: value.type.tensor_type.elem_type for value in inferred(model)}
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    found = [
        (node.op_type, onnx.TensorProto.DataType.Name(types[node.output[0]]))
        for node in model.graph.node
        if node.op_type != "Cast"
    ]
    assert found == [
        ("Conv", "FLOAT"),
        ("Relu", "FLOAT"),
        ("Conv", "FLOAT16"),
        ("Relu", "FLOAT16"),
        ("Mul", "FLOAT"),
        ("Add", "FLOAT"),
        ("Sqrt", "FLOAT"),
        ("Div", "FLOAT"),
        ("Conv", "FLOAT16"),
        ("Sub", "FLOAT"),
        ("Add", "FLOAT"),
    ]


def inferred(model: onnx.ModelProto) -> Any:
    graph = onnx.shape_inference.infer_shapes(model).graph
    return (*graph.value_info, *graph.output)
