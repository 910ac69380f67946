"""`export` on real runtimes against float64 PyTorch: what it writes, and what it refuses."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import assert_close, small_network

import pgn
from pgn import PGN, ConversionError, MissingExtraError, PGNConfig, PgnError
from pgn.degrade import blur
from pgn_export import TARGETS, export, exporting, mil, parity
from pgn_export.graph import Conversion, ProxyGraph, example
from pgn_export.sizes import activation_bytes, check_size, parse_sizes
from pgn_runtime import Artifact, RuntimeInputError
from pgn_runtime.files import sha256

pytestmark = pytest.mark.filterwarnings("ignore")  # of converters and runtimes, not ours

SIZE = (48, 64)


def network(backbone: str) -> PGN:
    """A network with running statistics that folding must respect."""
    if backbone == "lite":
        return pgn.load("pgn-nano")
    torch.manual_seed(0)
    net = PGN(PGNConfig(backbone, "constrained"))
    for name, buffer in net.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
    return net.eval()


@pytest.mark.parametrize("backbone", ["resnet4", "unet"])
def test_batch_norms_are_folded_and_the_network_stays_as_it_was(backbone: str) -> None:
    net = network(backbone)
    graph = ProxyGraph(net)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in graph.modules())
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in net.modules())
    inputs = example(SIZE)
    assert_close(graph(**inputs)["proxy"], net.proxy(**inputs), 1e-5)


def judge(artifact: Artifact, net: PGN, size: tuple[int, int], limit: float) -> None:
    """The artifact's gradient against float64's, on a photo that the gate did not see so."""
    photo = parity.photos(size)[1]
    generated = blur(photo[0], 2.0)[None]
    found = artifact.gradient(generated.numpy(), photo.numpy(), mse_weight=2.0)
    wanted = net.double().gradient(generated.double(), photo.double(), mse_weight=2.0)
    net.float()
    assert_close(found, wanted, limit)


def judge_program(program: mil.Program, net: PGN) -> None:
    """The proxy of a Core ML package against float64's."""
    generated, target = parity.photos(SIZE)[:2]
    found = program.run({"generated": generated.numpy(), "target": target.numpy()})["proxy"]
    with torch.no_grad():
        wanted = net.double().proxy(generated.double(), target.double())
    assert_close(found, wanted, 5e-5)  # the network itself, in float32, is off by 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["lite", "resnet4", "unet"])
@pytest.mark.parametrize("target", TARGETS)
def test_every_target_passes_its_gate(target: str, backbone: str, tmp_path: Path) -> None:
    net = network(backbone)
    result = export(net, target, tmp_path, SIZE, name=backbone)
    assert result.path.name.startswith(f"{backbone}-48x64-fp32.")
    left_behind = {p.name for p in tmp_path.iterdir()}
    vectors = f"{backbone}-48x64-test_vectors.safetensors"
    assert left_behind == {result.path.name, vectors, "manifest.json", "MODEL_CARD.md"}
    entry = json.loads((tmp_path / "manifest.json").read_text())["artifacts"][result.path.name]
    assert entry["inputs"] == {"generated": [1, 3, 48, 64], "target": [1, 3, 48, 64]}
    assert entry["outputs"] == {"proxy": [1, 3, 48, 64]} and entry["precision"] == "fp32"
    assert {row.distance for row in result.parity} == {"far", "mid", "near"}
    assert min(row.cosine for row in result.parity) >= 0.999
    if target != "coreml":
        judge(Artifact.load(result.path), net, SIZE, 1e-3)
    else:
        judge_program(mil.load(result.path), net)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_the_targets_features_as_a_graph_of_their_own(target: str, tmp_path: Path) -> None:
    size = (43, 51)  # padded inside
    net = small_network()
    result = export(net, target, tmp_path, size, name="small", cached_target=True)
    assert result.path.stem == "small-43x51-fp32-cached"
    assert result.target_features and result.target_features.exists()
    assert min(row.cosine for row in result.parity) >= 0.999
    if target == "coreml":
        return
    artifact = Artifact.load(result.path)
    judge(artifact, net, size, 1e-3)
    changed = parity.photos(size)[2]  # another target: its features must be computed anew
    found = artifact.proxy(parity.photos(size)[0].numpy(), changed.numpy())
    assert_close(found, net.proxy(parity.photos(size)[0], changed), 1e-4)
    with pytest.raises(RuntimeInputError, match="'-cached'"):
        Artifact.load(result.target_features)


