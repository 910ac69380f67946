"""Hostile and damaged exports: manifests, graphs, test vectors, packages."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import (
    IN_PLACE_OF_A_FILE,
    MANIFEST,
    NAME,
    OURS,
    SECONDS,
    VECTORS,
    pipe,
    refused,
    ring,
)
from hostile_export import adapt, rebuild, write_export
from safetensors.torch import load_file, save_file

from pgn_export import manifest, vectors
from pgn_export.verify import verify
from pgn_runtime import Artifact
from pgn_runtime.artifact import read_manifest
from pgn_runtime.files import sha256


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports")
    write_export(folder)
    return folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "exports"))


def run(folder: Path) -> Any:
    """The artifact's proxy of noise, through the runtime."""
    generated, target = np.random.default_rng(1).random((2, 1, 3, 48, 64), dtype=np.float32)
    return Artifact.load(folder / NAME, threads=1).proxy(generated, target)


def problem(folder: Path) -> str:
    (verdict,) = verify(folder)
    return verdict.problem


def test_what_was_not_touched_runs(folder: Path) -> None:
    assert run(folder).shape == (1, 3, 48, 64)
    assert problem(folder) == ""


@pytest.mark.parametrize("door", [run, problem, read_manifest])
@pytest.mark.parametrize("spoil", IN_PLACE_OF_A_FILE)
def test_what_stands_in_place_of_a_manifest_is_refused(
    spoil: Callable[[Path], None], door: Callable[[Path], Any], folder: Path
) -> None:
    if spoil is ring and door is read_manifest:
        pytest.skip("a link to nothing is no manifest, and a folder may have none")
    spoil(folder / MANIFEST)
    with refused("manifest|file: "):
        door(folder)


MANIFESTS = {
    "empty": "",
    "null": "null",
    "list": "[]",
    "too deep": "[" * 100_000,
    "deep": '{"schema": 1, "artifacts": ' + "[" * 900 + "]" * 900 + "}",
    "no artifacts": '{"schema": 1}',
    "a list of artifacts": '{"schema": 1, "artifacts": []}',
    "a null entry": '{"schema": 1, "artifacts": {"mean.onnx": null}}',
    "twice": '{"schema": 1, "artifacts": {"mean.onnx": {}}, "artifacts": {"mean.onnx": 3}}',
    "a list of hashes": '{"schema": 1, "artifacts": {"mean.onnx": {}}, "test_vectors": ["x"]}',
    "digits": '{"schema": ' + "9" * 5000 + ', "artifacts": {}}',
    "not a number": '{"schema": NaN, "artifacts": {}}',
    "long": '{"schema": "' + "x" * 10**6 + '", "artifacts": {}}',
}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_manifest_of_other_parts_is_refused(kind: str, folder: Path) -> None:
    (folder / MANIFEST).write_text(MANIFESTS[kind])
    with refused("manifest: "):
        read_manifest(folder)


def test_a_manifest_that_is_no_text_is_refused(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b'{"schema": "\xff"}')
    with refused("no UTF-8"):
        read_manifest(folder)


@pytest.mark.parametrize(
    "alpha", [None, "40", [], 0, -1, pytest.param(10**400, id="huge"), float("nan"), 1e999]
)
def test_an_entry_of_no_alpha_is_refused(alpha: Any, folder: Path) -> None:
    adapt(folder, alpha=alpha)
    with refused("no valid entry"):
        run(folder)


@pytest.mark.parametrize("outputs", [None, 3, [], "proxy", ["proxy"]])
def test_an_entry_of_no_outputs_is_refused(outputs: Any, folder: Path) -> None:
    adapt(folder, outputs=outputs)
    with refused("no valid entry"):
        run(folder)


OUTSIDE = ["..", "../secret.onnx", "/etc/passwd", "a/../b", ".", "./mean.onnx", "\0", "x" * 5000]
OF_OTHER_TYPES = [3, ["a"], {"a": 1}, True, 1e999]


@pytest.mark.parametrize("field", ["target_features", "test_vectors"])
@pytest.mark.parametrize("name", [*OUTSIDE, *OF_OTHER_TYPES])
def test_nothing_outside_of_the_folder_is_opened(
    name: Any, field: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = folder.parent / "secret.onnx"
    shutil.copy(folder / NAME, secret)
    adapt(folder, **{field: name})
    opened: list[Path] = []
    real = Path.open

    def watched(path: Path, *arguments: Any, **options: Any) -> Any:
        opened.append(path.resolve())
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", watched)
    assert problem(folder) != ""
    if field == "target_features":
        with pytest.raises(OURS, match="leads out|does not list"):
            run(folder)
    assert opened and all(path.parent == folder.resolve() for path in opened)


@pytest.mark.parametrize("name", ["..", "../exports/mean.onnx", "/etc/passwd", "", "\0"])
def test_an_entry_that_is_named_outside_of_the_folder_is_told(name: str, folder: Path) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    content["artifacts"] = {name: content["artifacts"][NAME]}
    (folder / MANIFEST).write_text(json.dumps(content))
    assert "leads out of the folder" in problem(folder) or "missing" in problem(folder)


@pytest.mark.parametrize("name", [NAME, VECTORS])
@pytest.mark.parametrize("spoil", IN_PLACE_OF_A_FILE)
def test_what_stands_in_place_of_an_artifact_is_never_waited_for(
    spoil: Callable[[Path], None], name: str, folder: Path
) -> None:
    """Its hash is that of nothing, which a careless hash would give a pipe."""
    (folder / "empty").touch()
    of_nothing = sha256(folder / "empty")
    content = json.loads((folder / MANIFEST).read_text())
    content["artifacts"][NAME]["sha256"] = content["test_vectors"][VECTORS] = of_nothing
    (folder / MANIFEST).write_text(json.dumps(content))
    spoil(folder / name)
    start = time.monotonic()
    assert problem(folder) != ""
    with refused("model|manifest|file: "):
        run(folder)
    assert time.monotonic() - start < SECONDS


def test_a_changed_graph_is_never_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / NAME).write_bytes((folder / NAME).read_bytes() + b"\0")
    monkeypatch.setattr("pgn_runtime.backends.load", lambda *_: pytest.fail("it was opened"))
    assert "was changed" in problem(folder)
    with refused("was changed after its export"):
        run(folder)


