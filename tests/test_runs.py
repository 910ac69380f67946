"""Runs of pgn-train: banks, several processes, and resuming bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from logging import LogRecord
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import assert_close, lesson, photo_folder
from lightning_utilities.core import rank_zero
from torch import Tensor

import pgn
from pgn import PgnError
from pgn.distill import bank as banks
from pgn.distill import loop
from pgn.distill import surrogates as surrogates_module
from pgn.distill.loop import Run, distil
from pgn.distill.options import DistillOptions
from pgn.images import normalise

TINY: dict[str, Any] = {
    "images": 36,
    "batch": 6,
    "crop": 32,
    "canvas": 64,
    "precision": "fp32",
    "workers": 0,
}


@pytest.fixture(autouse=True)
def few_initial_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "INITIAL_PIXELS", 12 * 32**2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return photo_folder(tmp_path / "photos", 8, 96)


@pytest.fixture
def options(folder: Path, tmp_path: Path) -> DistillOptions:
    return DistillOptions(str(folder), tmp_path / "run", backbone="nano", **TINY)


def weights(path: Path) -> dict[str, Tensor]:
    return dict(pgn.load(path).backbone.state_dict())


def test_fabric_says_nothing_among_our_words(
    options: DistillOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[LogRecord] = []
    monkeypatch.setattr(rank_zero.log, "handle", said.append)
    loop.start_fabric(replace(options, precision="bf16"))
    assert not said


def test_alpha_is_found_so_that_residuals_are_of_order_one(options: DistillOptions) -> None:
    sized = replace(options, teacher="zncc", alpha=0.0, backbone="unet")
    run = Run(sized, loop.start_fabric(sized))
    run.begin()
    images = next(run._photos(0))
    residual = run.distiller.observer.observe(images, 0).residual[: options.degraded]
    assert 0.02 < float(residual.square().mean().sqrt()) < 2.0
    state = run.distiller.state_dict()
    assert state["alpha"] == run.distiller.net.config.alpha != 40.0


def test_a_bank_gives_back_what_it_was_given(tmp_path: Path) -> None:
    bank = banks.create(tmp_path, 9, 32, {"teacher": "t", "alpha": 40.0})
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (6, 3, 32, 32), generator=generator) / 255
    kept = lesson()._replace(u_target=normalise(pixels))
    bank.append(kept)
    bank.append(kept)  # room for three of these six
    assert bank.size == 9
    bank.flush()
    read = banks.load(tmp_path).lesson(torch.tensor([8, 0]))
    for found, wanted in zip(read, kept, strict=True):
        assert_close(found, wanted[[2, 0]], 1e-3)  # float16
    assert_close(read.u_target, kept.u_target[[2, 0]], 1e-6)


def test_a_bank_that_does_not_fit_on_the_disk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PgnError, match=r"need .* GiB.*--set bank=N"):
        banks.create(tmp_path, 10**9, 512, {})
    (tmp_path / "bank.json").write_text("{}")
    with pytest.raises(PgnError, match="is damaged"):
        banks.load(tmp_path)


REPLAY: dict[str, Any] = {"replay": 2, "bank": 30, "optimiser": "muon", "averaging": 0.5}
KINDS: dict[str, dict[str, Any]] = {
    "nano, replayed": {**REPLAY},
    "unet": {"backbone": "unet", "head": "constrained", "gamma": 1 / 512},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_resumes_bit_for_bit(
    kind: str,
    options: DistillOptions,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(loop, "REPORT_EVERY", 2)
    monkeypatch.setattr(surrogates_module, "RESET_PROBABILITY", 0.3)  # random states matter
    whole = replace(options, **KINDS[kind], save_every=0.0, patience=1)
    undisturbed = distil(whole)

    killed = replace(whole, output=whole.output.with_name("killed"))

    def kill(figures: Any) -> None:
        if figures.images >= 24:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distil(killed, kill)
    assert f"{killed.output} keeps the last save: the same command with --resume" in (
        capsys.readouterr().err
    )
    seen: list[int] = []
    resumed = distil(killed, lambda figures: seen.append(figures.images), resume=True)
    assert seen[-1] == 36 and seen[0] > 12, seen
    first, second = weights(undisturbed), weights(resumed)
    assert all(torch.equal(first[name], second[name]) for name in first)
    lines = (killed.output / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["images"] for line in lines] == [12, 24, 36]


@pytest.mark.slow
def test_a_network_learns_from_the_bank_of_another_run(options: DistillOptions) -> None:
    distil(replace(options, **REPLAY))
    told = replace(
        options, data=str(options.output / "bank"), output=options.output.with_name("second")
    )
    figures: list[loop.Figures] = []
    path = distil(replace(told, images=360), figures.append)
    assert figures[-1].cosine > figures[0].cosine > 0.2
    assert pgn.load(path).info["teacher"] == "vgg19-oxford"


PROCESSES = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from torch.nn.utils import parameters_to_vector
from pgn.distill import loop
from pgn.distill.options import DistillOptions

data, output = sys.argv[1], Path(sys.argv[2])
loop.REPORT_EVERY = 1
loop.INITIAL_PIXELS = 12 * 32**2
options = DistillOptions(
    data, output / "killed", backbone="nano", images=48, batch=6, crop=32, canvas=64,
    precision="fp32", workers=0, devices=2, replay=1, bank=12, optimiser="muon", save_every=0.0,
    patience=1,
)

def stop(figures):
    if figures.images == 24 and not resume:
        raise SystemExit("killed")

resume = (output / "killed" / "state.pt").exists()
fabric = loop.start_fabric(options)
loop.start_fabric = lambda options: fabric
run_train = loop.Run.train

def train(run, report):
    run_train(run, report)
    nets = run.distiller.net, run.distiller.observer.surrogates[0].net
    vectors = [parameters_to_vector(net.parameters()).detach() for net in nets]
    every, drawn = map(fabric.all_gather, vectors)
    assert torch.equal(every[0], every[1]), "the networks of the processes differ"
    assert not torch.equal(drawn[0], drawn[1]), "the autoencoders of the processes are the same"

loop.Run.train = train
if not resume:
    loop.distil(replace(options, output=output / "undisturbed"))
loop.distil(options, stop, resume=resume)
"""


