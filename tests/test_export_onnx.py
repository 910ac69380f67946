"""ONNX files of every dtype against the float64 network; their bytes; what they refuse."""

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
from pgn_export.graph import (
    CachedProxy,
    Conversion,
    Graph,
    ProxyGraph,
    TargetFeatures,
    Tensors,
    example,
    trace,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch.onnx, not ours

SIZE = (48, 64)
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
    target.export(Conversion(graph, request.param), path)
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


@pytest.fixture(scope="module")
def dynamic() -> Graph:
    """pgn-nano's proxy graph with free batch, height and width."""
    return trace(ProxyGraph(pgn.load("pgn-nano")), example((50, 70), batch=2), dynamic=True)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", target.DTYPES)
def test_a_dynamic_graph_takes_any_batch_and_size(
    dtype: str, dynamic: Graph, photo: Tensor, tmp_path: Path
) -> None:
    net = pgn.load("pgn-nano")
    target.export(Conversion(dynamic, dtype), tmp_path / "a.onnx")
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
