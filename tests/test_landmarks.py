"""Landmarks: the compact set and its drawing, against brute force and between torch and numpy."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SHARED, assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pgn.avatar import landmarks
from pgn.avatar.synthetic import identity, poses, render
from pgn.errors import PgnError
from pgn_runtime import landmarks as device
from pgn_runtime.errors import RuntimeInputError

COUNT = len(landmarks.POINTS)
SEEDS = st.integers(0, 2**32 - 1)


def scattered(seed: int, count: int, spread: float) -> Tensor:
    """Landmarks (count, L, 2) anywhere in and around the image."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(count, COUNT, 2, generator=generator) - 0.5) * spread + 0.5


def group_means(points: Tensor) -> dict[str, Tensor]:
    """Every group's middle, (N, 2)."""
    return {
        name: points[:, [landmarks.POINTS.index(index) for index in group.indices]].mean(1)
        for name, group in landmarks.GROUPS.items()
    }


def brute_force(points: Tensor, size: int) -> np.ndarray[Any, Any]:
    """One picture (3, size, size): every pixel and every segment on its own, in float64."""
    image = np.zeros((3, size, size))
    centres = (np.stack(np.meshgrid(*[np.arange(size)] * 2), -1) + 0.5)[:, :, None]  # (H, W, 1, 2)
    pixels = points.double().numpy() * size
    half, first = 0.75 * size / 128, 0
    for group in landmarks.GROUPS.values():
        line = pixels[first : first + len(group.indices)]
        first += len(group.indices)
        line = np.concatenate([line, line[:1]]) if group.closed else line
        start, run = line[:-1], np.diff(line, axis=0)
        along = ((centres - start) * run).sum(-1) / (run**2).sum(-1)
        nearest = start + np.clip(along, 0, 1)[..., None] * run
        distance = np.linalg.norm(centres - nearest, axis=-1).min(-1)
        coverage = np.clip(((half + 0.5) ** 2 - distance**2) / (2 * half), 0, 1)
        image = np.maximum(image, np.array(group.colour)[:, None, None] * coverage)
    return image


def test_the_device_has_the_same_table() -> None:
    assert list(landmarks.GROUPS) == list(device.GROUPS)
    for name, group in landmarks.GROUPS.items():
        assert tuple(group) == tuple(device.GROUPS[name]), name
    assert landmarks.POINTS == device.POINTS
    for name in ("MESH_POINTS", "HALF_WIDTH", "MAX_VALUE", "TINY"):
        assert getattr(landmarks, name) == getattr(device, name)


def test_every_point_is_one_of_the_mesh_and_no_colour_is_taken_twice_but_the_irises() -> None:
    assert len(set(landmarks.POINTS)) == COUNT
    assert set(landmarks.POINTS) < set(range(landmarks.MESH_POINTS))
    colours = [group.colour for name, group in landmarks.GROUPS.items() if "iris" not in name]
    assert len(set(colours)) == len(colours)


@settings(max_examples=12, deadline=None)
@given(SEEDS, st.integers(1, 3), st.sampled_from((64, 128, 256, 96)), st.floats(0.01, 4))
def test_torch_and_numpy_draw_the_same_pixels(
    seed: int, count: int, size: int, spread: float
) -> None:
    points = scattered(seed, count, spread)
    trained, drawn = landmarks.draw(points, size).numpy(), device.draw(points.numpy(), size)
    assert trained.dtype == drawn.dtype == np.float32
    assert trained.shape == drawn.shape == (count, 3, size, size)
    assert np.array_equal(trained, drawn), np.abs(trained - drawn).max()


@settings(max_examples=6, deadline=None)
@given(SEEDS, st.sampled_from((32, 64, 100)), st.floats(0.1, 3))
def test_lines_are_those_of_brute_force(seed: int, size: int, spread: float) -> None:
    points = scattered(seed, 2, spread)
    drawn = landmarks.draw(points, size)
    for picture, place in zip(drawn, points, strict=True):
        assert np.abs(picture.numpy() - brute_force(place, size)).max() < 1e-4 * max(spread, 1)


def test_a_face_is_drawn_by_brute_force_too() -> None:
    points = render(identity(3), poses(3, 2), 16)[1]
    drawn = landmarks.draw(points, 96)
    assert_close(drawn[1], brute_force(points[1], 96), 1e-4)
    assert_close(drawn[:1], landmarks.draw(points[:1], 96), 0)  # no matter what is beside it


