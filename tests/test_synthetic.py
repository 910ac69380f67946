"""Drawn people: the same for the same seed, plainly different otherwise, with exact landmarks."""

from __future__ import annotations

import random as python_random
from dataclasses import astuple, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pgn.avatar import landmarks
from pgn.avatar.synthetic import Identity, Pose, features, geometry, identity, poses, render
from pgn.avatar.synthetic.background import room
from pgn.avatar.synthetic.head import Head
from pgn.avatar.synthetic.identity import BACKGROUNDS, PATTERNS
from pgn.avatar.synthetic.poses import RANGES, SLOWEST
from pgn.avatar.synthetic.textures import dots, noise
from pgn.errors import PgnError

SEEDS = st.integers(0, 10**6)
ANGLES = st.tuples(st.floats(-35, 35), st.floats(-25, 25), st.floats(-15, 15))
GREEN = (0.0, 1.0, 0.0)


def bare(seed: int) -> Identity:
    """A person whom nothing hides: no hair, glasses or beard, in even light."""
    person = identity(seed)
    return replace(
        person,
        face=replace(person.face, beard=0.0, moustache=0.0, freckles=0.0),
        hair=replace(person.hair, volume=0.0),
        glasses=None,
        scene=replace(person.scene, ambient=1.0, light=(0.0, 0.0), tint=(1.0, 1.0, 1.0)),
    )


def group(points: Tensor, name: str) -> Tensor:
    """One group of landmarks (L, 2)."""
    return points[[landmarks.POINTS.index(index) for index in landmarks.GROUPS[name].indices]]


def colours_at(image: Tensor, places: Tensor) -> Tensor:
    """Colours (P, 3) of the pixels at places (P, 2), fractions of the side."""
    size = image.shape[-1]
    x, y = (places * size).long().clamp(0, size - 1).T
    return image[:, y, x].T.float()


def green(colours: Tensor) -> Tensor:
    return colours[:, 1] > 1.5 * colours[:, ::2].amax(1) + 10


def test_the_same_seed_gives_the_same_pictures_and_leaves_other_random_numbers_alone() -> None:
    before = torch.get_rng_state(), python_random.getstate(), str(np.random.get_state())
    person, moves = identity(7), poses(7, 64)[::30]
    assert identity(7) == person and poses(7, 64)[::30] == moves
    for first, second in zip(render(person, moves, 48), render(person, moves, 48), strict=True):
        assert torch.equal(first, second)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (python_random.getstate(), str(np.random.get_state()))


def test_people_differ() -> None:
    pictures = torch.cat([render(identity(seed), [Pose()], 48)[0] for seed in range(12)]).float()
    faces = pictures[:, :, 12:38, 16:32].flatten(1)
    apart = torch.cdist(faces, faces, p=1) / faces.shape[1]
    apart.fill_diagonal_(255)
    assert apart.min() > 8, f"{apart.min():.1f} of 255 between the two most similar faces"
    shapes = np.array([astuple(identity(seed).shape) for seed in range(12)])
    assert (shapes.std(axis=0) > 0).all()


def test_every_background_and_pattern_can_be_drawn() -> None:
    person = identity(1)
    walls = set()
    for background in BACKGROUNDS:
        scene = replace(person.scene, background=background)
        walls.add(room(scene, 1, 32).tobytes())
    clothes = set()
    for pattern in PATTERNS:
        scene = replace(person.scene, pattern=pattern)
        clothes.add(render(replace(person, scene=scene), [Pose()], 32)[0].numpy().tobytes())
    assert len(walls) == len(BACKGROUNDS) and len(clothes) == len(PATTERNS)


@settings(max_examples=20, deadline=None)
@given(SEEDS, ANGLES, st.floats(-0.1, 0.1), st.floats(0.8, 1.2))
def test_landmarks_turn_as_a_rigid_head_does(
    seed: int, angles: tuple[float, float, float], shift: float, scale: float
) -> None:
    yaw, pitch, roll = angles
    person = identity(seed)
    pose = Pose(yaw=yaw, pitch=pitch, roll=roll, x=shift, y=-shift, scale=scale)
    x, y, z = features.head_landmarks(person, Pose()).astype(np.float64) - geometry.PIVOT
    turn, nod, tilt = (np.exp(1j * np.deg2rad(angle)) for angle in angles)
    plane = (x + 1j * y) * tilt
    x, y = plane.real, plane.imag
    plane = (z + 1j * y) * nod
    z, y = plane.real, plane.imag
    x = ((z + 1j * x) * turn).imag
    seen = np.stack([x, y]) + geometry.PIVOT[:2]
    centre = np.add(geometry.CENTRE, (shift, -shift))
    expected = (geometry.SCALE * scale * seen).T + centre
    assert_close(features.image_landmarks(person, pose), expected, 1e-5)