@pytest.mark.slow
def test_onnx_takes_any_batch_and_size_where_asked(tmp_path: Path) -> None:
    net = small_network()
    result = export(net, "onnx", tmp_path, SIZE, dynamic=True)
    assert result.path.name == "pgn-dynamic-fp32.onnx"
    assert result.manifest["inputs"]["target"] == ["batch", 3, "height", "width"]
    artifact = Artifact.load(result.path)
    generator = torch.Generator().manual_seed(0)
    for shape in ((1, 3, 32, 32), (3, 3, 45, 51), (2, 3, 40, 72)):
        generated, target = torch.rand(2, *shape, generator=generator)
        found = artifact.proxy(generated.numpy(), target.numpy())
        assert_close(found, net.proxy(generated, target), 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_a_batch_is_as_its_images_one_by_one(target: str, tmp_path: Path) -> None:
    result = export(small_network(), target, tmp_path, SIZE, batch=2)
    assert result.path.name.startswith("pgn-48x64-batch2-fp32")
    assert result.manifest["outputs"] == {"proxy": [2, 3, 48, 64]}


@pytest.mark.slow
def test_a_repeated_export_is_instant_and_never_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = small_network()
    first = export(net, "onnx", tmp_path, SIZE)
    real = exporting.CONVERTERS["onnx"].export
    calls = []

    def counted(conversion: Conversion, path: Path) -> None:
        calls.append(path.name)
        real(conversion, path)

    monkeypatch.setattr(exporting.CONVERTERS["onnx"], "export", counted)
    again = export(net, "onnx", tmp_path, SIZE)
    assert calls == [] and again.parity == first.parity and again.manifest == first.manifest
    first.path.write_bytes(b"changed")
    export(net, "onnx", tmp_path, SIZE)
    assert len(calls) == 1, "a changed file was taken for up to date"
    with torch.no_grad():
        net.backbone.get_parameter("convs.0.bias").add_(0.001)
    changed = export(net, "onnx", tmp_path, SIZE)
    assert len(calls) == 2 and changed.manifest["sha256"] != first.manifest["sha256"]


def fake_converter(target: str, monkeypatch: pytest.MonkeyPatch, how: Any) -> None:
    monkeypatch.setattr(exporting.CONVERTERS[target], "export", how)


def test_a_converter_that_fails_leaves_its_words_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(conversion: Conversion, path: Path) -> None:
        path.write_bytes(b"half")
        os.write(1, b"chatter")  # as native code prints
        raise RuntimeError("no such operator\nsecond line")

    fake_converter("tflite", monkeypatch, fail)
    with pytest.raises(ConversionError, match="tflite: RuntimeError: no such operator") as caught:
        export(network("lite"), "tflite", tmp_path, SIZE)
    assert caught.value.exit_code == 3
    assert [p.name for p in tmp_path.iterdir()] == ["tflite.log"]
    words = (tmp_path / "tflite.log").read_text()
    assert "chatter" in words and "second line" in words


@pytest.mark.parametrize(
    ("target", "module"),
    [("onnx", "onnxsim"), ("tflite", "litert_torch"), ("coreml", "coremltools")],
)
def test_a_missing_converter_gives_the_install_line(
    target: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r'pip install "pgn-edge\[export\]"') as caught:
        export(network("lite"), target, tmp_path, SIZE)
    assert caught.value.exit_code == 5 and list(tmp_path.iterdir()) == []


def test_unknown_target_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(PgnError, match="Did you mean 'coreml'"):
        export(network("lite"), "core-ml", tmp_path)


def test_an_output_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PgnError, match="cannot write to"):
        export(network("lite"), "onnx", tmp_path / "file" / "exports")


def test_sizes_too_small_or_over_memory_are_refused() -> None:
    net = network("lite")
    with pytest.raises(PgnError, match="at least 32"):
        check_size(net, (31, 64), 1, 2**40)
    with pytest.raises(PgnError, match=r"1 of 4096x4096 need about .* GiB"):
        check_size(net, (4096, 4096), 1, 2**30)
    with pytest.raises(PgnError, match=r"64 of 256x256 need about"):
        check_size(net, (256, 256), 64, 2**30)
    with pytest.raises(PgnError, match="--batch: got 0"):
        check_size(net, (256, 256), 0, 2**30)
    check_size(net, (256, 256), 1, 2**30)


def test_sizes_are_parsed_each_once() -> None:
    assert parse_sizes("256, 256x192,256") == [(256, 256), (256, 192)]
    for text in ("", "big", "256x", "-1", "1,,2"):
        with pytest.raises(PgnError, match="--size: got"):
            parse_sizes(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "fp8"}, "dtype: got 'fp8', expected one of fp32, fp16, int8"),
        ({"target": "tflite", "dynamic": True}, "tflite has fixed sizes only"),
        ({"dynamic": True, "cached_target": True}, "cannot be had with --cached-target"),
    ],
)
def test_impossible_combinations_are_refused_before_the_work(
    arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(PgnError, match=message):
        export(network("lite"), **{"target": "onnx", "output": tmp_path, **arguments})
    assert list(tmp_path.iterdir()) == []


def test_a_backbone_without_a_branch_of_the_targets_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PgnError, match="backbone 'unet' has no branch"):
        export(network("unet"), "onnx", tmp_path, cached_target=True)


def test_activation_bytes_scale_with_the_area_and_cover_the_features() -> None:
    net = network("lite")
    features = sum(f.numel() * 4 for f in net.backbone.features(example((256, 256))["target"]))  # type: ignore[operator]
    assert activation_bytes(net, (256, 256)) > 2 * features
    assert activation_bytes(net, (512, 256)) == 2 * activation_bytes(net, (256, 256))


@pytest.mark.slow
def test_exports_share_one_manifest_and_replace_their_own_entry(tmp_path: Path) -> None:
    net = pgn.load(pgn.save(small_network(), tmp_path / "small.safetensors"))
    export(net, "onnx", tmp_path, SIZE)
    export(net, "coreml", tmp_path, SIZE)
    first = export(net, "onnx", tmp_path, SIZE)
    artifacts = json.loads((tmp_path / "manifest.json").read_text())["artifacts"]
    assert len(artifacts) == 2
    assert artifacts[first.path.name]["sha256"] == first.manifest["sha256"]
    assert first.manifest["checkpoint_sha256"] == sha256(tmp_path / "small.safetensors")
    assert first.manifest["lambda"] == 2.0
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(RuntimeInputError, match="not readable"):
        export(net, "onnx", tmp_path, SIZE)
