"""ONNX files of every dtype against the float64 network; what they store; what they refuse."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from conftest import REPOSITORY, assert_close
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from torch import Tensor, nn

import pgn
from pgn import PGN, ConversionError, PGNConfig
from pgn.degrade import blur
from pgn_export import onnx as target
from pgn_export import onnx_precision
from pgn_export.coreml_precision import float_size
from pgn_export.graph import (
    CachedProxy,
    Conversion,
    ProxyGraph,
    TargetFeatures,
    Tensors,
    example,
    trace,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch.onnx, not ours

SIZE = (48, 64)
METADATA = {"pgn.version": "1", "pgn.alpha": "40.0", "licence": "Größe"}
GATES = {"fp32": (0.999, 0.01), "fp16": (0.999, 0.01), "int8": (0.99, 0.05)}
Run = Callable[[Tensors], dict[str, Tensor]]


@pytest.fixture(scope="module")
def lite() -> PGN:
    return pgn.load("pgn-lite")


@pytest.fixture(scope="module", params=target.DTYPES)
def artifact(request: pytest.FixtureRequest, lite: PGN, tmp_path_factory: Any) -> Iterator[Path]:
    """The proxy graph of pgn-lite in every dtype; the folder is named after it."""
    path = tmp_path_factory.mktemp(request.param) / "proxy.onnx"
    graph = trace(ProxyGraph(lite), example(SIZE))
    target.export(Conversion(graph, request.param, metadata=METADATA), path)
    yield path


def dtype_of(path: Path) -> str:
    return path.parent.name[:4]


def load(path: Path) -> Run:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, _numpy(session.run, names, inputs), strict=True))


def _numpy(run: Callable[..., Any], names: list[str], inputs: Tensors) -> list[Tensor]:
    feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
    return [torch.from_numpy(array) for array in run(names, feeds)]


def pairs(photo: Tensor, size: tuple[int, int] = SIZE) -> Iterator[Tensors]:
    """generated and target, far, mid and near."""
    photo = photo[..., : size[0], : size[1]].contiguous()
    for share in (1.0, 0.3, 0.05):
        generated = torch.lerp(photo, blur(photo[0], 4.0)[None], share)
        yield {"generated": generated, "target": photo}


def assert_same_gradient(net: PGN, run: Run, inputs: Tensors, gate: tuple[float, float]) -> None:
    """Direction and length of generated - proxy against those of the float64 network."""
    generated, wanted = inputs["generated"].double(), reference(net, inputs)
    found = run(inputs)["proxy"]
    assert found.dtype == torch.float32 and found.shape == wanted.shape
    a, b = (generated - found).flatten(), (generated - wanted).flatten()
    cosine = float(a @ b / (a.norm() * b.norm()))
    assert cosine >= gate[0], f"cosine {cosine:.6f}"
    assert abs(float(a.norm() / b.norm()) - 1) <= gate[1], f"norm ratio {a.norm() / b.norm():.4f}"


def reference(net: PGN, inputs: Tensors) -> Tensor:
    """The proxy in float64, from the network itself and not from the graph's module."""
    pixels = (inputs[name].double() for name in ("generated", "target"))
    proxy: Tensor = pgn.PGN.proxy(_double(net), *pixels)
    return proxy


def _double(net: PGN) -> PGN:
    double = PGN(net.config)
    double.load_state_dict(net.state_dict())
    return double.double().eval()


def stored_types(path: Path) -> dict[str, int]:
    """Count of stored numbers by type."""
    counts: dict[str, int] = {}
    for tensor in onnx.load(path).graph.initializer:
        name = onnx.TensorProto.DataType.Name(tensor.data_type)
        counts[name] = counts.get(name, 0) + int(np.prod(tensor.dims))
    return counts


@pytest.mark.slow
def test_every_dtype_gives_the_gradient_of_the_float64_network(
    artifact: Path, lite: PGN, photo: Tensor
) -> None:
    run = load(artifact)
    for inputs in pairs(photo):
        assert_same_gradient(lite, run, inputs, GATES[dtype_of(artifact)])


@pytest.mark.slow
def test_most_of_the_file_is_of_the_type_asked_for(artifact: Path) -> None:
    dtype = dtype_of(artifact)
    counts = stored_types(artifact)
    wanted = {"fp32": "FLOAT", "fp16": "FLOAT16", "int8": "INT8"}[dtype]
    assert counts[wanted] > 0.85 * sum(counts.values()), counts
    if dtype == "int8":
        assert "FLOAT16" not in counts
        assert artifact.stat().st_size <= 800_000
    if dtype == "fp16":
        assert artifact.stat().st_size <= 1_400_000


class HalfConv(OpRun):
    """The reference's convolution, faster: float32 sums, rounded to the type of x."""

    op_domain = ""
    op_type = "Conv"

    def _run(self, x: Any, w: Any, b: Any = None, **options: Any) -> tuple[Any]:
        image, weight = (torch.from_numpy(np.asarray(v, np.float32)) for v in (x, w))
        bias = None if b is None else torch.from_numpy(np.asarray(b, np.float32))
        out = F.conv2d(image, weight, bias, padding=options["pads"][:2])
        return (out.numpy().astype(x.dtype),)


