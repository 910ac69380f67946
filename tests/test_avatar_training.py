"""Meta-training of the avatar: episodes, the objective, runs, and what is refused."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assert_close
from PIL import Image
from torch import Tensor
from torch.nn.utils import parameters_to_vector
from typer.testing import CliRunner

import pgn
from pgn import PgnError
from pgn.avatar import loop
from pgn.avatar.checkpoint import load
from pgn.avatar.episodes import Episode, _with_frames, episodes, read_cast
from pgn.avatar.landmarks import POINTS, draw
from pgn.avatar.loop import Run, meta_train
from pgn.avatar.meta import MetaLearner, Pair
from pgn.avatar.objectives import adversarial, feature_matching
from pgn.avatar.options import GAMES, AvatarOptions
from pgn.avatar.people import People, Person
from pgn.avatar.recipes import RECIPES
from pgn.avatar.rendered import HELD_OUT, Plan, render_people, rendered_people, rendered_person
from pgn.distill.cli import app
from pgn.distill.data import Stream
from pgn.distill.run import start_fabric
from pgn.images import normalise
from pgn.teachers import load_teacher

TINY: dict[str, Any] = {
    "images": 12,
    "batch": 2,
    "shots": 2,
    "identities": 3,
    "poses": 4,
    "size": 32,
    "widths": [8, 16],
    "blocks": 1,
    "perceptual": "ncc",
    "precision": "fp32",
    "workers": 0,
}


@pytest.fixture
def options(tmp_path: Path) -> AvatarOptions:
    return AvatarOptions("synthetic", tmp_path / "run", **TINY)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three persons of four frames: ann, bob and cy."""
    for seed, name in enumerate(("ann", "bob", "cy"), start=10):
        person = rendered_person(seed, 4, 32)
        place = tmp_path / "people" / name
        place.mkdir(parents=True)
        for k, image in enumerate(person.images):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / f"{k}.png")
        np.savez(place / "landmarks.npz", landmarks=person.landmarks.numpy())
    return tmp_path / "people"


def marked_people(count: int, frames: int, first: int = 0) -> People:
    """Persons whose pixels are 16 times their number (from `first` on) plus that of the frame."""

    def read(number: int) -> Person:
        values = torch.arange(frames, dtype=torch.uint8) + 16 * number
        images = values.view(-1, 1, 1, 1).expand(-1, 3, 32, 32)
        generator = torch.Generator().manual_seed(number)
        return Person(str(number), images, torch.rand(frames, len(POINTS), 2, generator=generator))

    return People({str(first + k): partial(read, first + k) for k in range(count)})


def learner(options: AvatarOptions, persons: int = 3) -> MetaLearner:
    return MetaLearner(options, start_fabric(options), persons)


def episode(options: AvatarOptions, seed: int = 0) -> Episode:
    generator = torch.Generator().manual_seed(seed)
    shape = (options.batch, options.shots + 1, 3, options.size, options.size)
    images = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    return Episode(
        torch.arange(options.batch) % 3, images, torch.rand(shape, generator=generator), []
    )


def gradients(meta: MetaLearner) -> dict[str, Tensor]:
    """Of the avatar's weights, after a step that is stopped before they move."""
    found = {
        name: parameter.grad.clone()
        for name, parameter in meta.avatar.named_parameters()
        if parameter.grad is not None
    }
    meta.avatar.zero_grad()
    return found


def held_still(meta: MetaLearner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meta.optimiser, "step", lambda factor: None)


def drawn(meta: MetaLearner, shown: Episode) -> tuple[Pair, Tensor]:
    """What the step must draw, image by image, and the identities (B, E)."""
    images, conditions = shown.images.float() / 255, shown.conditions
    generated, identities = [], []
    for k in range(len(images)):
        identity = meta.avatar.embedder(images[k, :-1], conditions[k, :-1]).mean(0)
        style = meta.avatar.embedder.style(identity[None])
        generated.append(meta.avatar.generator(conditions[k, -1:], style))
        identities.append(identity)
    pair = Pair(torch.cat(generated), images[:, -1], conditions[:, -1], shown.persons)
    return pair, torch.stack(identities)


# --- episodes


