"""Mutated files through every door that reads one: an error of ours, or a result of its shape.

Everything is seeded, so a failure comes again; it names the mutation by its number. Native parsers
(ONNX Runtime, LiteRT) run in a process of their own, with little memory. The defence there is the
manifest's hash: what was changed is never opened. An attacker who writes the manifest, too, gets as
far as the parser; how often one dies then is printed (`pytest -rP`), and is no failure of ours. Of
2,000 mutations each, ONNX Runtime 1.31.1 died of none, LiteRT 2.3.0 of one (a segmentation fault).
"""

from __future__ import annotations

import json
import select
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from fuzzing import edited, mutated, trials, try_all
from hostile import MANIFEST
from test_checkpoint import official, tiny
from test_mil import tiny as tiny_package

import pgn
from pgn_export import export, mil, vectors
from pgn_export.verify import verify
from pgn_runtime.artifact import read_entry, read_manifest
from pgn_runtime.files import sha256

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

TARGETS = ("onnx", "tflite")
IMAGE = (1, 3, 48, 64)
SECONDS = 20  # for one trial of a native parser


# Checkpoints


def use(path: Path) -> None:
    """A flipped bit of a weight cannot be told from a weight, but the network still runs."""
    image = torch.zeros(1, 3, 32, 32)
    assert pgn.load(path).gradient(image, image).shape == image.shape


def checkpoint(kind: str, path: Path) -> Path:
    if kind == "ours":
        return pgn.save(tiny(), path.with_suffix(".safetensors"))
    old = path.with_suffix(".pth")
    torch.save(official(2), old, _use_new_zipfile_serialization=kind == "zip")
    return old


@pytest.mark.parametrize(("kind", "count"), [("ours", 500), ("zip", 200), ("pickle", 200)])
def test_checkpoints(kind: str, count: int, tmp_path: Path) -> None:
    path = checkpoint(kind, tmp_path / "net")
    content = path.read_bytes()

    def trial(random: Random) -> None:
        path.write_bytes(mutated(content, random))
        use(path)

    found = try_all(count, trial)
    assert min(found["accepted"], found["refused"]) > count / 20, "the fuzz is one-sided"


def test_descriptions_of_checkpoints(tmp_path: Path) -> None:
    net = tiny()
    described = json.dumps({"format": 1, **net.metadata()})

    def trial(random: Random) -> None:
        from safetensors.torch import save_file

        text = json.dumps(edited(json.loads(described), random))
        save_file(net.backbone.state_dict(), tmp_path / "net.safetensors", {"pgn": text})
        use(tmp_path / "net.safetensors")

    assert try_all(300, trial)["refused"] > 100


# Exports


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports")
    for target in TARGETS:
        export(tiny(), target, folder, IMAGE[2:], name="tiny")
    return folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "exports"))


def test_test_vectors(folder: Path) -> None:
    path = next(folder.glob("*test_vectors.safetensors"))
    content = path.read_bytes()

    def trial(random: Random) -> None:
        path.write_bytes(mutated(content, random))
        for case in vectors.load(path):
            assert case.inputs()[0].shape == IMAGE

    try_all(200, trial)


@pytest.mark.parametrize("how", ["bytes", "json"])
def test_manifests(how: str, folder: Path) -> None:
    path = folder / MANIFEST
    content = path.read_bytes()

    def trial(random: Random) -> None:
        if how == "bytes":
            path.write_bytes(mutated(content, random))
        else:
            path.write_text(json.dumps(edited(json.loads(content), random)))
        for name in read_manifest(folder)["artifacts"]:
            if (folder / name).suffix in (".onnx", ".tflite"):
                assert read_entry(folder / name)["alpha"] > 0

    try_all(200, trial)


