"""Packs: what is read, what is refused, and that a pack's self-test sees another step."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import IN_PLACE_OF_A_FILE, refused, ring

pytest.importorskip("onnx", reason="the extra export is not installed")

from packs import GIVEN, TRAINED, seal, write_pack
from safetensors.numpy import load_file, save_file

from pgn_runtime import RuntimeInputError
from pgn_runtime.artifact import MANIFEST
from pgn_runtime.graphs import Graphs
from pgn_runtime.pack import SELFTEST, WEIGHTS, read_pack
from pgn_runtime.selftest import self_test


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pack(tmp_path_factory.mktemp("packs") / "tiny.pgnpack")


@pytest.fixture
def pack(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "tiny.pgnpack"))


def manifest(pack: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((pack / MANIFEST).read_text())
    return found


def adapt(pack: Path, **changes: Any) -> None:
    """As an attacker would: with the hashes made those of the files."""
    seal(pack, manifest(pack) | changes)


def run(pack: Path) -> None:
    """All that a fit does with a pack before its first step."""
    opened = read_pack(pack)
    graphs = Graphs(opened, opened.backend(None), threads=1)
    graphs.tensor_shapes()
    self_test(graphs)


def test_a_pack_is_what_its_manifest_says(pack: Path) -> None:
    found = read_pack(pack)
    assert (found.name, found.size, found.microbatch) == ("tiny", (32, 32), 1)
    assert (found.trained, found.given) == (tuple(TRAINED), tuple(GIVEN))
    assert found.backend(None) == found.backend("onnxruntime") == "onnxruntime"
    assert found.digest == read_pack(str(pack)).digest
    adapt(pack, steps=13)
    assert found.digest != read_pack(pack).digest
    run(pack)


@pytest.mark.parametrize("name", ["gradient.onnx", "update.onnx", WEIGHTS, SELFTEST])
def test_a_file_that_is_changed_cut_off_or_missing_is_named(name: str, pack: Path) -> None:
    content = (pack / name).read_bytes()
    for spoiled in (content[:-1], content[: len(content) // 2], b"", b"\0" + content[1:]):
        (pack / name).write_bytes(spoiled)
        with refused(rf"pack: .*{name} was changed or cut off.*Copy the pack again"):
            run(pack)
    (pack / name).unlink()
    with refused(rf"pack: .*{name} is missing: the pack is not whole"):
        run(pack)


@pytest.mark.parametrize("spoil", IN_PLACE_OF_A_FILE)
@pytest.mark.parametrize("name", [MANIFEST, "gradient.onnx", WEIGHTS])
def test_what_stands_in_place_of_a_file_is_refused(
    spoil: Callable[[Path], None], name: str, pack: Path
) -> None:
    spoil(pack / name)
    with refused("pack: |file: " if spoil is not ring else "no manifest.json|is missing"):
        run(pack)


@pytest.mark.parametrize("version", [2, "1", None])
def test_another_version_of_the_format_is_refused(version: Any, pack: Path) -> None:
    adapt(pack, schema=version)
    with refused(f"is of version {version!r} of the format, this runtime reads 1"):
        run(pack)


def test_what_is_no_pack_is_refused_with_the_command_that_makes_one(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "gone", tmp_path / ("x" * 500)):
        with refused("expected a folder NAME.pgnpack. Make one: pgn-export avatar"):
            read_pack(folder)
    (tmp_path / MANIFEST).write_text('{"schema": 1, "artifacts": {}}')
    with refused("is no pack's manifest"):
        read_pack(tmp_path)


MANIFESTS = {
    "empty": ("", "not readable"),
    "no object": ("[]", "no pack's manifest"),
    "too deep": ("[" * 100_000, "not readable"),
    "digits": ('{"schema": ' + "9" * 5000 + "}", "not readable"),
    "nothing but its kind": ('{"schema": 1, "kind": "pack"}', "is damaged"),
}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_manifest_of_other_parts_is_refused(kind: str, pack: Path) -> None:
    text, message = MANIFESTS[kind]
    (pack / MANIFEST).write_text(text)
    with refused(message):
        run(pack)


@pytest.mark.parametrize(
    ("key", "values"),
    {
        "size": [None, 32, [32], [32, 33], [0, 0], [32.0, 32.0], [True, True], [10**9, 10**9]],
        "microbatch": [0, -1, 1.5, "1", None, 10**9],
        "condition": [None, "sound", ["image"]],
        "trainable": [None, [], {}, {"parameters": []}, {"parameters": [3]}, {"parameters": "ab"}],
        "given": [None, 3, ["scale"], [[]]],
        "learning_rate": [0, -1, None, "x", [], float("nan"), 1e999, 10**400],
        "steps": [0, None, 1.5, 10**9],
        "graphs": [None, [], ["gradient", "update"], "gradient", [None]],
        "targets": [None, [], {}, {"onnx": None}, {"onnx": {}}, {"onnx": {"suffix": 3}}, {"x": {}}],
    }.items(),
)
def test_parts_of_other_types_and_values_are_refused(
    key: str, values: list[Any], pack: Path
) -> None:
    for value in values:
        adapt(pack, **{key: value})
        with refused(r"pack: .*is damaged|lists no|takes|fails"):
            run(pack)


@pytest.mark.parametrize("files", [None, 3, ["gradient.onnx"], {"gradient.onnx": None}, {}])
def test_a_list_of_files_of_another_type_is_refused(files: Any, pack: Path) -> None:
    content = manifest(pack) | {"files": files}
    (pack / MANIFEST).write_text(json.dumps(content))
    with refused("is damaged|lists no|was changed"):
        run(pack)


@pytest.mark.parametrize(
    "suffix", ["/../../secret.onnx", "/etc/passwd", "\0", "x" * 5000, "", ".tflite"]
)
def test_nothing_outside_of_the_pack_is_opened(
    suffix: str, pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(pack / "gradient.onnx", pack.parent / "secret.onnx")
    adapt(pack, targets={"onnx": {"suffix": suffix}})
    opened: list[Path] = []
    real = Path.open

    def watched(path: Path, *arguments: Any, **options: Any) -> Any:
        opened.append(path.resolve())
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", watched)
    with pytest.raises(RuntimeInputError, match="leads out|lists no"):
        run(pack)
    assert opened and all(path.parent == pack.resolve() for path in opened)


def test_a_backend_that_the_pack_is_not_for_is_refused(pack: Path) -> None:
    with refused("got litert, but .* is for onnxruntime. Take that, or export"):
        read_pack(pack).backend("litert")


def test_the_first_backend_that_is_installed_is_taken(
    pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = {"tflite": {"suffix": ".tflite"}, "onnx": {"suffix": ".onnx"}}
    adapt(pack, targets=both)
    for absent, wanted in ((set(), "litert"), ({"ai_edge_litert"}, "onnxruntime")):
        found = {"onnxruntime", "ai_edge_litert"} - absent
        monkeypatch.setattr(
            "pgn_runtime.pack.find_spec", lambda name, found=found: name if name in found else None
        )
        assert read_pack(pack).backend(None) == wanted
    adapt(pack, targets={"coreml": {"suffix": ".mlpackage"}, "onnx": {"suffix": ".onnx"}})
    monkeypatch.setattr("pgn_runtime.pack.find_spec", lambda name: name)
    monkeypatch.setattr("platform.system", lambda: "Linux")
    assert read_pack(pack).backend(None) == "onnxruntime", "Core ML is on a Mac only"


@pytest.mark.parametrize(
    ("backend", "package"), [("onnxruntime", "onnxruntime"), ("litert", "ai-edge-litert")]
)
def test_a_runtime_tells_its_version(backend: str, package: str, written: Path) -> None:
    try:
        wanted = f"{backend} {version(package)}"
    except PackageNotFoundError:
        pytest.skip(f"{package} is not installed")
    assert Graphs(read_pack(written), backend, 1).runtime == wanted


def test_core_ml_comes_with_the_system(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.mac_ver", lambda: ("15.1", ("", "", ""), "arm64"))
    assert Graphs(read_pack(written), "coreml", 1).runtime == "Core ML of macOS 15.1"


def test_a_graph_that_takes_what_there_is_not_is_named(pack: Path) -> None:
    shutil.copy(pack / "gradient.onnx", pack / "prefix.onnx")
    adapt(pack)
    with refused("prefix of .* takes sum_of_scale of shape .* there is none. Export it again"):
        run(pack)


def test_graphs_of_other_parameters_are_refused(pack: Path) -> None:
    adapt(pack, trainable={"parameters": ["scale"]}, given=["tint"])
    with refused("render of .* takes other parameters than its manifest says .*value_of_bias"):
        run(pack)
    adapt(pack, trainable={"parameters": [*TRAINED, "tint"]}, given=[])
    with refused("update of .* takes other parameters than its manifest says .*mean_of_tint"):
        run(pack)


def test_values_that_nobody_gives_are_named(pack: Path) -> None:
    save_file({}, pack / WEIGHTS)
    adapt(pack)
    with refused("gives no first value_of_scale of shape"):
        run(pack)


def spoilt_test(pack: Path, name: str, change: Callable[[Any], Any]) -> None:
    tensors = load_file(pack / SELFTEST)
    tensors[name] = np.ascontiguousarray(change(tensors[name]))
    save_file(tensors, pack / SELFTEST)
    adapt(pack)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("generated", lambda image: image + np.float32(0.01), "fails the self-test.*generated is"),
        ("mse", lambda mse: mse * np.float32(1.1), "fails the self-test.*mse is"),
        ("new_sum_of_scale", lambda g: -g, "fails the self-test.*gradient is"),
        ("new_sum_of_bias", lambda g: g[:2], "gradient has shape"),
        ("generated", lambda image: image[..., :5], "generated has shape"),
        ("photo", lambda image: image[..., :5], "takes photo of shape"),
        ("photo", lambda image: image.astype(np.float64), "of type float64"),
        ("condition", lambda image: image * np.float32(np.nan), "or NaN"),
    ],
)
def test_another_first_step_is_seen(
    name: str, change: Callable[[Any], Any], message: str, pack: Path
) -> None:
    spoilt_test(pack, name, change)
    with refused(message):
        run(pack)


def test_an_update_of_another_rule_is_seen(pack: Path) -> None:
    """Its graph has the arithmetic of Adam, but goes the other way."""
    graph = pack / "update.onnx"
    content = graph.read_bytes()
    assert content.count(b"Sub") == len(TRAINED)
    graph.write_bytes(content.replace(b"Sub", b"Add"))
    adapt(pack)
    with refused("fails the self-test.*update is off"):
        run(pack)


def test_a_test_without_its_parts_is_refused(pack: Path) -> None:
    tensors = load_file(pack / SELFTEST)
    for name in tensors:
        save_file({key: value for key, value in tensors.items() if key != name}, pack / SELFTEST)
        adapt(pack)
        with pytest.raises(RuntimeInputError, match=f"holds no {name}"):
            run(pack)
