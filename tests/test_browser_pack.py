"""A pack runs in a browser's runtime unchanged: onnxruntime-web's WASM build, in Node."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_close
from numpy.typing import NDArray
from packs import TRAINED, begun, drawn, reference, write_pack
from safetensors.numpy import save_file

import pgn
from pgn.avatar import Avatar, GeneratorConfig
from pgn.avatar.checkpoint import save
from pgn_bench import web
from pgn_export.fitting import pack as packs
from pgn_export.fitting.subject import of_avatar
from pgn_runtime.fitting import Fitter, begin, fresh, prepared
from pgn_runtime.graphs import Graphs
from pgn_runtime.pack import VALUE, read_pack

SCRIPT = Path(__file__).with_name("browser_pack.mjs")
PAGE = web.LOCK.parent
STEPS = 5  # of the script
EVERY_GRAPH = {"start", "prefix", "target_features", "gradient", "update", "render"}

PHOTO, CONDITION = np.random.default_rng(0).random((2, 2, 2, 3, 32, 32), dtype=np.float32)

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Fit:
    """Of two batches of two photos, (2, 2, 3, 32, 32)."""

    mse: Array  # (STEPS,)
    values: dict[str, tuple[Array, Array]]  # before and after, of every trained parameter
    rendered: Array  # (2, 3, 32, 32), of the first conditions


@functools.cache
def modules() -> Path:
    """A folder with onnxruntime-web in its node_modules, of the versions and hashes that we pin."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("node and npm are not installed")
    folder = web.cache() / f"npm-{hashlib.sha256(web.LOCK.read_bytes()).hexdigest()[:12]}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            for name in ("package.json", web.LOCK.name):
                shutil.copy(PAGE / name, temporary)
            words = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(words, cwd=temporary, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                pytest.skip(f"npm cannot install onnxruntime-web here: {done.stderr[-300:]}")
            shutil.copytree(temporary, folder, dirs_exist_ok=True)
    return folder


def write_tiny_pack(folder: Path) -> Path:
    """An avatar's, 32 pixels, two photos at a time; it has every graph that a pack can have."""
    torch.manual_seed(0)
    checkpoint = folder / "tiny.safetensors"
    save(Avatar(GeneratorConfig(32, (3, 4, 6), 2), (4, 4, 6, 6)), checkpoint)
    net = pgn.PGN(pgn.PGNConfig("lite", options={"widths": ((4,), (6,), (8,))}))
    options = packs.PackOptions("last", microbatch=2)
    path = folder / "tiny.pgnpack"
    packs.write(packs.Packing(of_avatar(checkpoint), net, "tiny", options), ["onnx"], path)
    return path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the converters
def test_an_exported_pack_fits_in_onnxruntime_web(tmp_path: Path) -> None:
    modules()
    pack = write_tiny_pack(tmp_path)
    assert set(read_pack(pack).graphs) == EVERY_GRAPH
    check_fit(pack, tmp_path, in_onnx_runtime(pack))


def test_a_hand_written_pack_fits_in_onnxruntime_web(tmp_path: Path) -> None:
    """Against PyTorch, in float64."""
    pack = write_pack(tmp_path / "tiny.pgnpack", microbatch=2)
    condition, photo = np.concatenate(CONDITION), np.concatenate(PHOTO)
    after, mse = reference(condition, photo, STEPS)
    before = begun(torch.from_numpy(condition).double(), torch.from_numpy(photo).double())
    rendered = drawn(after, torch.from_numpy(CONDITION[0]))
    values = {name: (before[name].numpy(), after[name].numpy()) for name in TRAINED}
    check_fit(pack, tmp_path, Fit(np.array(mse), values, rendered.numpy()))


def check_fit(pack: Path, folder: Path, wanted: Fit) -> None:
    """In Node: images, losses, and how far every weight moved."""
    inputs, output = folder / "inputs.safetensors", folder / "output.json"
    save_file({"photo": PHOTO, "condition": CONDITION}, inputs)
    words = ["node", str(SCRIPT), str(modules()), str(pack), str(inputs), str(output)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(output.read_text())
    assert found["values"].keys() == wanted.values.keys()
    assert_close(np.array(found["mse"]).mean((1, 2)), wanted.mse, 1e-5)
    assert_close(np.array(found["rendered"]), wanted.rendered.ravel(), 1e-4)
    for name, (before, after) in wanted.values.items():
        moved = np.abs(after - before).max()
        assert moved > 0
        assert np.abs(np.array(found["values"][name]) - after.ravel()).max() < 0.01 * moved, name


def in_onnx_runtime(path: Path) -> Fit:
    pack = read_pack(path)
    graphs = Graphs(pack, "onnxruntime", threads=1)
    batches = [{"photo": p, "condition": c} for p, c in zip(PHOTO, CONDITION, strict=True)]
    values = begin(graphs, batches)
    fitter = Fitter(graphs, prepared(graphs, batches, values), fresh(graphs, values))
    mse = [fitter.step(step, pack.learning_rate) for step in range(1, STEPS + 1)]
    moved = {name: (values[VALUE + name], fitter.tensors[VALUE + name]) for name in pack.trained}
    image = graphs.run("render", {**fitter.values, "condition": CONDITION[0]})["generated"]
    return Fit(np.array(mse), moved, image)