def test_manifests_that_are_verified(folder: Path) -> None:
    """No file is written, either."""
    content = (folder / MANIFEST).read_bytes()
    before = {path: path.stat().st_mtime_ns for path in folder.parent.rglob("*")}

    def trial(random: Random) -> None:
        (folder / MANIFEST).write_text(json.dumps(edited(json.loads(content), random)))
        verify(folder)

    try_all(80, trial)
    (folder / MANIFEST).write_bytes(content)
    after = {path: path.stat().st_mtime_ns for path in folder.parent.rglob("*")}
    assert {p for p in before | after if before.get(p) != after.get(p)} == {folder / MANIFEST}


@pytest.mark.parametrize("target", TARGETS)
def test_changed_graphs_are_never_opened(
    target: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgn_runtime.backends.load", lambda *_: pytest.fail("it was opened"))
    path = folder / f"tiny-48x64-fp32.{target}"
    content = path.read_bytes()

    def trial(random: Random) -> None:
        changed = mutated(content, random)
        if changed != content:
            path.write_bytes(changed)
            told = {verdict.name: verdict.problem for verdict in verify_only(folder, path.name)}
            assert "was changed" in told[path.name]
            read_entry(path)  # as Artifact.load does before it opens anything

    assert try_all(100, trial)["refused"] > 90


def verify_only(folder: Path, name: str) -> list[Any]:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["artifacts"] = {name: manifest["artifacts"][name]}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return verify(folder)


WORKER = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))
import numpy as np
from pgn_runtime import Artifact, RuntimeInputError
images = np.random.default_rng(0).random((2, 1, 3, 48, 64), dtype=np.float32)
for line in sys.stdin:
    try:
        told = "accepted" if Artifact.load(line.strip(), 1).proxy(*images).shape else "no shape"
    except RuntimeInputError:
        told = "refused"
    except BaseException as error:
        told = f"hole: {type(error).__name__}: {error!r:.200}"
    print("told", told.replace("\\n", " "), flush=True)
"""


class Worker:
    """A process that opens and runs artifacts, made anew when it dies."""

    def __init__(self) -> None:
        self._process = self._start()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def tell(self, path: Path) -> str:
        """What came of an artifact: accepted, refused, hole: ..., died: signal, or hung."""
        process = self._process
        assert process.stdin and process.stdout
        process.stdin.write(f"{path}\n".encode())
        while select.select([process.stdout], [], [], SECONDS)[0]:
            line = process.stdout.readline()
            if line.startswith(b"told "):
                return line.decode().removeprefix("told ").strip()
            if not line:
                process.communicate()
                self._process = self._start()
                return f"died: {process.returncode}"
        process.kill()
        process.communicate()
        self._process = self._start()
        return "hung"

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,  # what is buffered here, select does not see
        )


@pytest.mark.parametrize("target", TARGETS)
def test_graphs_under_the_attackers_own_hash(target: str, folder: Path) -> None:
    """Our code must have no hole there; deaths of the runtimes' parsers are only counted."""
    path = folder / f"tiny-48x64-fp32.{target}"
    content, listed = path.read_bytes(), json.loads((folder / MANIFEST).read_text())
    found: Counter[str] = Counter()
    with Worker() as worker:
        assert worker.tell(path) == "accepted"
        for random in trials(150):
            path.write_bytes(mutated(content, random))
            listed["artifacts"][path.name]["sha256"] = sha256(path)
            (folder / MANIFEST).write_text(json.dumps(listed))
            found[worker.tell(path)] += 1
    print(target, dict(found))
    assert not [told for told in found if told.startswith(("hole", "hung", "no shape"))]
    assert found["refused"] > 20


# Packages


def test_packages(tmp_path: Path) -> None:
    package = tiny_package(tmp_path / "tiny.mlpackage")
    files = sorted(path for path in package.rglob("*") if path.is_file())
    contents = {path: path.read_bytes() for path in files}

    def trial(random: Random) -> None:
        path = random.choice(files)
        path.write_bytes(mutated(contents[path], random))
        try:
            mil.load(package)
        finally:
            path.write_bytes(contents[path])

    assert try_all(250, trial)["refused"] > 60
