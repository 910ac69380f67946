"""`verify`, `doctor`, `import`: what changed after an export is named; nothing leads outside."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import assert_close
from test_checkpoint import official
from typer.testing import CliRunner

import pgn
from pgn import PgnError
from pgn_export import doctor, export, parity, vectors
from pgn_export.cli import app
from pgn_export.verify import Verdict, verify
from pgn_runtime.files import sha256

pytestmark = pytest.mark.filterwarnings("ignore")  # of converters and runtimes, not ours

SIZE = (48, 64)
NAME = "nano-48x64-fp32.onnx"
CACHED = "nano-48x64-fp32-cached.onnx"
FEATURES = "nano-48x64-fp32-target_features.onnx"
VECTORS = "nano-48x64-test_vectors.safetensors"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports")
    net = pgn.load("pgn-nano")
    export(net, "onnx", folder, SIZE, name="nano")
    export(net, "onnx", folder, SIZE, name="nano", cached_target=True)
    return folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "exports"))


def problems(found: list[Verdict]) -> dict[str, str]:
    return {verdict.name: verdict.problem for verdict in found if verdict.problem}


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.slow
def test_what_was_not_touched_is_as_its_manifest_says(folder: Path) -> None:
    found = verify(folder)
    assert problems(found) == {} and {verdict.name for verdict in found} == {NAME, CACHED, FEATURES}
    measured = {verdict.name: verdict.parity for verdict in found}
    assert [row.distance for row in measured[CACHED]] == ["far", "mid", "near"]
    assert min(row.cosine for row in measured[NAME]) > 0.9999
    card = (folder / "MODEL_CARD.md").read_text()
    assert all(name in card for name in (NAME, CACHED, FEATURES)) and "licence" in card


@pytest.mark.slow
@pytest.mark.parametrize("name", [NAME, FEATURES, VECTORS])
def test_a_changed_or_missing_file_is_named(folder: Path, name: str) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes() + b"\0")
    told = problems(verify(folder))
    assert told and all(f"{name} was changed" in problem for problem in told.values())
    assert (CACHED in told) == (name != NAME), "the cached graph rests on its target's features"
    path.unlink()
    assert all(f"{name} is missing" in problem for problem in problems(verify(folder)).values())


@pytest.mark.slow
def test_another_network_under_the_right_hash_is_another_gradient(folder: Path) -> None:
    net = pgn.load("pgn-nano")
    with torch.no_grad():
        net.backbone.get_parameter("transposed.0.weight").mul_(0.9)
    other = export(net, "onnx", folder.parent / "other", SIZE, name="nano")
    shutil.copy(other.path, folder / NAME)
    edit(folder, lambda manifest: manifest["artifacts"][NAME].update(sha256=sha256(other.path)))
    found = problems(verify(folder))
    assert list(found) == [NAME] and "another gradient" in found[NAME]
    assert "norm ratio 0.9000 (far, in ONNX Runtime)" in found[NAME]


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry.update(test_vectors="../secret.safetensors"),
        lambda entry: entry.update(target_features="/etc/passwd"),
        lambda entry: entry.update(precision="fp99"),
        lambda entry: entry.update(target=["onnx"]),
        lambda entry: entry.pop("sha256"),
    ],
)
def test_a_manifest_that_was_tampered_with_is_told_and_nothing_else_is_opened(
    folder: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    edit(folder, lambda manifest: change(manifest["artifacts"][NAME]))
    assert NAME in problems(verify(folder))


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PgnError, match="has no manifest.json"):
        verify(tmp_path)


@pytest.mark.slow
def test_the_command_exits_with_4_and_prints_json(folder: Path) -> None:
    runner = CliRunner()
    done = runner.invoke(app, ["verify", str(folder), "--json"])
    assert done.exit_code == 0 and len(json.loads(done.stdout)) == 3
    (folder / NAME).write_bytes(b"x")
    done = runner.invoke(app, ["verify", str(folder)])
    assert getattr(done.exception, "exit_code", None) == 4 and "was changed" in done.stdout


def test_vectors_survive_a_round_trip(tmp_path: Path) -> None:
    cases = parity.cases(pgn.load("pgn-nano"), SIZE)
    vectors.save(cases, tmp_path / "v.safetensors")
    kept = vectors.load(tmp_path / "v.safetensors")
    assert [case.distance for case in kept] == ["far", "mid", "near"]
    for case in kept:
        generated, target = case.inputs()
        wanted = pgn.load("pgn-nano").double().proxy(generated.double(), target.double())
        assert_close(case.proxy, wanted[..., ::4, ::4], 1e-6)
        found, right = case.residuals(wanted)
        assert_close(found, right, 1e-4)
    assert len({float(case.target.float().mean()) for case in kept}) == 3, "one photo thrice"
    (tmp_path / "v.safetensors").write_bytes(b"no vectors")
    with pytest.raises(PgnError, match="is not readable"):
        vectors.load(tmp_path / "v.safetensors")


def test_the_doctor_names_what_is_missing_and_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert all(row.works for row in doctor.diagnose())
    real = importlib.util.find_spec
    gone = {"onnxsim", "litert_torch"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in gone else real(name)
    )
    found = {row.target: row for row in doctor.diagnose()}
    assert not found["onnx"].works and "missing: onnxsim" in found["onnx"].advice
    assert 'pip install "pgn-edge[export]"' in found["onnx"].advice
    assert not found["tflite"].works and found["coreml"].works
    assert found["tflite"].proved_in == [] and "MIL interpreter" in found["coreml"].proved_in
    printed = CliRunner().invoke(app, ["doctor", "--json"]).stdout
    assert [row["target"] for row in json.loads(printed)["targets"]] == ["onnx", "tflite", "coreml"]


def test_an_official_checkpoint_is_converted_once(tmp_path: Path) -> None:
    old, new = tmp_path / "old.pth", tmp_path / "new.safetensors"
    torch.save(official(0), old)
    done = CliRunner().invoke(app, ["import", str(old), "-o", str(new), "--head", "direct"])
    assert done.exit_code == 0 and done.stdout.strip() == str(new)
    assert pgn.load(new).config == pgn.load(old, head="direct").config
