"""Avatars on disk: round trip, and everything that must be refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import assert_close
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import pgn
from pgn import PgnError
from pgn.avatar import GeneratorConfig
from pgn.avatar.checkpoint import load, save
from pgn.avatar.model import Avatar

Described = dict[str, Any]
State = dict[str, Tensor]


def tiny() -> Avatar:
    torch.manual_seed(1)
    info = {"training": {"images": 3}, "licence": "Apache-2.0"}
    return Avatar(GeneratorConfig(16, (4, 6), 1), (4, 8), info).eval()


def photos(count: int = 3, side: int = 16) -> tuple[Tensor, Tensor]:
    """images and conditions, (count, 3, side, side)."""
    generator = torch.Generator().manual_seed(2)
    images, conditions = torch.rand(2, count, 3, side, side, generator=generator)
    return images, conditions


def test_round_trip_keeps_weights_shape_and_info(tmp_path: Path) -> None:
    avatar, (images, conditions) = tiny(), photos()
    again = load(save(avatar, tmp_path / "avatar.safetensors"))
    assert (again.config.size, list(again.config.widths)) == (16, [4, 6])
    assert (again.embedder_widths, again.info) == ((4, 8), avatar.info)
    assert not again.training and all(p.requires_grad for p in again.parameters())
    before, after = avatar.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    inputs = images[None], conditions[None], conditions[:1]
    for found, wanted in zip(again(*inputs), avatar(*inputs), strict=True):
        assert_close(found.detach(), wanted.detach(), 1e-5)  # memory is aligned otherwise


def test_a_person_is_drawn_as_the_avatar_draws_it() -> None:
    avatar, (images, conditions) = tiny(), photos()
    new = torch.rand(2, 3, 16, 16)
    person = avatar.person(images, conditions)
    with torch.no_grad():
        identity = torch.stack(
            [avatar.embedder(images[k : k + 1], conditions[k : k + 1])[0] for k in range(3)]
        ).mean(0)
        wanted = avatar.generator(new, avatar.embedder.style(identity[None]))
        both, identities = avatar(
            images.expand(2, -1, -1, -1, -1), conditions.expand(2, -1, -1, -1, -1), new
        )
        assert_close(person(new), wanted, 1e-5)
        assert_close(both, wanted, 1e-5)
        assert_close(identities, identity.expand(2, -1), 1e-5)


@pytest.mark.parametrize(
    "shapes",
    [((3, 16, 16), (3, 16, 16)), ((0, 3, 16, 16),) * 2, ((2, 3, 16, 16), (3, 3, 16, 16))],
)
def test_a_person_needs_pairs_of_photos_and_drawings(shapes: tuple[tuple[int, ...], ...]) -> None:
    images, conditions = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(PgnError, match="expected .K, 3, H, W. of both"):
        tiny().person(images, conditions)


def missing(state: State, described: Described) -> None:
    del state["generator.encoder.0.weight"]


def shape(state: State, described: Described) -> None:
    state["embedder.projection.bias"] = torch.zeros(3)


def not_finite(state: State, described: Described) -> None:
    state["embedder.projection.bias"][0] = torch.nan


def newer(state: State, described: Described) -> None:
    described["format"] = 99


def no_generator(state: State, described: Described) -> None:
    del described["generator"]


def other_setting(state: State, described: Described) -> None:
    described["generator"]["colour"] = 3


def widths_of_text(state: State, described: Described) -> None:
    described["generator"]["widths"] = "ab"


def no_multiple(state: State, described: Described) -> None:
    described["generator"]["size"] = 15


def many_blocks(state: State, described: Described) -> None:
    described["generator"]["blocks"] = 2**30


def wide(state: State, described: Described) -> None:
    described["generator"]["widths"] = [4, 2**62]


def many_widths(state: State, described: Described) -> None:
    described["embedder"]["widths"] = [4] * 10_000


def no_embedder(state: State, described: Described) -> None:
    described["embedder"] = [4]


def half_a_channel(state: State, described: Described) -> None:
    described["embedder"]["widths"] = [4.5, 8]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (missing, "does not fit avatar: missing: generator.encoder.0.weight"),
        (shape, r"embedder.projection.bias: got shape \(3,\)"),
        (not_finite, "embedder.projection.bias: holds NaN"),
        (newer, "format 99"),
        (no_generator, "expected a generator with blocks, size, widths"),
        (other_setting, "expected a generator with blocks, size, widths"),
        (widths_of_text, "two widths or more"),
        (no_multiple, "multiple of 2"),
        (many_blocks, "cannot be built"),
        (wide, "cannot be built"),
        (many_widths, "cannot be built"),
        (no_embedder, "expected an embedder with widths"),
        (half_a_channel, "expected an embedder with widths"),
    ],
)
def test_what_does_not_fit_is_refused(
    change: Callable[[State, Described], None], message: str, tmp_path: Path
) -> None:
    path = save(tiny(), tmp_path / "avatar.safetensors")
    with safe_open(path, framework="pt") as file:
        described = json.loads(file.metadata()["pgn_avatar"])
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(state, described)
    save_file(state, path, {"pgn_avatar": json.dumps(described)})
    with pytest.raises(PgnError, match=message):
        load(path)


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    network = tmp_path / "net.safetensors"
    pgn.save(pgn.load("pgn-nano"), network)
    with pytest.raises(PgnError, match="no valid 'pgn_avatar' metadata"):
        load(network)
    avatar = save(tiny(), tmp_path / "avatar.safetensors")
    with pytest.raises(PgnError, match="no valid 'pgn' metadata"):
        pgn.load(avatar)
    avatar.write_bytes(avatar.read_bytes()[:-50])
    with pytest.raises(PgnError, match="no readable .safetensors"):
        load(avatar)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("avatar-dmo", "Did you mean 'avatar-demo'"),
        ("gone.safetensors", "no file gone.safetensors"),
    ],
)
def test_unknown_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(PgnError, match=message):
        load(name)


def test_a_diverged_avatar_is_not_saved(tmp_path: Path) -> None:
    avatar = tiny()
    with torch.no_grad():
        avatar.embedder.projection.bias[0] = torch.inf
    with pytest.raises(PgnError, match="diverged"):
        save(avatar, tmp_path / "avatar.safetensors")
    with pytest.raises(PgnError, match=r"ending in .safetensors"):
        save(tiny(), tmp_path / "avatar.pt")
    assert list(tmp_path.iterdir()) == []
