"""TFLite files in LiteRT and TensorFlow against the float64 network; what they store, and where."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_close
from tflite_files import METADATA, TYPES, Converted, Pixels, Unsupported, Upsampled

import pgn
from pgn import PGN, ConversionError, MissingExtraError, PGNConfig, PgnError
from pgn_export import tflite
from pgn_export.graph import (
    CachedProxy,
    Conversion,
    Graph,
    ProxyGraph,
    TargetFeatures,
    example,
    trace,
)
from pgn_export.parity import GATES, cases, measure

pytest.importorskip("litert_torch", reason="litert-torch exists for Linux only")
precision = pytest.importorskip("pgn_export.tflite_precision")

pytestmark = pytest.mark.filterwarnings("ignore")  # of converters and runtimes, not ours

SIZE = (48, 64)
Convert = Callable[[str, str], Converted]


@pytest.fixture(scope="module")
def net() -> PGN:
    return pgn.load("pgn-nano")


@pytest.fixture(scope="module")
def converted(net: PGN, tmp_path_factory: pytest.TempPathFactory) -> Convert:
    """Converts one of the network's graphs to a dtype, once."""
    folder = tmp_path_factory.mktemp("tflite")
    images = example(SIZE)
    features = trace(TargetFeatures(net), {"target": images["target"]})
    cached = {"generated": images["generated"], **features.outputs}
    graphs: dict[str, Callable[[], Graph]] = {
        "proxy": lambda: trace(ProxyGraph(net), images),
        "target_features": lambda: features,
        "cached": lambda: trace(CachedProxy(net), cached),
    }
    made: dict[tuple[str, str], Converted] = {}

    def convert(kind: str, dtype: str) -> Converted:
        if (kind, dtype) not in made:
            path = folder / f"{kind}-{dtype}.tflite"
            made[kind, dtype] = Converted(graphs[kind](), dtype, path)
        return made[kind, dtype]

    return convert


def check_gate(net: PGN, dtype: str, proxy: Callable[[Pixels, Pixels], Pixels]) -> None:
    for row in measure("LiteRT", proxy, cases(net, SIZE)):
        assert row.passes(GATES[dtype]), f"{dtype}: {row}"
        assert dtype != "fp16" or row.cosine >= 0.9999, f"{dtype}: {row}"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", tflite.DTYPES)
def test_the_residual_is_the_networks(net: PGN, converted: Convert, dtype: str) -> None:
    check_gate(net, dtype, converted("proxy", dtype).proxy)


@pytest.mark.slow
def test_int8_features_of_the_target_fit_the_int8_graph_that_takes_them(
    net: PGN, converted: Convert
) -> None:
    of_target, cached = converted("target_features", "int8"), converted("cached", "int8")

    def proxy(generated: Pixels, target: Pixels) -> Pixels:
        return cached.run(generated=generated, **of_target.run(target=target))["proxy"]

    check_gate(net, "int8", proxy)


@pytest.mark.slow
def test_small_first_layers_stay_float32_and_int8_activations_come_behind_the_difference(
    converted: Convert,
) -> None:
    """nano: 7 convolutions for each image, then 7 of the transposed pass, the largest first."""
    up = [432, 4608, 9216, 13824, 20736, 20736, 27648]
    for dtype, stored, behind in (
        ("fp32", "FLOAT32 direct", "FLOAT32 direct"),
        ("fp16", "FLOAT16", "FLOAT16"),
        ("int8", "INT8", "INT8 direct"),
    ):
        kept = [("FLOAT32 direct", size) for size in up[:3]]
        features = kept + [(stored, size) for size in up[3:]]
        down = [(behind, size) for size in reversed(up)]
        # the branches may come in either order, the transposed pass comes last
        assert converted("proxy", dtype).weights() == 2 * features + down, dtype


def test_layers_of_one_size_are_kept_together_or_not_at_all() -> None:
    def largest_kept(*sizes: int) -> int:
        layers = [precision.Layer("", "CONV_2D", k, size, False) for k, size in enumerate(sizes)]
        behind = precision.Layer("", "CONV_2D", len(sizes), 1, True)
        return int(precision._largest_kept([*layers, *layers[:1], behind]))

    assert largest_kept(100, 5, 10) == 10  # 15 of 115; the shared first layer counts once
    assert largest_kept(1, *[10] * 9) == 1  # one of the nine alone would fit
    assert largest_kept(*[10] * 9) == 0
    assert largest_kept() == 0


@pytest.mark.slow
def test_int8_weights_have_a_scale_a_channel(converted: Convert) -> None:
    file = converted("proxy", "int8")
    scales = {
        (len(tensor.quantization.scale), tensor.shape[0])
        for tensor in file.tensors
        if TYPES[tensor.type] == "INT8"
    }
    assert scales and all(count == channels for count, channels in scales)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", tflite.DTYPES)
def test_inputs_outputs_and_names_are_the_same_in_every_dtype(
    converted: Convert, dtype: str
) -> None:
    file = converted("proxy", dtype)
    graph = file.model.subgraphs[0]
    assert [file.tensors[k].name for k in graph.inputs] == [b"generated", b"target"]
    assert [file.tensors[k].name for k in graph.outputs] == [b"proxy"]
    for index in (*graph.inputs, *graph.outputs):
        assert TYPES[file.tensors[index].type] == "FLOAT32"
        assert list(file.tensors[index].shape) == [1, 3, *SIZE]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", tflite.DTYPES)