def test_frames_that_show_a_person_are_others_than_the_one_to_draw() -> None:
    sources = [marked_people(3, 5), marked_people(2, 5, first=3)]
    counts = torch.zeros(5)
    stream = episodes(sources, 3, Stream(0, 4), workers=0)
    for _, step in zip(range(25), stream, strict=False):
        values = step.images[:, :, 0, 0, 0].long()  # (B, K + 1)
        assert (values // 16 == step.persons[:, None]).all()
        assert all(len(set(row.tolist())) == 4 for row in values)
        counts += torch.bincount(step.persons, minlength=5)
    assert 0.35 < counts[:3].sum() / counts.sum() < 0.65  # sources are drawn as often
    assert counts.min() > 5


def test_conditions_are_the_drawn_landmarks_of_their_frames() -> None:
    people = marked_people(2, 4)
    step = next(episodes([people], 2, Stream(0, 3), workers=0))
    for k, person in enumerate(step.persons.tolist()):
        frames = step.images[k, :, 0, 0, 0].long() % 16
        wanted = draw(people[person].landmarks[frames], 32)
        assert_close(step.conditions[k], wanted, 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_step_depends_on_its_number_alone(workers: int) -> None:
    people = [marked_people(4, 5)]
    whole = episodes(people, 2, Stream(0, 2), workers=0)
    steps = [next(whole) for _ in range(4)]
    again = episodes(people, 2, Stream(0, 2, start=1), workers)
    for wanted in steps[1:]:
        found = next(again)
        assert torch.equal(found.images, wanted.images)
        assert torch.equal(found.persons, wanted.persons)
    other_rank = next(episodes(people, 2, Stream(0, 2, rank=1, world=2), workers=0))
    assert not torch.equal(other_rank.images, steps[0].images)


def test_held_out_persons_are_never_drawn(options: AvatarOptions, folder: Path) -> None:
    chosen = replace(options, data=f"synthetic,{folder}", holdout=["bob"])
    rendered = chosen.output / "synthetic"
    render_people(rendered, Plan(3, 4, 32), workers=0)
    cast = read_cast(chosen, rendered)
    assert [people.names for people in cast.training] == [
        ["synthetic-0", "synthetic-1", "synthetic-2"],
        ["ann", "cy"],
    ]
    assert [people.names for people in cast.held_out] == [["bob"]] and cast.persons == 5
    bob = cast.held_out[0][0].images
    stream = episodes(cast.training, 2, Stream(0, 8), workers=0)
    seen: set[int] = set()
    for _, step in zip(range(20), stream, strict=False):
        seen |= set(step.persons.tolist())
        frames = step.images.flatten(0, 1)
        assert not any(torch.equal(frame, image) for frame in frames for image in bob)
    assert seen == {0, 1, 2, 3, 4}
    with pytest.raises(PgnError, match="holdout: got 'bbo'.*Did you mean 'bob'"):
        read_cast(replace(chosen, holdout=["bbo"]), rendered)


def test_persons_with_too_few_frames_are_skipped_and_named(options: AvatarOptions) -> None:
    few = marked_people(1, 2)
    many = marked_people(1, 4, first=1)
    people = People({**few.readers, **many.readers})
    stream = episodes([_with_frames(people, 3)], 2, Stream(0, 4), workers=0)
    names: list[str] = []
    for _, step in zip(range(8), stream, strict=False):
        assert step.persons.tolist() == [1] * 4
        names += step.skipped
    assert len(names) == 1 and "0 (got 2 frames, expected 3" in names[0]
    with pytest.raises(PgnError, match="in a row could not be read.*shots=N"):
        next(episodes([_with_frames(few, 3)], 2, Stream(0, 4), workers=1))


# --- rendered people


def test_rendered_people_are_those_of_their_seeds_and_rendered_once(tmp_path: Path) -> None:
    render_people(tmp_path, Plan(2, 3, 32), workers=0)
    written = (tmp_path / "images.npy").stat().st_mtime_ns
    people = rendered_people(tmp_path)
    for seed, person in enumerate(people):
        wanted = rendered_person(seed, 3, 32)
        assert person.name == wanted.name == f"synthetic-{seed}"
        assert torch.equal(person.images, wanted.images)
        assert torch.equal(person.landmarks, wanted.landmarks)
    render_people(tmp_path, Plan(2, 3, 32), workers=0)
    assert (tmp_path / "images.npy").stat().st_mtime_ns == written
    render_people(tmp_path, Plan(3, 2, 32), workers=2)
    assert len(rendered_people(tmp_path)) == 3
    (tmp_path / "images.npy").write_bytes(b"cut")
    with pytest.raises(PgnError, match="is damaged.*Remove it"):
        render_people(tmp_path, Plan(3, 2, 32), workers=0)


# --- the objective


def test_the_gradient_of_a_step_is_autograds(
    options: AvatarOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    meta = learner(replace(options, perceptual_weight=3.0, mse_weight=0.7))
    held_still(meta, monkeypatch)
    shown = episode(options)
    losses = meta.step(shown)
    found = gradients(meta)
    pair, _ = drawn(meta, shown)
    teacher = load_teacher("ncc")
    mse = (normalise(pair.generated) - normalise(pair.target)).square().mean((1, 2, 3))
    (3.0 * (teacher(pair.generated, pair.target) + 0.7 * mse)).mean().backward()  # type: ignore[no-untyped-call]
    wanted = gradients(meta)
    assert found.keys() == wanted.keys() and len(found) == len(list(meta.avatar.parameters()))
    for name in wanted:
        assert_close(found[name], wanted[name], 1e-3)
    mse = (pair.generated.detach() - pair.target).square().mean()
    assert losses == pytest.approx({"mse": float(mse)}, rel=1e-4)


def test_a_pgns_gradient_is_a_mean_over_the_batch(options: AvatarOptions) -> None:
    net = pgn.load("pgn-nano")
    meta = learner(replace(options, perceptual="pgn-nano", mse_weight=2.0))
    generated, target = torch.rand(2, 3, 3, 32, 32)
    pair = Pair(generated, target, target, torch.zeros(3, dtype=torch.long))
    found = meta.pull(pair)
    for k in range(3):
        alone = net.gradient(generated[k : k + 1], target[k : k + 1], mse_weight=2.0)
        assert_close(found[k : k + 1], alone / 3, 1e-5)


def test_all_objectives_together_are_their_weighted_sum(
    options: AvatarOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = replace(
        options,
        adversarial="hinge",
        adversarial_weight=0.5,
        matching_weight=3.0,
        embedding_weight=7.0,
    )
    meta = learner(chosen)
    held_still(meta, monkeypatch)
    assert meta.opponent is not None
    monkeypatch.setattr(meta.opponent, "learn", lambda pair: 1.5)
    judge = copy.deepcopy(meta.opponent.net)  # spectral norm changes with every forward pass
    shown = episode(chosen)
    losses = meta.step(shown)
    found = gradients(meta)
    assert all(parameter.grad is None for parameter in meta.opponent.net.parameters())

    pair, identity = drawn(meta, shown)
    person = judge.people.detach()[shown.persons]
    scores, features = judge(pair.generated, pair.condition, person)
    _, real = judge(pair.target, pair.condition, person)
    matching = feature_matching(features, real)
    embedding = (identity - person).abs().mean()
    mse = (normalise(pair.generated) - normalise(pair.target)).square().mean((1, 2, 3))
    image = (load_teacher("ncc")(pair.generated, pair.target) + 2.0 * mse).mean()
    (image - 0.5 * scores.mean() + 3.0 * matching + 7.0 * embedding).backward()
    for name, wanted in gradients(meta).items():
        assert_close(found[name], wanted, 1e-3)
    assert losses == pytest.approx(
        {
            "mse": losses["mse"],
            "discriminator": 1.5,
            "adversarial": -float(scores.detach().mean()),
            "matching": float(matching.detach()),
            "embedding": float(embedding.detach()),
        },
        rel=1e-4,
    )


@pytest.mark.parametrize("game", [name for name in GAMES if name != "none"])
def test_the_discriminator_learns_and_moves_nothing_else(game: str, options: AvatarOptions) -> None:
    chosen = replace(options, adversarial=game)
    meta = learner(chosen)
    assert meta.opponent is not None
    before = parameters_to_vector(meta.avatar.parameters()).clone()
    pair, _ = drawn(meta, episode(chosen))
    losses = [meta.opponent.learn(pair) for _ in range(6)]
    assert losses[-1] < losses[0], losses
    assert all(parameter.grad is None for parameter in meta.avatar.parameters())
    assert torch.equal(parameters_to_vector(meta.avatar.parameters()), before)


def test_only_wgan_gp_is_penalised(options: AvatarOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def penalty(critic: Callable[[Tensor], Tensor], real: Tensor, generated: Tensor) -> Tensor:
        calls.append(len(critic(real)))
        return torch.zeros(())

    monkeypatch.setattr("pgn.avatar.meta.gradient_penalty", penalty)
    for game, count in (("wgan", 0), ("wgan-gp", 2)):
        meta = learner(replace(options, adversarial=game))
        meta.step(episode(options))
        assert calls == [options.batch] * count
    assert adversarial("wgan") is meta.opponent.game  # type: ignore[union-attr]


def test_without_a_game_no_discriminator_is_built(
    options: AvatarOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgn.avatar.meta.Discriminator", None)
    meta = learner(options)
    assert meta.opponent is None and list(meta.step(episode(options))) == ["mse"]
    with pytest.raises(TypeError):
        learner(replace(options, adversarial="hinge"))


def test_an_avatar_learns(options: AvatarOptions) -> None:
    chosen = replace(options, images=600, shots=1, learning_rate=1e-2, mse_weight=4.0)
    meta = learner(chosen)
    shown = episode(chosen)
    flat = shown._replace(images=torch.full_like(shown.images, 40))
    losses = [meta.step(flat)["mse"] for _ in range(30)]
    assert losses[-1] < 0.3 * losses[0], losses


def test_a_diverged_training_is_told(options: AvatarOptions) -> None:
    meta = learner(options)
    with torch.no_grad():
        meta.avatar.generator.last.image.bias.fill_(torch.nan)  # type: ignore[union-attr]
    with pytest.raises(PgnError, match="learning.rate"):
        meta.step(episode(options))


# --- runs


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
    assert training["data"] == ["synthetic", str(folder)] and training["images"] == 12
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


def test_the_recipe_for_256_pixels_is_the_papers() -> None:
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
