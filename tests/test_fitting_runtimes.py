"""The fitting step in ONNX Runtime, LiteRT and the MIL interpreter, against float64 autograd.

`pgn-export conformance` measures every layer and step; here are those that differ most.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from conftest import assert_close
from torch import Tensor

from pgn.avatar import GeneratorConfig
from pgn.avatar.generator import CONFIGS
from pgn_export.exporting import TARGETS
from pgn_export.fitting import convolutions
from pgn_export.fitting.conformance import convert, measure, measuring
from pgn_export.fitting.conformance.avatar import PHOTOS, SIZE, Step, Trajectory
from pgn_export.fitting.conformance.comparing import moved
from pgn_export.fitting.conformance.layers import Layer, families
from pgn_export.fitting.conformance.ways_back import Layers
from pgn_export.fitting.rules import RULES
from pgn_export.graph import Graph
from pgn_export.proof import runtimes

pytestmark = pytest.mark.filterwarnings("ignore")  # of the converters
EVERY_TARGET = pytest.mark.parametrize("target", TARGETS)
SLOW_BUT_ONNX = pytest.mark.parametrize(
    "target", ["onnx", *(pytest.param(t, marks=pytest.mark.slow) for t in ("tflite", "coreml"))]
)
CONVOLUTIONS = {
    "convolution 4x4, stride 2",
    "convolution 3x3, 2 groups, stride 2",
    "convolution 3x3 of nearest upsampling x2",
}
THIN = GeneratorConfig(32, (3, 4, 6, 5), CONFIGS[128].blocks)

ALLOWED = {  # all standard: nothing of com.microsoft, no Flex, no custom operation
    "onnx": """
        Add AveragePool Clip Concat Conv ConvTranspose DepthToSpace Div Expand Gather Gemm
        HardSigmoid LeakyRelu MatMul Mul Neg Pad Pow Reciprocal ReduceMean ReduceSum Relu Reshape
        Resize Sigmoid Slice Split Sqrt Squeeze Sub Tanh Transpose Unsqueeze
    """,
    "tflite": """
        ADD AVERAGE_POOL_2D BATCH_MATMUL BROADCAST_TO CONCATENATION CONV_2D DEPTHWISE_CONV_2D
        DEPTH_TO_SPACE DIV FULLY_CONNECTED LEAKY_RELU LOGISTIC MAXIMUM MEAN MINIMUM MUL NEG PAD
        PADV2 RELU RELU_0_TO_1 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 RSQRT
        SLICE SPLIT SPLIT_V SQRT SQUEEZE STRIDED_SLICE SUB SUM TANH TRANSPOSE
    """,
    "coreml": """
        add avg_pool clip concat conv expand_dims identity leaky_relu linear matmul mul pad
        pixel_shuffle real_div reduce_mean reduce_sum relu reshape reverse rsqrt sigmoid
        slice_by_index slice_by_size split sqrt square squeeze stack sub tanh tile transpose
        upsample_bilinear upsample_nearest_neighbor
    """,
}


def onnx_operations(path: Path) -> set[str]:
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True)
    values = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    shapes = {value.name: value.type.tensor_type.shape.dim for value in values}
    domains = {entry.domain for entry in model.opset_import}
    return {
        *(node.op_type for node in model.graph.node),
        *(f"domain {domain}" for domain in domains - {""}),
        *(f"rank of {name}" for name, sides in shapes.items() if len(sides) > 4),
        *(
            f"free size of {name}"
            for name, sides in shapes.items()
            if not all(side.HasField("dim_value") for side in sides)
        ),
    }


def tflite_operations(path: Path) -> set[str]:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    (graph,) = model.subgraphs
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if name[0] != "_"}
    ranks = {tensor.name: len(tensor.shape) for tensor in graph.tensors if tensor.shape is not None}
    return {
        *(names[code.builtinCode] for code in model.operatorCodes),
        *(f"rank of {name}" for name, rank in ranks.items() if rank > 4),
        *(f"free size of {t.name}" for t in graph.tensors if t.shapeSignature is not None),
    }


def coreml_operations(path: Path) -> set[str]:
    from coremltools.proto import Model_pb2

    content = (path / "Data" / "com.apple.CoreML" / "model.mlmodel").read_bytes()
    program = Model_pb2.Model.FromString(content).mlProgram
    (block,) = program.functions["main"].block_specializations.values()
    outputs = [output for operation in block.operations for output in operation.outputs]
    shapes = {output.name: output.type.tensorType.dimensions for output in outputs}
    return {
        *({operation.type for operation in block.operations} - {"const"}),
        *(f"rank of {name}" for name, sides in shapes.items() if len(sides) > 4),
        *(
            f"free size of {name}"
            for name, sides in shapes.items()
            if not all(side.HasField("constant") for side in sides)
        ),
    }


OPERATIONS = {"onnx": onnx_operations, "tflite": tflite_operations, "coreml": coreml_operations}


@pytest.fixture(autouse=True)
def only_standard_operations(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In every file that a test converts: ranks up to 4, fixed sizes, operations of the list."""
    other: set[str] = set()

    def convert_and_look(graphs: Mapping[str, Graph], target: str, folder: Path) -> dict[str, Path]:
        paths = convert(graphs, target, folder)
        allowed = set(ALLOWED[target].split())
        other.update(*(OPERATIONS[target](path) - allowed for path in paths.values()))
        return paths

    monkeypatch.setattr(measuring, "convert", convert_and_look)
    yield
    assert other == set()


