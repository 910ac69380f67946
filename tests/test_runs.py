"""Runs of pgn-train: recipes, learning, banks, several processes, and resuming bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assert_close
from lightning.fabric import Fabric
from torch import Tensor, nn

import pgn
from pgn import PgnError
from pgn.degrade import to_pil
from pgn.distill import bank as banks
from pgn.distill import distiller as distiller_module
from pgn.distill import loop, recipes
from pgn.distill import surrogates as surrogates_module
from pgn.distill.bank import Lesson
from pgn.distill.distiller import Distiller
from pgn.distill.loop import Run, distil
from pgn.distill.optimise import Average, Optimiser, rate_factor
from pgn.distill.options import DistillOptions
from pgn.images import normalise
from pgn_export.parity import photos

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
    where = tmp_path / "photos"
    where.mkdir()
    for index, photo in enumerate(photos((96, 96)) * 2):
        to_pil(photo[0]).save(where / f"{index}.png")
    return where


@pytest.fixture
def options(folder: Path, tmp_path: Path) -> DistillOptions:
    return DistillOptions(str(folder), tmp_path / "run", backbone="nano", **TINY)


@pytest.fixture
def distiller(options: DistillOptions) -> Distiller:
    made = Distiller(options, Fabric(accelerator="cpu"), None)
    made.set_up()
    return made


def weights(path: Path) -> dict[str, Tensor]:
    return dict(pgn.load(path).backbone.state_dict())


def lesson(seed: int = 0) -> Lesson:
    generator = torch.Generator().manual_seed(seed)
    return Lesson(*torch.randn(3, 6, 3, 32, 32, generator=generator))


def test_meta_loss_is_equation_10(distiller: Distiller, options: DistillOptions) -> None:
    distiller.options = replace(options, vgg_weight=0.5, l1_weight=0.2)
    generator = torch.Generator().manual_seed(0)
    photo, pixels = torch.rand(2, 2, 3, 32, 32, generator=generator)
    residual, truth = torch.randn(2, 2, 3, 32, 32, generator=generator)
    proxy, u_target = normalise(pixels), normalise(photo)
    found = distiller.meta_loss(residual, Lesson(residual, u_target, truth), proxy)
    wanted = 18.9 * (residual - truth).square().mean()
    wanted = wanted + 0.2 * (proxy - u_target).abs().mean()
    wanted = wanted + 0.5 * distiller.teacher(pixels, photo).mean()
    assert float(found) == pytest.approx(float(wanted), rel=1e-4)


def test_a_lesson_holds_the_teachers_gradient(distiller: Distiller) -> None:
    images = (torch.cat(photos((64, 64)) + photos((64, 64))[:2]) * 255).round().byte()
    seen = distiller.observer.observe(images, step=0)
    assert seen.u_generated.shape == seen.residual.shape == (6, 3, 32, 32)
    u = seen.u_generated[4:5].clone().requires_grad_()  # an autoencoder's picture
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (pgn.images.MEAN, pgn.images.STD))
    loss = distiller.teacher(u * std + mean, seen.u_target[4:5] * std + mean)
    (gradient,) = torch.autograd.grad(loss.sum(), u)  # by u, not by pixels: Eq. 5
    assert_close(seen.residual[4:5], gradient * (3 * 32 * 32) / (2 * 40.0), 1e-4)


def test_alpha_is_found_so_that_residuals_are_of_order_one(options: DistillOptions) -> None:
    sized = replace(options, teacher="zncc", alpha=0.0, backbone="unet")
    run = Run(sized, loop.start_fabric(sized))
    run.begin()
    images = next(run._photos(0))
    residual = run.distiller.observer.observe(images, 0).residual[: options.degraded]
    assert 0.02 < float(residual.square().mean().sqrt()) < 2.0
    state = run.distiller.state_dict()
    assert state["alpha"] == run.distiller.net.config.alpha != 40.0


def test_a_diverged_network_stops_the_run(distiller: Distiller) -> None:
    nn.init.constant_(next(distiller.net.parameters()), torch.nan)
    with pytest.raises(PgnError, match="loss is nan at step 0.*learning_rate"):
        distiller.learn(lesson())


def test_a_surrogate_that_turned_nan_does_no_harm(distiller: Distiller) -> None:
    for parameter in distiller.observer.surrogates[1].net.parameters():
        nn.init.constant_(parameter, torch.nan)
    images = torch.randint(0, 256, (6, 3, 64, 64), dtype=torch.uint8)
    for _ in range(2):
        learnt = distiller.step(images)
        assert np.isfinite([learnt.loss, learnt.cosine]).all()
    assert all(torch.isfinite(p).all() for p in distiller.net.parameters())


def test_muon_moves_filters_by_orthogonal_steps_and_adam_the_rest() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(), nn.Conv2d(8, 3, 1))
    before = [p.detach().clone() for p in net.parameters()]
    optimiser = Optimiser(net, "muon", 0.01)
    net(torch.randn(4, 3, 8, 8)).square().sum().backward()
    optimiser.step(0.5)
    moved = [p.detach() - old for p, old in zip(net.parameters(), before, strict=True)]
    singular = torch.linalg.svdvals(moved[0].flatten(1).double())
    scale = 0.01 * 0.5 * 0.2 * 27**0.5  # rate, factor, and 0.2 sqrt(longer side) as Adam's steps
    assert ((singular / scale) > 0.5).all() and ((singular / scale) < 1.5).all(), singular / scale
    for step in moved[1:]:  # Adam's first step: the rate, whatever the gradient's size
        assert_close(step.abs(), torch.full_like(step, 1e-3 * 0.5), 1e-3)
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("name", ["adam", "muon"])
def test_an_optimiser_goes_on_as_if_never_saved(name: str) -> None:
    def train(net: nn.Module, optimiser: Optimiser, steps: range) -> None:
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            net(torch.randn(2, 3, 8, 8, generator=generator)).square().sum().backward()
            optimiser.step(1.0)

    torch.manual_seed(0)
    net = nn.Conv2d(3, 8, 3)
    start = deepcopy(net.state_dict())
    optimiser = Optimiser(net, name, 0.01)
    train(net, optimiser, range(3))
    saved = deepcopy((optimiser.state_dict(), net.state_dict()))
    train(net, optimiser, range(3, 6))
    again = nn.Conv2d(3, 8, 3)
    again.load_state_dict(start)
    resumed = Optimiser(again, name, 0.01)
    again.load_state_dict(saved[1])
    resumed.load_state_dict(saved[0])
    train(again, resumed, range(3, 6))
    assert torch.equal(net.weight, again.weight) and not torch.equal(net.weight, start["weight"])


def test_schedules() -> None:
    assert rate_factor("cosine", 0, 1000) == pytest.approx(0.01)
    assert rate_factor("cosine", 500, 1000) == pytest.approx(0.5)
    assert rate_factor("cosine", 1000, 1000) == pytest.approx(0.0)
    assert rate_factor("constant", 999, 1000) == 1.0


def test_the_average_is_the_exponential_mean_of_the_weights() -> None:
    weight = torch.zeros(1)
    average = Average([weight], 0.5)
    expected = 0.0
    for step in range(1, 6):
        weight += 1
        average.update([weight], step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    average.copy_to([weight])
    assert float(weight) == pytest.approx(expected)


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
    kind: str, options: DistillOptions, monkeypatch: pytest.MonkeyPatch
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
from pathlib import Path
import torch
from torch.nn.utils import parameters_to_vector
from pgn.distill import loop
from pgn.distill.options import DistillOptions

data, output, kill = sys.argv[1:]
loop.REPORT_EVERY = 1
loop.INITIAL_PIXELS = 12 * 32**2
options = DistillOptions(
    data, Path(output), backbone="nano", images=48, batch=6, crop=32, canvas=64, precision="fp32",
    workers=0, devices=2, replay=1, bank=12, optimiser="muon", save_every=0.0, patience=1,
)

def stop(figures):
    if figures.images == int(kill):
        raise SystemExit("killed")

resume = (Path(output) / "state.pt").exists()
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
loop.distil(options, stop, resume=resume)
"""