@pytest.mark.slow
def test_fp16_holds_where_every_value_is_rounded(lite: PGN, photo: Tensor, tmp_path: Path) -> None:
    """ONNX Runtime computes float16 in float32 on a CPU; the reference rounds as a phone does."""
    size = (32, 32)
    target.export(Conversion(trace(ProxyGraph(lite), example(size)), "fp16"), tmp_path / "a.onnx")
    evaluator = ReferenceEvaluator(onnx.load(tmp_path / "a.onnx"), new_ops=[HalfConv])
    *_, near = pairs(photo, size)
    run: Run = lambda inputs: {"proxy": _numpy(evaluator.run, ["proxy"], inputs)[0]}  # noqa: E731
    assert_same_gradient(lite, run, near, GATES["fp16"])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_features_computed_apart_fit_the_cached_graph(
    dtype: str, photo: Tensor, tmp_path: Path
) -> None:
    net = pgn.load("pgn-nano")
    features = trace(TargetFeatures(net), {"target": example(SIZE)["target"]})
    inputs = {"generated": example(SIZE)["generated"], **features.outputs}
    for name, graph in {"features": features, "cached": trace(CachedProxy(net), inputs)}.items():
        target.export(Conversion(graph, dtype), tmp_path / f"{name}.onnx")
    of_target, of_generated = load(tmp_path / "features.onnx"), load(tmp_path / "cached.onnx")

    def run(inputs: Tensors) -> dict[str, Tensor]:
        cached = of_target({"target": inputs["target"]})
        assert {value.dtype for value in cached.values()} == {torch.float32}
        return of_generated({"generated": inputs["generated"], **cached})

    for pair in pairs(photo):
        assert_same_gradient(net, run, pair, GATES[dtype])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", target.DTYPES)
def test_a_dynamic_graph_takes_any_batch_and_size(
    dtype: str, photo: Tensor, tmp_path: Path
) -> None:
    net = pgn.load("pgn-nano")
    graph = trace(ProxyGraph(net), example((50, 70), batch=2), dynamic=True)
    target.export(Conversion(graph, dtype), tmp_path / "a.onnx")
    shape = onnx.load(tmp_path / "a.onnx").graph.output[0].type.tensor_type.shape
    assert [axis.dim_param or axis.dim_value for axis in shape.dim] == [
        "batch",
        3,
        "height",
        "width",
    ]
    run = load(tmp_path / "a.onnx")
    for size in ((48, 64), (45, 51)):
        for inputs in pairs(photo, size):
            inputs = {name: value.repeat(3, 1, 1, 1) for name, value in inputs.items()}
            assert_same_gradient(net, run, inputs, GATES[dtype])


@pytest.mark.slow
def test_dynamic_target_features_are_those_of_the_network(photo: Tensor, tmp_path: Path) -> None:
    net = pgn.load("pgn-nano")
    inputs = {"target": example((50, 70), batch=2)["target"]}
    graph = trace(TargetFeatures(net), inputs, dynamic=True)
    target.export(Conversion(graph, "fp16"), tmp_path / "a.onnx")
    images = photo[..., :45, :51].repeat(3, 1, 1, 1)
    found = load(tmp_path / "a.onnx")({"target": images})
    wanted = TargetFeatures(net).double()(images.double())
    assert list(found) == list(wanted)
    for name in wanted:
        assert_close(found[name], wanted[name], 2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp16", "int8"])
@pytest.mark.parametrize("backbone", ["resnet4", "unet"])
def test_free_networks_keep_their_gradient(
    backbone: str, dtype: str, photo: Tensor, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net = PGN(PGNConfig(backbone, "direct")).eval()
    target.export(Conversion(trace(ProxyGraph(net), example((32, 64))), dtype), tmp_path / "a.onnx")
    for inputs in pairs(photo, (32, 64)):
        assert_same_gradient(net, load(tmp_path / "a.onnx"), inputs, GATES[dtype])


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


EXPORT = """
import sys
from pathlib import Path
import pgn
from pgn_export import onnx
from pgn_export.graph import Conversion, ProxyGraph, example, trace
graph = trace(ProxyGraph(pgn.load("pgn-nano")), example((32, 32)))
for dtype in ("fp16", "int8"):
    onnx.export(Conversion(graph, dtype, metadata={"b": "1", "a": "2"}), Path(sys.argv[1]) / dtype)
"""


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    for seed in ("1", "2"):
        (tmp_path / seed).mkdir()
        subprocess.run(
            [sys.executable, "-c", EXPORT, str(tmp_path / seed)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=REPOSITORY,
            check=True,
            capture_output=True,
        )
    for dtype in ("fp16", "int8"):
        first, second = ((tmp_path / seed / dtype).read_bytes() for seed in ("1", "2"))
        assert first == second, dtype


class Gamma(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.lgamma(x)


class Lacking(nn.Module):
    """Holds an operation that ONNX has not."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 3, 1), Gamma())

    def forward(self, generated: Tensor, target: Tensor) -> Tensors:
        return {"proxy": self.backbone(generated) + target}


def test_an_operation_that_onnx_lacks_is_named_with_its_module(tmp_path: Path) -> None:
    graph = trace(Lacking(), example((8, 8)))
    wanted = r"onnx: no conversion for prims\.lgamma\.default, used in backbone\.1\."
    with pytest.raises(ConversionError, match=wanted) as caught:
        target.export(Conversion(graph), tmp_path / "a.onnx")
    assert caught.value.exit_code == 3 and not list(tmp_path.iterdir())
