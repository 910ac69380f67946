"""Exports on real runtimes against float64 PyTorch; planted faults must be rejected."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assert_close
from numpy.typing import NDArray

import pgn
from pgn import PGN, ConversionError, GateError, MissingExtraError, PGNConfig, PgnError
from pgn.degrade import blur
from pgn_export import TARGETS, coreml, export, exporting, parity
from pgn_export.graph import ProxyGraph, activation_bytes, check_size, example
from pgn_runtime import Artifact, RuntimeInputError
from pgn_runtime.files import sha256

pytestmark = pytest.mark.filterwarnings("ignore")  # of converters and runtimes, not ours

SIZE = (48, 64)
Pixels = NDArray[np.float32]


def network(backbone: str) -> PGN:
    """A network with running statistics that folding must respect."""
    if backbone == "lite":
        return pgn.load("pgn-lite")
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


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["lite", "resnet4", "unet"])
@pytest.mark.parametrize("target", TARGETS)
def test_every_target_passes_its_gate(target: str, backbone: str, tmp_path: Path) -> None:
    net = network(backbone)
    result = export(net, target, tmp_path, SIZE, backbone)
    shown = "dynamic" if target == "onnx" else "48x64"
    assert result.path.name.startswith(f"{backbone}-{shown}-fp32.")
    left_behind = {p.name for p in tmp_path.iterdir()}
    assert left_behind == {result.path.name, "manifest.json"}, "temporary files stayed"
    entry = json.loads((tmp_path / "manifest.json").read_text())["artifacts"][result.path.name]
    assert list(entry["inputs"]) == ["generated", "target"] and list(entry["outputs"]) == ["proxy"]
    if target == "coreml":
        assert result.parity == [] and "not run" in entry["parity"]
        return
    assert [row.distance for row in result.parity] == ["far", "mid", "near"]
    assert min(row.cosine for row in result.parity) >= 0.999
    artifact = Artifact.load(result.path)
    photo = parity.photos(SIZE)[1]
    generated = blur(photo[0], 2.0)[None]
    found = artifact.gradient(generated.numpy(), photo.numpy(), mse_weight=2.0)
    wanted = net.double().gradient(generated.double(), photo.double(), mse_weight=2.0)
    assert_close(found, wanted, 1e-3)


@pytest.mark.slow
def test_onnx_takes_any_batch_and_size(tmp_path: Path) -> None:
    net = network("lite")
    artifact = Artifact.load(export(net, "onnx", tmp_path, SIZE).path)
    generator = torch.Generator().manual_seed(0)
    for shape in ((1, 3, 32, 32), (3, 3, 45, 51), (2, 3, 40, 72)):
        generated, target = torch.rand(2, *shape, generator=generator)
        found = artifact.proxy(generated.numpy(), target.numpy())
        assert_close(found, net.proxy(generated, target), 1e-4)


FAULTS: dict[str, Callable[[Pixels, Pixels, Pixels], Pixels]] = {
    "sign flipped": lambda proxy, generated, target: 2 * generated - proxy,
    "zero gradient": lambda proxy, generated, target: generated,
    "scale 0.9": lambda proxy, generated, target: generated - 0.9 * (generated - proxy),
    "BGR": lambda proxy, generated, target: proxy[:, ::-1],
    "clamped": lambda proxy, generated, target: proxy.clip(0.2, 0.8),
    "rows shifted": lambda proxy, generated, target: np.roll(proxy, 1, axis=2),
    "std forgotten": lambda proxy, generated, target: generated - (generated - proxy) / 0.225,
    "mean shifted": lambda proxy, generated, target: proxy + np.float32(0.01),
    "NaN": lambda proxy, generated, target: proxy * np.float32(np.nan),
    "is the target": lambda proxy, generated, target: target,
}


@pytest.mark.parametrize("fault", [None, *FAULTS])
def test_the_gate_rejects_every_planted_fault(fault: str | None) -> None:
    net = network("lite")

    def proxy(generated: Pixels, target: Pixels) -> Pixels:
        good = net.proxy(torch.from_numpy(generated), torch.from_numpy(target)).numpy()
        return FAULTS[fault](good, generated, target) if fault else good

    passed = all(row.passed for row in parity.measure(net, proxy, SIZE))
    assert passed == (fault is None)


@pytest.mark.parametrize("factor", [3, -1])  # of the residual: too long, or the wrong way
def test_a_fault_on_one_photo_is_enough(factor: int) -> None:
    net = network("lite")
    spoilt = parity.photos(SIZE)[2].numpy()

    def proxy(generated: Pixels, target: Pixels) -> Pixels:
        good = net.proxy(torch.from_numpy(generated), torch.from_numpy(target)).numpy()
        spoil = factor if np.array_equal(target, spoilt) else 1
        spoilt_proxy: Pixels = generated - spoil * (generated - good)
        return spoilt_proxy

    assert not any(row.passed for row in parity.measure(net, proxy, SIZE))


def fake_converter(target: str, monkeypatch: pytest.MonkeyPatch, how: Any) -> None:
    monkeypatch.setattr(exporting._TARGETS[target], "export", how)


@pytest.mark.slow
def test_a_wrong_artifact_is_kept_as_rejected_and_never_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, other = network("lite"), network("lite")
    with torch.no_grad():
        other.backbone.get_parameter("convs.0.weight").mul_(-1)
    real = exporting._TARGETS["onnx"].export
    fake_converter(
        "onnx", monkeypatch, lambda graph, size, path: real(ProxyGraph(other), size, path)
    )
    with pytest.raises(GateError, match=r"gives another gradient.*\.rejected") as caught:
        export(good, "onnx", tmp_path, SIZE)
    assert caught.value.exit_code == 4
    assert [p.name for p in tmp_path.iterdir()] == ["pgn-dynamic-fp32.onnx.rejected"]


def test_a_converter_that_fails_leaves_its_words_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(graph: ProxyGraph, size: tuple[int, int], path: Path) -> None:
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
        check_size(net, (31, 64), 2**40)
    with pytest.raises(PgnError, match=r"needs about .* GiB"):
        check_size(net, (4096, 4096), 2**30)
    check_size(net, (256, 256), 2**30)


def test_activation_bytes_scale_with_the_area_and_cover_the_features() -> None:
    net = network("lite")
    features = sum(f.numel() * 4 for f in net.backbone.features(example((256, 256))["target"]))  # type: ignore[operator]
    assert activation_bytes(net, (256, 256)) > 2 * features
    assert activation_bytes(net, (512, 256)) == 2 * activation_bytes(net, (256, 256))


@pytest.mark.slow
def test_coreml_check_sees_a_wrong_size_and_half_precision(tmp_path: Path) -> None:
    import coremltools as ct

    path = export(network("lite"), "coreml", tmp_path, SIZE).path
    coreml.check(path, SIZE)
    with pytest.raises(RuntimeError, match="interface"):
        coreml.check(path, (64, 64))

    class Half(torch.nn.Module):
        def forward(self, generated: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return generated * 0.5 + target

    inputs = example(SIZE)
    program = torch.export.export(Half(), (), inputs).run_decompositions({})
    model = ct.convert(
        program,
        inputs=[ct.TensorType(name, shape=inputs[name].shape) for name in inputs],
        outputs=[ct.TensorType("proxy", dtype=np.float32)],
        compute_precision=ct.precision.FLOAT16,
        minimum_deployment_target=ct.target.iOS16,
        skip_model_load=True,
    )
    model.save(str(tmp_path / "half.mlpackage"))
    with pytest.raises(RuntimeError, match="float16"):
        coreml.check(tmp_path / "half.mlpackage", SIZE)


@pytest.mark.slow
def test_exports_share_one_manifest_and_replace_their_own_entry(tmp_path: Path) -> None:
    net = network("lite")
    export(net, "onnx", tmp_path, SIZE)
    export(net, "tflite", tmp_path, SIZE)
    first = export(net, "onnx", tmp_path, SIZE)
    artifacts = json.loads((tmp_path / "manifest.json").read_text())["artifacts"]
    assert len(artifacts) == 2
    assert artifacts[first.path.name]["sha256"] == first.manifest["sha256"]
    assert first.manifest["checkpoint_sha256"] == sha256(pgn.load("pgn-lite").source or Path())
    assert first.manifest["lambda"] == 2.0
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(RuntimeInputError, match="not readable"):
        export(net, "onnx", tmp_path, SIZE)
