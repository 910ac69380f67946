"""Core ML packages, evaluated by the MIL interpreter, against the float64 network."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from types import SimpleNamespace as Plain
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assert_close
from numpy.typing import NDArray
from torch import Tensor, nn

import pgn
from pgn import PGN, ConversionError, PGNConfig
from pgn.degrade import blur
from pgn_export import coreml, coreml_precision, mil
from pgn_export.graph import CachedProxy, Conversion, ProxyGraph, TargetFeatures, example, trace
from pgn_export.parity import photos
from pgn_export.precision import float_size
from pgn_runtime import RuntimeInputError, backends
from pgn_runtime.errors import MissingBackendError

pytestmark = pytest.mark.filterwarnings("ignore")  # of coremltools and what it imports

SIZE = (48, 64)
METADATA = {"pgn.licence": "Apache-2.0", "pgn.version": "0.1.0", "pgn.alpha": "40.0"}
LIMITS = {"fp32": 0.999999, "fp16": 0.9999, "int8": 0.998}  # tighter than the gates
FLOAT32, FLOAT16, INT8 = 11, 10, 21  # MIL.proto's DataType

Arrays = Mapping[str, NDArray[Any]]


def graph_of(module: nn.Module, inputs: dict[str, Tensor], dtype: str) -> Conversion:
    return Conversion(trace(module, inputs), dtype, metadata=METADATA)


@pytest.fixture(scope="module", params=coreml.DTYPES)
def package(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pgn-lite's proxy graph in one precision, which is the file's stem."""
    path = tmp_path_factory.mktemp("coreml") / f"{request.param}.mlpackage"
    conversion = graph_of(ProxyGraph(pgn.load("pgn-lite")), example(SIZE), request.param)
    coreml.export(conversion, path)
    return path


def worst_cosine(net: PGN, run: Any) -> float:
    """Of the residual with the float64 network's, over the photos and three distances."""
    reference = net.double()
    cosines = []
    for photo in photos(SIZE):
        for share in (1.0, 0.3, 0.05):
            generated = torch.lerp(photo, blur(photo[0], 4.0)[None], share)
            found = run({"generated": generated.numpy(), "target": photo.numpy()})["proxy"]
            a = (generated - torch.from_numpy(found)).double().flatten()
            wanted = reference.proxy(generated.double(), photo.double())
            b = (generated.double() - wanted).flatten()
            assert abs(float(a.norm() / b.norm()) - 1) < 0.01
            cosines.append(float(a @ b / (a.norm() * b.norm())))
    return min(cosines)


@pytest.mark.slow
def test_the_saved_package_gives_the_gradient(package: Path) -> None:
    assert worst_cosine(pgn.load("pgn-lite"), mil.load(package).run) >= LIMITS[package.stem]


def blocks(package: Path) -> list[Any]:
    """The operations in the package's specification file."""
    from coremltools.proto import Model_pb2

    specification = package / "Data" / "com.apple.CoreML" / "model.mlmodel"
    program = Model_pb2.Model.FromString(specification.read_bytes()).mlProgram
    (block,) = program.functions["main"].block_specializations.values()
    return list(block.operations)


@pytest.mark.slow
def test_stored_types_are_those_asked_for(package: Path) -> None:
    convolutions = [
        op.outputs[0].type.tensorType.dataType for op in blocks(package) if op.type == "conv"
    ]
    half = 0 if package.stem == "fp32" else 19  # of 27, all but the first four of either image
    assert (convolutions.count(FLOAT16), convolutions.count(FLOAT32)) == (half, 27 - half)
    quantised = [op for op in blocks(package) if op.type == "constexpr_affine_dequantize"]
    stored = [op.attributes["quantized_data"].type.tensorType.dataType for op in quantised]
    assert stored == [INT8] * (10 if package.stem == "int8" else 0)  # 5 convolutions, 5 transposed
    last = [op for op in blocks(package) if op.type != "const"][-1]
    assert last.outputs[0].type.tensorType.dataType == FLOAT32
    assert last.type != "cast", "the last subtraction was rounded"
    program = mil.load(package)
    bounded = 0 if package.stem == "fp32" else 7  # the differences' ratios, beside 9 masks
    assert program.operations()["clip"] == 9 + bounded
    described = {**program.inputs, **program.outputs}
    assert list(described) == ["generated", "target", "proxy"]
    assert {str(np.dtype(value.dtype)) for value in described.values()} == {"float32"}
    megabytes = sum(p.stat().st_size for p in package.rglob("*") if p.is_file()) / 1e6
    assert megabytes <= {"fp32": 2.1, "fp16": 1.4, "int8": 0.8}[package.stem]