def test_the_directions_of_a_pose_are_those_of_the_image() -> None:
    def nose(pose: Pose) -> Tensor:
        return group(render(identity(2), [pose], 16)[1][0], "nose_bridge")[-1]

    rest = nose(Pose())
    assert nose(Pose(yaw=20))[0] > rest[0] + 0.05
    assert nose(Pose(pitch=15))[1] > rest[1] + 0.03
    assert torch.allclose(nose(Pose(x=0.1, y=0.05)) - rest, torch.tensor([0.1, 0.05]), atol=1e-6)
    looking = features.image_landmarks(identity(2), Pose(gaze_x=1, gaze_y=1))
    ahead = features.image_landmarks(identity(2), Pose())
    moved = group(torch.from_numpy(looking - ahead), "left_iris")
    assert (moved[:, 0] > 0.01).all() and (moved[:, 1] > 0.003).all()
    eyes = render(identity(2), [Pose(roll=10)], 16)[1][0]
    assert group(eyes, "left_eye").mean(0)[1] > group(eyes, "right_eye").mean(0)[1] + 0.02


@pytest.mark.parametrize("yaw", [-25, 0, 25])
@pytest.mark.parametrize("gaze", [-0.8, 0.8])
def test_iris_landmarks_lie_around_iris_coloured_pixels(yaw: float, gaze: float) -> None:
    person = bare(4)
    person = replace(person, face=replace(person.face, iris=GREEN, shadow=0.0))
    images, points = render(person, [Pose(yaw=yaw, gaze_x=gaze, brow=0.3)], 256)
    for name in ("left_iris", "right_iris"):
        ring = group(points[0], name)
        centre = ring.mean(0)
        sides = ring[::2]  # the lids hide its top and bottom
        assert green(colours_at(images[0], centre + 0.7 * (sides - centre))).all(), name
        outside = green(colours_at(images[0], centre + 1.5 * (sides - centre)))
        assert not outside.any(), name


@pytest.mark.parametrize(
    "pose", [Pose(), Pose(yaw=-30, roll=10, smile=0.8), Pose(pitch=15, mouth=1)]
)
def test_lip_landmarks_enclose_lip_coloured_pixels(pose: Pose) -> None:
    person = bare(5)
    person = replace(
        person,
        face=replace(person.face, lips=GREEN),
        shape=replace(person.shape, upper_lip=0.06, lower_lip=0.08),
    )
    images, points = render(person, [pose], 256)
    outer, inner = group(points[0], "outer_lips"), group(points[0], "inner_lips")
    upper, lower = outer[[2, 3, 4]], outer[[10, 9, 8]]
    for edge, seam in ((upper, inner[[1, 2, 3]]), (lower, inner[[7, 6, 5]])):
        between = 0.5 * edge + 0.5 * seam
        assert green(colours_at(images[0], between)).all()
        assert not green(colours_at(images[0], edge + 0.35 * (edge - seam))).any()
    if pose.mouth:
        assert not green(colours_at(images[0], 0.5 * (inner[[2]] + inner[[6]]))).any()


def test_brow_landmarks_lie_on_the_upper_edge_of_the_brows() -> None:
    person = bare(6)
    person = replace(
        person,
        hair=replace(person.hair, colour=GREEN),
        face=replace(person.face, brow_thickness=0.05),
    )
    images, points = render(person, [Pose(yaw=10)], 256)
    for name in ("left_brow", "right_brow"):
        middle = group(points[0], name)[1:4]
        step = torch.tensor([0.0, 0.6 * 0.05 * geometry.SCALE])
        assert green(colours_at(images[0], middle + step)).float().mean() > 0.6, name
        assert not green(colours_at(images[0], middle - 2 * step)).any(), name


def test_the_jaw_and_the_chin_are_where_skin_ends() -> None:
    person = bare(8)
    person = replace(person, scene=replace(person.scene, background="plain", wall=GREEN))
    images, points = render(person, [Pose()], 256)
    oval = group(points[0], "oval")
    centre = oval.mean(0)
    cheeks = oval[[4, 5, 13, 14]]  # ears lie above
    assert not green(colours_at(images[0], centre + 0.97 * (cheeks - centre))).any()
    assert green(colours_at(images[0], centre + 1.25 * (oval[[5, 13]] - centre))).all()


@pytest.mark.parametrize(
    ("name", "upper", "lower", "closed", "opened"),
    [
        ("left_eye", 2, 6, Pose(blink=1), Pose()),
        ("right_eye", 2, 6, Pose(blink=1), Pose()),
        ("inner_lips", 2, 6, Pose(), Pose(mouth=1)),
    ],
)
def test_lids_and_lips_close_and_open(
    name: str, upper: int, lower: int, closed: Pose, opened: Pose
) -> None:
    _, points = render(bare(9), [closed, opened], 16)
    gaps = [float((group(frame, name)[lower] - group(frame, name)[upper])[1]) for frame in points]
    assert abs(gaps[0]) < 1e-3 and gaps[1] > 0.02


