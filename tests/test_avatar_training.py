"""Meta-training of the avatar: episodes, and what a step learns."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from avatar_parts import (
    drawn,
    episode,
    folder_of_persons,
    gradients,
    held_still,
    learner,
    marked_people,
    tiny_options,
)
from conftest import assert_close
from torch import Tensor
from torch.nn.utils import parameters_to_vector

import pgn
from pgn import PgnError
from pgn.avatar.episodes import _with_frames, episodes, read_cast
from pgn.avatar.landmarks import POINTS, draw
from pgn.avatar.meta import Pair
from pgn.avatar.objectives import adversarial, feature_matching
from pgn.avatar.options import GAMES, AvatarOptions
from pgn.avatar.people import People
from pgn.avatar.rendered import Plan, render_people, rendered_people, rendered_person
from pgn.distill.data import Stream
from pgn.images import normalise
from pgn.teachers import load_teacher


@pytest.fixture
def options(tmp_path: Path) -> AvatarOptions:
    return tiny_options(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folder_of_persons(tmp_path)


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
    landmarks = (tmp_path / "landmarks.npy").read_bytes()
    render_people(tmp_path, Plan(2, 3, 32), workers=0)
    (tmp_path / "landmarks.npy").write_bytes(landmarks)  # as when killed between the two renames
    render_people(tmp_path, Plan(2, 3, 32), workers=0)
    assert rendered_people(tmp_path)[1].landmarks.shape == (3, len(POINTS), 2)
    (tmp_path / "images.npy").write_bytes(b"cut")
    with pytest.raises(PgnError, match="is damaged.*Remove it"):
        render_people(tmp_path, Plan(2, 3, 32), workers=0)


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
