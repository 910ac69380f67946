"""Runs of the avatar's training: files, previews, resume, settings, recipes, the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from avatar_parts import (
    TINY,
    folder_of_persons,
    learner,
    tiny_options,
)
from conftest import assert_close
from PIL import Image
from typer.testing import CliRunner

from pgn import PgnError
from pgn.avatar import loop
from pgn.avatar.checkpoint import load
from pgn.avatar.landmarks import draw
from pgn.avatar.loop import Run, meta_train
from pgn.avatar.options import AvatarOptions
from pgn.avatar.recipes import RECIPES
from pgn.avatar.rendered import HELD_OUT, rendered_person
from pgn.distill.cli import app
from pgn.distill.run import start_fabric


@pytest.fixture
def options(tmp_path: Path) -> AvatarOptions:
    return tiny_options(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folder_of_persons(tmp_path)


def test_a_run_leaves_a_checkpoint_a_log_and_previews(
    options: AvatarOptions, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "REPORT_EVERY", 2)
    chosen = replace(options, data=f"synthetic,{folder}", holdout=["cy"], licence="Apache-2.0")
    reports: list[loop.Figures] = []
    avatar = load(meta_train(chosen, reports.append))
    assert [figures.images for figures in reports] == [4, 8, 12]
    assert all(figures.losses["mse"] > 0 for figures in reports)
    training = avatar.info["training"]
    assert training["persons"] == 5 and training["holdout"] == ["cy"]
    assert training["data"] == ["synthetic", folder.name] and training["images"] == 12
    assert avatar.info["licence"] == "Apache-2.0"
    lines = (chosen.output / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["images"] for line in lines] == [4, 8, 12]
    previews = sorted((chosen.output / "previews").iterdir())
    assert [path.name for path in previews] == ["000000000.png", "000000012.png"]
    with Image.open(previews[-1]) as sheet:
        assert sheet.size == (2 * 3 * 32, (2 + 2 + 2 + 1) * 32 + 4)


def test_a_preview_shows_landmarks_truth_and_what_is_drawn(options: AvatarOptions) -> None:
    run = Run(options, start_fabric(options))
    run.save_state()
    with Image.open(options.output / "previews" / "000000000.png") as opened:
        sheet = torch.from_numpy(np.array(opened)).permute(2, 0, 1).float() / 255
    person = rendered_person(HELD_OUT, 4, 32)  # the first one below the bar
    images, conditions = person.images.float() / 255, draw(person.landmarks, 32)
    shown = run.meta.avatar.person(images[:2], conditions[:2])
    with torch.no_grad():
        cells = [conditions[2], images[2], shown(conditions[2:3])[0]]
    top = 2 * 32 + 4
    assert_close(sheet[:, top : top + 32, :96], torch.cat(cells, dim=2), 0.5 / 255 + 1e-3)


KINDS: dict[str, dict[str, Any]] = {
    "no discriminator": {"optimiser": "muon", "averaging": 0.5},
    "penalised, with workers": {"adversarial": "wgan-gp", "workers": 1},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_resumes_bit_for_bit(
    kind: str, options: AvatarOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "REPORT_EVERY", 1)
    whole = replace(options, **KINDS[kind], save_every=0.0)
    undisturbed = load(meta_train(whole))
    killed = replace(whole, output=whole.output.with_name("killed"))

    def kill(figures: loop.Figures) -> None:
        if figures.images == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        meta_train(killed, kill)
    with (killed.output / "log.jsonl").open("a") as log:
        log.write('{"images": 8, "los')  # as the machine lost its power
    seen: list[int] = []
    resumed = load(meta_train(killed, lambda figures: seen.append(figures.images), resume=True))
    assert seen == [8, 10, 12]
    first, second = undisturbed.state_dict(), resumed.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    lines = (killed.output / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["images"] for line in lines] == [2, 4, 6, 8, 10, 12]
    with pytest.raises(PgnError, match="began with adversarial"):
        meta_train(replace(killed, adversarial="hinge"), resume=True)
    with pytest.raises(PgnError, match="holds a run already"):
        meta_train(killed)


PROCESSES = """
import sys
from pathlib import Path
import torch
from torch.nn.utils import parameters_to_vector
from pgn.avatar import loop
from pgn.avatar.options import AvatarOptions