@pytest.mark.slow
def test_two_processes_stay_synchronised_and_resume_bit_for_bit(
    folder: Path, tmp_path: Path
) -> None:
    script = tmp_path / "processes.py"
    script.write_text(PROCESSES)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

    def run(output: str, kill: int) -> int:
        words = [sys.executable, str(script), str(folder), str(tmp_path / output), str(kill)]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        assert "differ" not in done.stderr and "the same" not in done.stderr, done.stderr[-2000:]
        return done.returncode

    assert run("undisturbed", 0) == 0
    assert run("killed", 24) != 0
    assert run("killed", 0) == 0
    first, second = (
        weights(tmp_path / name / "pgn-nano.safetensors") for name in ("undisturbed", "killed")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_synchronised_step_is_that_of_the_whole_batch(distiller: Distiller) -> None:
    """What DistributedDataParallel must give: the mean of the processes' gradients."""
    both = lesson()
    halves = [Lesson(*(part[k : k + 3] for part in both)) for k in (0, 3)]

    def gradient(which: Lesson) -> Tensor:
        distiller.net.zero_grad()
        proxy = distiller.net(which.u_generated, which.u_target)
        loss = distiller.meta_loss(which.u_generated - proxy, which, proxy)
        loss.backward()  # type: ignore[no-untyped-call]
        return torch.cat(
            [p.grad.flatten() for p in distiller.net.parameters() if p.grad is not None]
        )

    assert_close((gradient(halves[0]) + gradient(halves[1])) / 2, gradient(both), 1e-4)


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


@pytest.mark.parametrize("name", recipes.NAMES)
def test_shipped_recipes_are_valid_and_round_trip(name: str, tmp_path: Path) -> None:
    options = DistillOptions("photos", Path("run"), **recipes.read(name))
    text = recipes.to_toml(options).splitlines()
    written = tmp_path / "again.toml"
    written.write_text("\n".join(line for line in text if not line.startswith(("data", "output"))))
    assert DistillOptions("photos", Path("run"), **recipes.read(str(written))) == options


def test_the_papers_recipes_are_the_published_ones() -> None:
    epochs = {"paper-resnet4": 330, "paper-resnet6": 400, "paper-resnet8": 1000, "paper-unet": 2140}
    for name, count in epochs.items():
        options = DistillOptions("photos", Path("run"), **recipes.read(name))
        assert options.images == count * 512 * 48 * 8 and options.world_batch == 384
        assert (options.optimiser, options.head, options.crop) == ("adam", "constrained", 224)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch = 'many'", "batch: got 'many', expected int"),
        ("batch = true", "batch: got True, expected int"),
        ("learning_rate = [1]", "learning_rate: got"),
        ("widths = [[1, 'a']]", "widths: got"),
        ("layers = {relu1_1 = 'a'}", "layers: got"),
        ("bacth = 3", "Did you mean 'batch'"),
        ("data = 'x'", "setting.*data"),
        ("batch =", "is no TOML"),
    ],
)
def test_recipes_are_validated(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(PgnError, match=message):
        recipes.read(str(path))


def test_settings_of_the_command_line() -> None:
    assert recipes.setting("learning_rate=1e-3") == ("learning_rate", 1e-3)
    assert recipes.setting("widths=[[8], [16]]") == ("widths", [[8], [16]])
    assert recipes.setting("teacher=vgg16") == ("teacher", "vgg16")
    with pytest.raises(PgnError, match="expected key=value"):
        recipes.setting("batch")
    with pytest.raises(PgnError, match="Did you mean 'lite-cpu'"):
        recipes.read("lite-cpv")


def test_clipping_is_at_a_multiple_of_the_running_norm(
    distiller: Distiller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distiller_module, "GRADIENT_WEIGHT", 1.0)
    distiller.learn(lesson())
    before = distiller.clip.mean
    assert before is not None
    distiller.learn(lesson()._replace(residual=1e4 * lesson().residual))
    assert distiller.clip.mean == pytest.approx(0.99 * before + 0.01 * 5 * before, rel=1e-4)


@pytest.mark.parametrize("optimiser", ["adam", "muon"])
def test_a_step_moves_every_weight(optimiser: str, options: DistillOptions) -> None:
    """Muon's matrices must be views of the filters: copies would leave them where they are."""
    made = Distiller(replace(options, optimiser=optimiser), Fabric(accelerator="cpu"), None)
    made.set_up()
    before = deepcopy(made.net.state_dict())
    made.learn(lesson())
    stuck = [key for key, value in made.net.state_dict().items() if torch.equal(value, before[key])]
    assert not stuck, stuck