@pytest.mark.parametrize(
    ("outputs", "inputs", "message"),
    [
        (["other"], ["generated", "target"], "takes .* and gives other"),
        (["proxy"], ["generated"], "takes generated and gives proxy"),
        (["proxy"], ["a", "b"], "takes a, b and gives proxy"),
    ],
)
def test_a_graph_of_another_interface_is_refused(
    outputs: list[str], inputs: list[str], message: str, folder: Path
) -> None:
    rebuild(folder, "Mean", inputs, outputs, (1, 3, 48, 64))
    with refused(message):
        run(folder)
    assert problem(folder) != ""


@pytest.mark.parametrize(
    ("operator", "shape", "message"),
    [("Mean", (1, 3, 64), "takes"), ("Sub", (3, 48, 64), "takes"), ("Div", None, "not finite")],
)
def test_a_graph_that_gives_no_proxy_is_refused(
    operator: str, shape: tuple[int, ...] | None, message: str, folder: Path
) -> None:
    rebuild(folder, operator, ["generated", "target"], ["proxy"], shape or (1, 3, 48, 64))
    generated, target = np.zeros((2, 1, 3, 48, 64), np.float32)  # 0 / 0
    with refused(message):
        Artifact.load(folder / NAME, threads=1).proxy(generated, target)
    assert problem(folder) != ""


@pytest.mark.parametrize("spoil", IN_PLACE_OF_A_FILE)
def test_what_stands_in_place_of_test_vectors_is_refused(
    spoil: Callable[[Path], None], folder: Path
) -> None:
    spoil(folder / VECTORS)
    with refused("test vectors: .* is not readable"):
        vectors.load(folder / VECTORS)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop("share"),
        lambda t: t.update(share=t["share"][:2]),
        lambda t: t.update(share=t["share"][0]),
        lambda t: t.update(share=t["share"].double()),
        lambda t: t.update(target=t["target"].int()),
        lambda t: t.update(target=t["target"][:, :, :2]),
        lambda t: t.update(blurred=t["blurred"][0]),
        lambda t: t.update(proxy=t["proxy"].to(torch.float8_e4m3fn)),
        lambda t: t.update(proxy=t["proxy"][..., 1:]),
        lambda t: t.clear(),
    ],
)
def test_test_vectors_of_other_tensors_are_refused(
    change: Callable[[dict[str, torch.Tensor]], object], folder: Path
) -> None:
    tensors = load_file(folder / VECTORS)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / VECTORS)
    with refused("test vectors: "):
        vectors.load(folder / VECTORS)
    adapt(folder)
    assert "test vectors" in problem(folder)


# Packages, which are folders


def test_a_packages_hash_tells_where_one_file_ends_and_the_next_begins(tmp_path: Path) -> None:
    one, two = tmp_path / "one.mlpackage", tmp_path / "two.mlpackage"
    for package in (one, two):
        package.mkdir()
    (one / "a").write_bytes(b"1")
    (one / "b").write_bytes(b"2")
    (two / "a").write_bytes(b"1b\x002")
    assert sha256(one) != sha256(two)


def test_a_package_may_hold_no_pipe_that_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    before = sha256(tmp_path)
    pipe(tmp_path / "b")
    start = time.monotonic()
    assert sha256(tmp_path) == before
    assert time.monotonic() - start < SECONDS


def test_a_damaged_entry_is_no_up_to_date_artifact(folder: Path) -> None:
    from pgn_export.proof import Files

    path = folder / "manifest.json"
    whole = json.loads(path.read_text())
    entry = {**whole["artifacts"][NAME], "key": "k"}
    damaged: list[dict[str, Any]] = [{}, {"key": "k"}, {**entry, "sha256": None}]
    for other in (entry, *damaged, {**entry, "test_vectors": "gone"}):
        path.write_text(json.dumps(whole | {"artifacts": {NAME: other}}))
        assert manifest.up_to_date(folder, Files(folder / NAME), "k") == (other is entry), other
    path.write_text(json.dumps(whole | {"artifacts": {NAME: entry}}))
    (folder / VECTORS).unlink()
    assert not manifest.up_to_date(folder, Files(folder / NAME), "k")