options = AvatarOptions(
    "synthetic", Path(sys.argv[1]), images=12, batch=2, shots=1, identities=3, poses=3, size=32,
    widths=[8, 16], blocks=1, perceptual="ncc", adversarial="hinge", precision="fp32", workers=0,
    devices=2,
)
fabric = loop.start_fabric(options)
run = loop.Run(options, fabric)
first, second = fabric.all_gather(next(run.steps())["mse"])
assert first != second, "the processes see the same"
for _ in run.steps():
    pass
for net in (run.meta.avatar, run.meta.opponent.net):
    first, second = fabric.all_gather(parameters_to_vector(net.parameters()).detach())
    assert torch.equal(first, second), "the networks of the processes differ"
assert run.meta.done == 3 and run.images == 12
"""


@pytest.mark.slow
def test_two_processes_stay_synchronised(tmp_path: Path) -> None:
    script = tmp_path / "processes.py"
    script.write_text(PROCESSES)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    words = [sys.executable, str(script), str(tmp_path / "run")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


# --- settings


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"adversarial": "hing"}, "Did you mean 'hinge'"),
        ({"shots": 0}, "shots: got 0"),
        ({"poses": 2}, "poses: got 2, expected more than shots, 2"),
        ({"data": "synthetic,"}, "data: got synthetic,"),
        ({"identities": 0}, "identities: got 0"),
        ({"identities": HELD_OUT + 1}, "identities: got 1000001.*kept for judging"),
        ({"seed": 2**62}, "seed: got"),
        ({"save_every": float("nan")}, "save_every: got nan"),
        ({"size": 16}, "size: got 16, expected 32"),
        ({"size": 33}, "multiple of 2"),
        ({"size": 64, "widths": []}, "expected one of 128, 256.*widths"),
        ({"widths": [8]}, "two widths or more"),
        ({"blocks": 0}, "positive whole numbers"),
        ({"batch": 0}, "batch: got 0"),
        ({"images": 1}, "images: got 1, expected at least 2"),
        ({"discriminator_rate": 0.0}, "discriminator_rate: got 0.0"),
        ({"learning_rate": 2.0}, "learning_rate: got 2.0"),
        ({"optimiser": "adm"}, "Did you mean 'adam'"),
        ({"schedule": "cosin"}, "Did you mean 'cosine'"),
        ({"precision": "fp16"}, "precision: got 'fp16'"),
        ({"averaging": 1.0}, "averaging: got 1.0"),
        ({"perceptual_weight": -1.0}, "perceptual_weight: got -1.0"),
        ({"mse_weight": float("inf")}, "mse_weight: got inf"),
        ({"adversarial_weight": float("nan")}, "adversarial_weight: got nan"),
        ({"matching_weight": -1.0}, "matching_weight"),
        ({"embedding_weight": -1.0}, "embedding_weight"),
        ({"workers": -1}, "workers: got -1"),
    ],
)
def test_settings_are_checked(
    changed: dict[str, Any], message: str, options: AvatarOptions
) -> None:
    with pytest.raises(PgnError, match=message):
        replace(options, **changed)


def test_an_unknown_loss_is_told_before_the_training(options: AvatarOptions) -> None:
    for name, message in (("vgg91", "Did you mean 'vgg19'"), ("gone.pth", "no file gone.pth")):
        with pytest.raises(PgnError, match=message):
            learner(replace(options, perceptual=name))


@pytest.mark.parametrize("name", RECIPES.names)
def test_shipped_recipes_are_valid(name: str) -> None:
    AvatarOptions("synthetic", Path("run"), **RECIPES.read(name))


def test_the_recipe_for_256_pixels_has_the_weights_of_its_model() -> None:
    options = AvatarOptions("people", Path("run"), **RECIPES.read("avatar-256"))
    assert (options.size, options.shots, options.adversarial) == (256, 8, "hinge")
    assert (options.learning_rate, options.discriminator_rate) == (5e-5, 2e-4)
    assert (options.matching_weight, options.embedding_weight) == (10.0, 80.0)


def test_a_dry_run_prints_the_settings_and_the_time() -> None:
    settings = [f"--set={key}={value}" for key, value in TINY.items() if key != "images"]
    words = ["avatar", "--dry-run", "--data", "synthetic", "--images", "12", *settings]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert 'perceptual = "ncc"' in done.stdout and "widths = [8, 16]" in done.stdout
    assert "on this machine" in done.stderr
    done = CliRunner().invoke(app, ["--dry-run"], catch_exceptions=False)
    assert 'backbone = "lite"' in done.stdout  # the distillation, as before
    with pytest.raises(PgnError, match="expected --data SOURCE and -o RUN"):
        CliRunner().invoke(app, ["avatar", "--data", "synthetic"], catch_exceptions=False)
