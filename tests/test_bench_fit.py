"""`pgn-bench fit`: a pack's step beside PyTorch's, their memory and their agreement."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import pgn
from pgn.avatar import Avatar, GeneratorConfig, save
from pgn_bench import fit
from pgn_bench.cli import app
from pgn_bench.fit import Setting
from pgn_bench.results import load
from pgn_export.fitting.pack import Packing, PackOptions, write
from pgn_export.fitting.subject import of_avatar

pytestmark = pytest.mark.filterwarnings("ignore")  # of the converters


def small_avatar(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    return save(Avatar(GeneratorConfig(64, (4, 5, 6), 1), (4, 6)), path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """small.safetensors, and its pack."""
    made = tmp_path_factory.mktemp("fit")
    avatar = small_avatar(made / "small.safetensors", 0)
    packing = Packing(of_avatar(avatar), pgn.load("pgn-nano"), "pgn-nano", PackOptions())
    write(packing, ["onnx"], made / "small.pgnpack")
    return made


def setting(folder: Path) -> Setting:
    generator = str(folder / "small.safetensors")
    return Setting(generator, "pgn-nano", "all", 5e-4, 2.0, photos=2, threads=1)


def test_a_packs_fit_agrees_with_pytorchs(folder: Path) -> None:
    found = fit.agreement(setting(folder), folder / "small.pgnpack", "onnxruntime", 5)
    assert found.weights < 1e-4 and found.change < 0.02 and found.images < 1 / 2550


def test_a_step_of_each_is_timed_in_turn() -> None:
    order: list[str] = []

    def named(name: str) -> fit.Seconds:
        def run(steps: int) -> list[float]:
            order.append(f"{name}{steps}")
            return [0.001 * len(order)] * steps

        return run

    found = fit.interleaved({"a": named("a"), "b": named("b")}, rounds=2)
    assert order == ["a1", "a3", "b1", "b3"] * 2
    assert found["a"].calls == 2 * fit.STEPS
    assert found["a"].median_ms == pytest.approx(4)  # of 2, 2, 2 and 6, 6, 6


def test_a_pack_of_another_generator_is_refused(folder: Path, tmp_path: Path) -> None:
    other = small_avatar(tmp_path / "other.safetensors", 1)
    words = ["fit", str(folder / "small.pgnpack"), "--generator", str(other)]
    result = CliRunner().invoke(app, words)
    assert "is of another generator" in str(result.exception)


@pytest.mark.slow
def test_an_exact_loss_is_packed_as_well(folder: Path, tmp_path: Path) -> None:
    """Its steps on a device are those of autograd."""
    own = setting(folder)
    pack = fit.pack_exact(own, "vgg11", tmp_path)
    found = fit.on_device(own, pack, "onnxruntime")(2)
    assert len(found) == 2
    (agreement,) = json.loads((pack / "manifest.json").read_text())["agreement"]
    assert agreement["relative_l2"] < 1e-3, "with autograd in float64"
    assert fit.memory_on_device(own, pack, "onnxruntime")() is not None


def test_photo_by_photo_is_the_same_fit(folder: Path) -> None:
    """What is timed and measured as a peer of packs takes less memory, not another way."""
    whole, parts = (replace(setting(folder), microbatch=size) for size in (None, 1))
    assert whole.options(3).microbatch is None and parts.options(3).microbatch == 1
    assert len(fit.in_pytorch(parts, "mse")(3)) == 3


@pytest.mark.slow
def test_the_command_writes_a_result_file(folder: Path, tmp_path: Path) -> None:
    generator = ["--generator", str(folder / "small.safetensors")]
    options = ["--losses", "pgn,mse", "--photos", "2", "--rounds", "1", "--steps", "2"]
    words = ["fit", str(folder / "small.pgnpack"), *generator, *options]
    result = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "fit.json")])
    assert result.exit_code == 0, result.output
    assert "after 2 steps weights differ from PyTorch's" in result.stdout
    found = load(tmp_path / "fit.json")
    ways = [(row.provider, row.runtime) for row in found.rows]
    pytorch = [
        (name, way) for name in ("pgn-nano", "mse") for way in ("torch", "torch, 1 at a time")
    ]
    assert ways == [("pgn-nano", "onnxruntime"), *pytorch]
    assert all(row.median_ms > 0 and (row.peak_bytes or 0) > 2**20 for row in found.rows)