@pytest.mark.slow
def test_two_processes_stay_synchronised_and_resume_bit_for_bit(
    folder: Path, tmp_path: Path
) -> None:
    script = tmp_path / "processes.py"
    script.write_text(PROCESSES)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

    def run() -> int:
        words = [sys.executable, str(script), str(folder), str(tmp_path)]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        assert "differ" not in done.stderr and "the same" not in done.stderr, done.stderr[-2000:]
        return done.returncode

    assert run() != 0, "it was not killed"
    assert not (tmp_path / "killed" / "pgn-nano.safetensors").exists()
    assert run() == 0
    first, second = (
        weights(tmp_path / name / "pgn-nano.safetensors") for name in ("undisturbed", "killed")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_damaged_state_is_refused(options: DistillOptions) -> None:
    options.output.mkdir()
    for contents in ({"identity": options.identity()}, [1], {"identity": 3}):
        torch.save(contents, options.output / "state.pt")
        with pytest.raises(PgnError, match="state.pt is damaged"):
            distil(options, resume=True)
    (options.output / "state.pt").write_bytes(b"cut")
    with pytest.raises(PgnError, match="it is damaged"):
        distil(options, resume=True)


def test_runs_are_neither_overwritten_nor_resumed_with_other_options(
    options: DistillOptions,
) -> None:
    with pytest.raises(PgnError, match="Leave --resume out"):
        distil(options, resume=True)
    options = replace(options, backbone="resnet4", images=6)
    distil(options)
    with pytest.raises(PgnError, match="holds a run already"):
        distil(options)
    with pytest.raises(PgnError, match="began with seed=0"):
        distil(replace(options, seed=1), resume=True)


def test_a_corrupt_photo_is_named_and_counted(options: DistillOptions, folder: Path) -> None:
    (folder / "broken.jpg").write_bytes(b"no picture")
    path = distil(replace(options, images=12))
    assert pgn.load(path).info["training"]["skipped_photos"] == 1