@settings(max_examples=15, deadline=None)
@given(SEEDS, ANGLES, st.floats(0, 1))
def test_rays_meet_the_head_where_its_front_is(
    seed: int, angles: tuple[float, float, float], mouth: float
) -> None:
    yaw, pitch, roll = angles
    pose = Pose(yaw=yaw, pitch=pitch, roll=roll, mouth=mouth)
    head = Head(identity(seed).shape, pose)
    x, y = (field.ravel() for field in np.meshgrid(*[np.linspace(-0.4, 0.4, 15, dtype="f4")] * 2))
    y = y + np.float32(0.25)
    inside = np.abs(x) < 0.95 * head.outline(y)
    points = head.lift(x[inside], y[inside])
    towards = geometry.rotation(pose).T[:, 2:]
    seen = (head.normal(points) * towards).sum(axis=0) > 0.35
    met, depth = head.hit(geometry.Rays(points[:, seen] - 3 * towards, towards))
    assert met.mean() > 0.98  # the rim may be a ray narrower
    assert depth.min() > 2.9  # nothing is looked through
    assert (np.abs(depth - 3) < 0.01).mean() > 0.93  # a nose hides what is behind it


def test_normals_are_those_of_finite_differences() -> None:
    head = Head(identity(11).shape, Pose(mouth=0.5, smile=0.5))
    grid = np.meshgrid(np.linspace(-0.35, 0.35, 8), np.linspace(-0.5, 0.7, 9))
    x, y = (field.ravel() for field in grid)
    step = 1e-5
    by_x = (head.lift(x + step, y)[2] - head.lift(x - step, y)[2]) / (2 * step)
    by_y = (head.lift(x, y + step)[2] - head.lift(x, y - step)[2]) / (2 * step)
    expected = np.stack([-by_x, -by_y, np.ones_like(by_x)])
    expected /= np.linalg.norm(expected, axis=0)
    assert_close(head.normal(head.lift(x, y)), expected, 1e-3)


def test_an_ellipsoid_is_met_at_its_nearer_side() -> None:
    solid = geometry.Ellipsoid((0.1, 0.0, 0.5), (1.0, 2.0, 3.0))
    origin = np.array([[0.1, 1.0, 5.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.0]])
    met, depth = solid.hit(geometry.Rays(origin, np.array([[0.0], [0.0], [1.0]])))
    assert met.tolist() == [True, True, False]
    on_surface = np.array([0.9, 0.5, depth[1] - 0.5]) / (1, 2, 3)
    assert abs(depth[0] - 3.5) < 1e-6 and abs((on_surface**2).sum() - 1) < 1e-6 and depth[1] > 0.5


def test_pictures_of_another_size_show_the_same() -> None:
    moves = poses(3, 90)[::45]
    (small, small_points), (large, large_points) = (
        render(identity(3), moves, size) for size in (48, 96)
    )
    assert small.shape == (2, 3, 48, 48) and small.dtype == torch.uint8
    assert small_points.shape == (2, len(landmarks.POINTS), 2)
    assert small_points.dtype == torch.float32 and torch.equal(small_points, large_points)
    difference = (F.avg_pool2d(large.float(), 2) - small.float()).abs().mean()
    assert difference < 8, f"{difference:.1f} of 255"


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_poses_stay_in_their_ranges_and_move_smoothly(seed: int) -> None:
    path = np.array([astuple(pose) for pose in poses(seed, 300)])
    low, high = np.array([RANGES[name] for name in Pose.__dataclass_fields__]).T
    assert (path >= low - 1e-9).all() and (path <= high + 1e-9).all()
    fastest = 1.4 * (high - low) / 2 * 2 * np.pi / SLOWEST
    assert (np.abs(np.diff(path, axis=0)) <= fastest).all()
    spread = path.max(axis=0) - path.min(axis=0)
    turns = [list(Pose.__dataclass_fields__).index(name) for name in ("yaw", "pitch", "roll")]
    assert (spread > 0.4 * (high - low))[turns].all()


def test_textures_stay_in_their_ranges() -> None:
    u, v = np.random.default_rng(0).uniform(-300, 300, (2, 4096)).astype(np.float32)
    values = noise(u, v)
    assert values.min() >= 0 and values.max() <= 1 and values.std() > 0.1
    assert np.abs(noise(u + 1e-3, v) - values).max() < 0.01
    assert not dots(u, v, 0.0).any() and 0 < dots(u, v, 1.0).mean() < 0.3


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(PgnError, match="poses: got none"):
        render(identity(0), [])
    with pytest.raises(PgnError, match="size: got 8, expected 16"):
        render(identity(0), [Pose()], 8)
    with pytest.raises(PgnError, match="seed: got -1, expected 0"):
        identity(-1)