def contents(package: Path) -> dict[str, bytes]:
    files = (path for path in package.rglob("*") if path.is_file())
    return {path.relative_to(package).as_posix(): path.read_bytes() for path in files}


@pytest.mark.slow
def test_metadata_and_descriptions_are_read_back(package: Path) -> None:
    import coremltools as ct

    before = contents(package)
    model = ct.models.MLModel(str(package), skip_model_load=True)
    assert METADATA.items() <= dict(model.user_defined_metadata).items()
    assert not [key for key in model.user_defined_metadata if "date" in key]
    assert (model.author, model.license, model.version) == ("pgn-edge", "Apache-2.0", "0.1.0")
    assert "pixels" in model.short_description
    assert "RGB" in model.input_description["target"]
    assert "RGB" in model.output_description["proxy"]
    assert contents(package) == before, "opening the package changed it"


EXPORT = """
import pathlib, sys
from test_export_coreml import *
conversion = graph_of(ProxyGraph(pgn.load("pgn-lite")), example(SIZE), sys.argv[1])
coreml.export(conversion, pathlib.Path(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("package", ["int8"], indirect=True)  # all that fp32 and fp16 do, and more
def test_another_process_writes_the_same_bytes(package: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.mlpackage"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-W", "ignore", "-c", EXPORT, package.stem, str(again)]
    subprocess.run(command, check=True, env=environment, capture_output=True, timeout=300)
    found = contents(again)
    assert sorted(found) == [
        "Data/com.apple.CoreML/model.mlmodel",
        "Data/com.apple.CoreML/weights/weight.bin",
        "Manifest.json",
    ]
    assert found == contents(package)


@pytest.mark.slow
def test_cached_features_fit_the_graph_that_takes_them(tmp_path: Path) -> None:
    net = pgn.load("pgn-nano")
    inputs = example(SIZE)
    features = graph_of(TargetFeatures(net), {"target": inputs.pop("target")}, "int8")
    cached = graph_of(CachedProxy(net), {**inputs, **features.graph.outputs}, "int8")
    runs = []
    for name, conversion in (("features", features), ("cached", cached)):
        coreml.export(conversion, tmp_path / f"{name}.mlpackage")
        runs.append(mil.load(tmp_path / f"{name}.mlpackage").run)

    def run(images: Arrays) -> dict[str, NDArray[Any]]:
        features = runs[0]({"target": images["target"]})
        return runs[1]({"generated": images["generated"], **features})

    assert worst_cosine(net, run) >= LIMITS["int8"]


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet4", "unet"])
def test_the_papers_networks_convert_to_int8(backbone: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = PGN(PGNConfig(backbone, "constrained")).eval()
    coreml.export(graph_of(ProxyGraph(net), example(SIZE), "int8"), tmp_path / "x.mlpackage")
    assert worst_cosine(net, mil.load(tmp_path / "x.mlpackage").run) >= LIMITS["int8"]


class Layer(nn.Module):
    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.forward = operation


class Around(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, generated: Tensor) -> dict[str, Tensor]:
        return {"proxy": self.layer(generated) * 2.0}


@pytest.mark.parametrize(  # coremltools has other words for each
    ("operation", "name"), [(torch.special.i0, "special_i0"), (torch.erfinv, "erfinv")]
)
def test_a_missing_conversion_is_named_with_its_module(
    operation: Callable[[Tensor], Tensor], name: str, tmp_path: Path
) -> None:
    around = Around(Layer(operation))
    conversion = graph_of(around, {"generated": torch.rand(1, 3, 4, 4)}, "fp32")
    with pytest.raises(ConversionError, match=rf"aten\.{name}\.default, used in layer\. Replace"):
        coreml.export(conversion, tmp_path / "x.mlpackage")
    assert list(tmp_path.iterdir()) == []


def test_large_weights_are_the_same_for_all_graphs_of_a_network() -> None:
    for name, size in (("pgn-lite", 48 * 48 * 9), ("pgn-nano", 32 * 32 * 9)):
        net = pgn.load(name)
        for graph in (ProxyGraph, TargetFeatures, CachedProxy):
            assert float_size(graph(net)) == size
    assert float_size(nn.Conv2d(3, 3, 3)) == 0  # one weight, a large one


class Push(nn.Module):
    def forward(self, a: Tensor, d: Tensor, s: Tensor) -> Tensor:
        return a * d * torch.rsqrt(d * d + s)


def test_bounded_ratios_are_the_same_function_without_the_range_of_squares() -> None:
    a = torch.tensor([[0.3], [-2.0], [0.001]])
    d = torch.tensor([-500.0, -1.0, -1e-3, 0.0, 1e-5, 0.02, 479.0]).expand(3, 7)
    s = torch.tensor([[1e-6], [0.01], [1.0]])
    program = torch.export.export(Push(), (a, d, s)).run_decompositions({})
    coreml_precision.bound_ratios(program.graph_module)
    largest = []

    class Watch(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            value = super().run_node(n)
            if "mul" in n.name or "add" in n.name:
                largest.append(float(value.abs().max()))
            return value

    (found,) = Watch(program.graph_module).run(a, d, s)
    wanted = (a.double() * d / torch.sqrt(d.double() ** 2 + s)).float()
    for row in range(3):
        assert_close(found[row], wanted[row], 5e-5)
    assert max(largest[1:]) < 65504, "a square leaves float16"


def test_core_ml_needs_a_mac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    (tmp_path / "x.mlpackage").mkdir()
    with pytest.raises(RuntimeInputError, match=r"needs a Mac.*\.onnx or \.tflite"):
        backends.load(tmp_path / "x.mlpackage", 1)


class FakeModel:
    """What the backend uses of coremltools' MLModel."""

    def __init__(self, path: str, compute_units: str) -> None:
        assert compute_units == "CPU_AND_NE"
        self.path = path

    def get_compiled_model_path(self) -> str:
        if "broken" in self.path:
            raise Exception("not compiled")
        return self.path

    def get_spec(self) -> Plain:
        kind = Plain(multiArrayType=Plain(shape=[1, 3, 32, 32]))
        inputs = [Plain(name=name, type=kind) for name in ("generated", "target")]
        return Plain(description=Plain(input=inputs, output=[Plain(name="proxy")]))

    def predict(self, inputs: Arrays) -> dict[str, NDArray[np.float64]]:
        return {"proxy": (inputs["generated"] - 2.0 * inputs["target"]).astype(np.float64)}


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Mac with coremltools, as far as the backend can see."""
    fake: Any = ModuleType("coremltools")
    fake.models = Plain(MLModel=FakeModel)
    fake.ComputeUnit = Plain(CPU_AND_NE="CPU_AND_NE")
    monkeypatch.setitem(sys.modules, "coremltools", fake)
    monkeypatch.setattr(platform, "system", lambda: "Darwin")


def test_a_mac_predicts_by_name(mac: None, tmp_path: Path) -> None:
    (tmp_path / "x.mlpackage").mkdir()
    session = backends.load(tmp_path / "x.mlpackage", 1)
    assert session.inputs == dict.fromkeys(("generated", "target"), (1, 3, 32, 32))
    assert (session.outputs, session.backend) == (("proxy",), "coreml")
    generated, target = np.random.default_rng(0).random((2, 1, 3, 32, 32), dtype=np.float32)
    inputs, proxy = {"generated": generated, "target": target}, np.zeros_like(generated)
    assert session.run(inputs, {"proxy": proxy})["proxy"] is proxy
    for found in (session.run(inputs)["proxy"], proxy):
        assert found.dtype == np.float32
        assert_close(found, generated - 2.0 * target, 1e-7)
    with pytest.raises(RuntimeInputError, match=r"got float32 \(3,\) for proxy"):
        session.run(inputs, {"proxy": proxy[0, 0, 0, :3]})


def test_a_mac_without_coremltools_or_with_a_broken_package(
    mac: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.mlpackage").mkdir()
    with pytest.raises(RuntimeInputError, match="Core ML refuses .*not compiled"):
        backends.load(tmp_path / "broken.mlpackage", 1)
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(MissingBackendError, match="coremltools is not installed"):
        backends.load(tmp_path / "broken.mlpackage", 1)