def test_a_line_without_length_is_a_dot() -> None:
    points = torch.full((1, COUNT, 2), 0.5)
    drawn = landmarks.draw(points, 64)
    assert np.array_equal(drawn.numpy(), device.draw(points.numpy(), 64))
    assert drawn.isfinite().all()
    lit = drawn.amax(dim=(0, 1)).nonzero()
    assert lit.tolist() == [[31, 31], [31, 32], [32, 31], [32, 32]]


def test_what_lies_outside_of_the_image_is_not_drawn() -> None:
    assert not landmarks.draw(scattered(0, 1, 0.5) + 2, 64).any()
    assert landmarks.draw(scattered(0, 1, 0.5), 64).any()


def test_compact_picks_the_points_in_their_order() -> None:
    mesh = torch.rand(2, landmarks.MESH_POINTS, 2).half()
    found = landmarks.compact(mesh)
    assert found.dtype == torch.float32
    for place, index in enumerate(landmarks.POINTS):
        assert torch.equal(found[:, place], mesh[:, index].float())
    assert np.array_equal(found, device.compact(mesh.numpy()))


def expect_a_face(points: Tensor) -> None:
    """Groups lie as in the photo of an upright person."""
    middle = group_means(points)
    for left, right in (("left_brow", "right_brow"), ("left_eye", "right_eye")):
        assert (middle[left] > middle[right])[:, 0].all(), left
    order = ("right_brow", "right_iris", "nose_bridge", "nose_bottom", "outer_lips")
    for above, below in itertools.pairwise(order):
        assert (middle[above] < middle[below])[:, 1].all(), (above, below)
    for side in ("left", "right"):
        eye_width = (middle["left_eye"] - middle["right_eye"])[:, 0] / 2
        off = (middle[f"{side}_iris"] - middle[f"{side}_eye"]).norm(dim=1)
        assert (off < 0.5 * eye_width).all()
    oval = points[:, : len(landmarks.OVAL)]
    rest = points[:, len(landmarks.OVAL) :].mean(1)
    assert ((oval.amin(1) < rest) & (rest < oval.amax(1))).all()


def test_the_groups_of_real_clips_are_what_their_names_say() -> None:
    folder = SHARED / "data" / "heads"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here; the test of drawn people is the offline twin")
    for clip in sorted(folder.iterdir()):
        with np.load(clip / "landmarks.npz") as file:
            expect_a_face(landmarks.compact(torch.from_numpy(file["landmarks"])[:8]))


def test_the_groups_of_drawn_people_are_what_their_names_say() -> None:
    for seed in range(8):
        expect_a_face(render(identity(seed), poses(seed, 128)[::32], 16)[1])


@pytest.mark.parametrize(
    ("shape", "hint"), [((1, 68, 2), "81, 2.*compact"), ((COUNT, 2), "81, 2"), ((0, COUNT, 2), "N")]
)
def test_another_number_of_landmarks_is_refused(shape: tuple[int, ...], hint: str) -> None:
    with pytest.raises(PgnError, match=rf"landmarks: got shape \({shape[0]}, .*{hint}"):
        landmarks.draw(torch.zeros(shape), 64)
    with pytest.raises(RuntimeInputError, match=rf"landmarks: got shape \({shape[0]}, .*{hint}"):
        device.draw(np.zeros(shape), 64)


def test_a_mesh_without_irises_is_refused() -> None:
    with pytest.raises(PgnError, match=r"mesh: got shape \(1, 468, 2\), .*478.*irises"):
        landmarks.compact(torch.zeros(1, 468, 2))
    with pytest.raises(RuntimeInputError, match=r"mesh: got shape \(1, 468, 2\), .*478.*irises"):
        device.compact(np.zeros((1, 468, 2)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -128.0])
def test_values_that_are_no_fractions_are_refused(value: float) -> None:
    points = torch.zeros(1, COUNT, 2)
    points[0, 7, 1] = value
    with pytest.raises(PgnError, match="landmarks: got NaN or values up to .* fractions"):
        landmarks.draw(points, 64)
    with pytest.raises(RuntimeInputError, match="landmarks: got NaN or values up to .* fractions"):
        device.draw(points.numpy(), 64)


def test_an_image_without_pixels_is_refused() -> None:
    with pytest.raises(PgnError, match="size: got 0"):
        landmarks.draw(torch.zeros(1, COUNT, 2), 0)
    with pytest.raises(RuntimeInputError, match="size: got 0"):
        device.draw(np.zeros((1, COUNT, 2)), 0)