def every_layer() -> dict[str, Layer]:
    return {name: layer for family in families() for name, layer in family.items()}


@EVERY_TARGET
@pytest.mark.slow
def test_layers_in_a_runtime(target: str) -> None:
    """All but most convolutions, which take the longest to convert."""
    taken = {
        name: layer
        for name, layer in every_layer().items()
        if "convolution" not in name or name in CONVOLUTIONS
    }
    found = measure(Layers(taken), target)
    assert {finding.name for finding in found} == taken.keys() >= CONVOLUTIONS
    assert [finding for finding in found if finding.problem or not finding.passes] == []


@SLOW_BUT_ONNX
def test_planted_faults_show_in_their_gradients(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong sign, a missing tap, a stale weight: three gradients are wrong, the others right."""
    layers = Layers({name: every_layer()[name] for name in ("subtract", "convolution 3x3")})
    stale = layers.layers["convolution 3x3"].get_parameter("layer.weight").detach()
    weight_gradient, input_gradient = convolutions.weight_gradient, convolutions.input_gradient
    tap = torch.ones(3, 3)
    tap[2, 0] = 0

    def without_a_tap(g: Tensor, x: Tensor, *rest: object) -> Tensor:
        return weight_gradient(g, x, *rest) * tap  # type: ignore[arg-type]

    def with_stale(g: Tensor, x: Tensor, weight: Tensor, *rest: object) -> Tensor:
        return input_gradient(g, x, stale, *rest)  # type: ignore[arg-type]

    add, subtract = torch.ops.aten.add.Tensor, torch.ops.aten.sub.Tensor
    monkeypatch.setitem(RULES, subtract, RULES[add])
    monkeypatch.setattr(convolutions, "weight_gradient", without_a_tap)
    monkeypatch.setattr(convolutions, "input_gradient", with_stale)
    for finding in measure(layers, target):
        assert not finding.passes and not finding.problem
        wrong = {name for name, error in finding.errors.items() if error > finding.gate}
        planted = {"subtract": {"inputs.1"}, "convolution 3x3": {"inputs.0", "layer.weight"}}
        assert wrong == planted[finding.name], finding


@EVERY_TARGET
@pytest.mark.slow
def test_where_the_steps_of_an_avatar_lead(target: str) -> None:
    """It has all blocks of the real one, but is thin; photos come one by one."""
    (finding,) = measure(Trajectory(Step("last", 1, THIN), steps=10), target)[:1]
    assert finding.passes and not finding.problem, finding


@EVERY_TARGET
@pytest.mark.slow
def test_images_of_an_avatar(target: str, tmp_path: Path) -> None:
    """With weights that come from outside."""
    step = Step("last", PHOTOS)
    graph = step.built(target, ["render"])["render"]
    other = moved(step.fitting.generator, step.fitting.trainable)
    (path,) = measuring.convert({"render": graph}, target, tmp_path).values()
    (load, *_) = runtimes(target).values()
    condition = torch.rand(PHOTOS, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    found = load(path)({"condition": condition.numpy(), **step.values(other)})
    assert_close(found["generated"], other(condition.double()).detach(), 1e-5)


def test_what_a_target_lacks_is_named_alone() -> None:
    layers = {"lgamma": Layer(torch.lgamma), "negative": Layer(torch.neg)}
    lacking, there = measure(Layers(layers), "onnx")
    assert "no way back through aten.lgamma" in lacking.problem and lacking.passes
    assert math.isnan(lacking.worst)
    assert there.name == "negative" and there.passes and not there.problem