def test_metadata_is_read_back(converted: Convert, dtype: str) -> None:
    model = converted("proxy", dtype).model
    found = {entry.name.decode(): model.buffers[entry.buffer].data for entry in model.metadata}
    assert {key: bytes(found[key]).decode() for key in METADATA} == METADATA


@pytest.mark.slow
@pytest.mark.parametrize("dtype", tflite.DTYPES)
def test_xnnpack_takes_the_whole_graph_as_one(converted: Convert, dtype: str) -> None:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(converted("proxy", dtype).path), num_threads=1)
    interpreter.allocate_tensors()  # XNNPACK takes what it can now
    names = Counter(entry["op_name"] for entry in interpreter._get_ops_details())
    assert names["DELEGATE"] == 1, names
    assert not names["RESIZE_NEAREST_NEIGHBOR"]


@pytest.mark.slow
def test_files_shrink(converted: Convert) -> None:
    full, half, quarter = (
        converted("proxy", dtype).path.stat().st_size for dtype in ("fp32", "fp16", "int8")
    )
    assert half < 0.6 * full and quarter < 0.38 * full


@pytest.mark.slow
@pytest.mark.parametrize("factor", [2, 3])
def test_nearest_upsampling_is_exact(factor: int, tmp_path: Path) -> None:
    images = torch.rand(1, 3, 10, 14)
    module = Upsampled(factor)
    file = Converted(trace(module, {"generated": images}), "fp32", tmp_path / "up.tflite")
    names = [name for name, _ in file.operations()]
    assert ("RESIZE_NEAREST_NEIGHBOR" in names) == (factor != 2)
    assert_close(file.run(generated=images.numpy())["proxy"], module(images)["proxy"], 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet8", "unet"])
def test_networks_without_a_difference_get_int8_weights_only(backbone: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    free = PGN(PGNConfig(backbone, "constrained")).eval()
    file = Converted(trace(ProxyGraph(free), example(SIZE)), "int8", tmp_path / "free.tflite")
    stored = {kind for kind, _ in file.weights()}
    assert stored == {"FLOAT32 direct", "INT8"}
    check_gate(free, "int8", file.proxy)


EXPORT = """
import json, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import pgn
from pgn_export import tflite
from pgn_export.graph import Conversion, ProxyGraph, example, trace
graph = trace(ProxyGraph(pgn.load("pgn-nano")), example((48, 64)))
tflite.export(Conversion(graph, "int8", metadata=json.loads(sys.argv[2])), Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_another_process_writes_the_same_bytes(converted: Convert, tmp_path: Path) -> None:
    path = tmp_path / "again.tflite"
    metadata = json.dumps(dict(reversed(METADATA.items())))
    command = [sys.executable, "-c", EXPORT, str(path), metadata]
    subprocess.run(
        command, env={**os.environ, "PYTHONHASHSEED": "1"}, check=True, capture_output=True
    )
    assert path.read_bytes() == converted("proxy", "int8").path.read_bytes()


@pytest.mark.slow
def test_a_lacking_operation_is_named_with_its_module(tmp_path: Path) -> None:
    images = {"generated": torch.rand(1, 3, 8, 8)}
    wanted = r"tflite: no conversion for aten\.lgamma\.default, used in backbone\.1\. "
    with pytest.raises(ConversionError, match=wanted) as caught:
        tflite.export(Conversion(trace(Unsupported(), images)), tmp_path / "never.tflite")
    assert caught.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("platform", "kind"), [("linux", MissingExtraError), ("darwin", PgnError)])
def test_a_missing_converter_is_said(
    platform: str, kind: type[PgnError], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    graph = trace(Upsampled(), {"generated": torch.rand(1, 3, 8, 8)})
    monkeypatch.setitem(sys.modules, "litert_torch", None)
    monkeypatch.setattr(sys, "platform", platform)
    with pytest.raises(kind, match=r"litert.torch") as caught:
        tflite.export(Conversion(graph), tmp_path / "never.tflite")
    assert type(caught.value) is kind


TENSORFLOW = """
import sys
import numpy as np
import tensorflow
inputs, *files = sys.argv[1:]
for file in files:
    runner = tensorflow.lite.Interpreter(file).get_signature_runner()
    np.save(file + ".npy", runner(**np.load(inputs))["proxy"])
"""


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("tensorflow"), reason="tensorflow is not installed")
def test_tensorflows_interpreter_gives_the_same(
    net: PGN, converted: Convert, tmp_path: Path
) -> None:
    """In a process of its own: what tensorflow and torch load does not always go together."""
    generated, target = (image.numpy() for image in cases(net, SIZE)[0].inputs())
    np.savez(tmp_path / "inputs.npz", generated=generated, target=target)
    files = {dtype: converted("proxy", dtype) for dtype in tflite.DTYPES}
    paths = [str(file.path) for file in files.values()]
    command = [sys.executable, "-c", TENSORFLOW, str(tmp_path / "inputs.npz"), *paths]
    subprocess.run(command, check=True, capture_output=True)
    for dtype, file in files.items():
        found = np.load(f"{file.path}.npy")
        assert_close(found, file.proxy(generated, target), 1e-3 if dtype == "int8" else 1e-5)
