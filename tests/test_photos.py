"""Photos on the device: the same pixels and landmarks as in training, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SHARED, assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from spots import mesh, spot, spot_centres, write_frames

from pgn.avatar.landmarks import MESH_POINTS, POINTS
from pgn.avatar.readers import read_people
from pgn_runtime.errors import RuntimeInputError
from pgn_runtime.photos import FACE_CENTRE, FACE_SHARE, LANDMARKS, read_photos, read_poses
from pgn_runtime.photos import read_pictures as read_pictures_of

SIZE = 32


def photos_of(folder: Path, width: int, height: int, points: np.ndarray[Any, Any]) -> Path:
    """Noise, one picture for each of `points`, of every kind that phones write."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for index, suffix in zip(range(len(points)), ("jpg", "PNG", "webp", "bmp") * 9, strict=False):
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:03}.{suffix}")
    np.savez(folder / LANDMARKS, landmarks=points)
    return folder


def faces(count: int, share: float = 0.3, seed: int = 0) -> np.ndarray[Any, Any]:
    """Landmarks (count, 478, 2) around the middle."""
    return 0.5 + share * (np.random.default_rng(seed).random((count, MESH_POINTS, 2)) - 0.5)


@settings(max_examples=8, deadline=None)
@given(
    width=st.integers(40, 90),
    height=st.integers(40, 90),
    size=st.sampled_from((32, 48)),
    kind=st.sampled_from((np.float16, np.float32, np.float64)),
)
def test_the_central_square_is_that_of_training(
    width: int, height: int, size: int, kind: type, tmp_path_factory: pytest.TempPathFactory
) -> None:
    points: np.ndarray[Any, Any] = faces(4).astype(kind)
    folder = photos_of(tmp_path_factory.mktemp("photos") / "anna", width, height, points)
    found = read_photos(folder, size, "centre")
    (anna,) = read_people(folder, size)
    assert np.array_equal(found.images, (anna.images.float() / 255).numpy())
    assert np.array_equal(found.landmarks, anna.landmarks.numpy())
    assert found.images.dtype == found.landmarks.dtype == np.float32
    assert found.names == ("000.jpg", "001.PNG", "002.webp", "003.bmp") and not found.skipped


def test_photos_of_a_phone_are_read_upright(tmp_path: Path) -> None:
    folder = photos_of(tmp_path / "anna", 60, 40, faces(2))
    for path in sorted(folder.glob("0*")):
        picture = Image.open(path)
        exif = picture.getexif()
        exif[0x0112] = 6  # lying on its side
        picture.save(path.with_suffix(".png"), exif=exif)
        if path.suffix != ".png":
            path.unlink()
    found = read_photos(folder, SIZE, "centre")
    assert np.array_equal(found.images, (read_people(folder, SIZE)[0].images / 255.0).numpy())
    assert not np.allclose(found.images, found.images.swapaxes(2, 3)), "the picture tells nothing"


def test_real_clips_are_read_as_in_training() -> None:
    folder = SHARED / "data" / "heads" / "d3"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here; the tests on noise are its offline twin")
    found, (clip,) = read_photos(folder, 128, "centre"), read_people(folder, 128)
    assert_close(found.images, clip.images / 255.0, 0)
    assert_close(found.landmarks, clip.landmarks, 0)


@settings(max_examples=25, deadline=None)
@given(
    x=st.floats(0.35, 0.65),
    y=st.floats(0.35, 0.65),
    share=st.floats(0.25, 0.6),
    crop=st.sampled_from(("face", "centre")),
)
def test_landmarks_follow_every_crop(
    x: float, y: float, share: float, crop: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A spot is drawn where the middle of the landmarks lies, in an oblong picture."""
    folder = tmp_path_factory.mktemp("anna")
    Image.fromarray(spot(120, 90, x, y)).save(folder / "0.png")
    points = mesh(np.array([(x, y)])) + share * (faces(1, 1.0) - 0.5)
    points += np.array((x, y)) - points[:, list(POINTS)].mean(1)
    np.savez(folder / LANDMARKS, landmarks=points)
    found = read_photos(folder, 64, crop)
    middle = found.landmarks.mean(1)
    if ((middle > 0.1) & (middle < 0.9)).all():
        seen = spot_centres(torch.from_numpy(found.images))
        assert_close(middle, seen, 0.03)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3])
def test_a_face_becomes_as_large_as_in_training(share: float, tmp_path: Path) -> None:
    folder = photos_of(tmp_path / "anna", 300, 200, 0.05 + faces(3, share))
    points = read_photos(folder, SIZE, "face").landmarks
    low, high = points.min(1), points.max(1)
    assert (high - low).max(1) == pytest.approx(FACE_SHARE, rel=1e-4)
    assert_close((low + high) / 2, np.tile(FACE_CENTRE, (3, 1)), 1e-4)


def test_a_face_at_the_edge_keeps_the_square_inside(tmp_path: Path) -> None:
    folder = photos_of(tmp_path / "anna", 300, 200, faces(1, 0.2) + np.array((0.45, -0.45)))
    pixels = np.asarray(Image.open(folder / "000.jpg"), np.float32) / 255
    found = read_photos(folder, 60, "face")
    points = faces(1, 0.2)[0, list(POINTS)] + np.array((0.45, -0.45))
    side = float(np.ptp(points * (300, 200), axis=0).max()) / FACE_SHARE
    corner = Image.fromarray(np.uint8(pixels * 255)).resize(
        (60, 60), Image.Resampling.BICUBIC, (300 - side, 0, 300, side)
    )
    assert_close(found.images[0], np.asarray(corner).transpose(2, 0, 1) / 255, 0.02)


def test_a_face_larger_than_the_picture_gets_all_of_it(tmp_path: Path) -> None:
    folder = photos_of(tmp_path / "anna", 60, 60, faces(2, 0.99))
    found, central = (read_photos(folder, SIZE, crop) for crop in ("face", "centre"))
    assert_close(found.images, central.images, 1e-6)


def test_photos_without_a_face_and_broken_ones_are_skipped_by_name(tmp_path: Path) -> None:
    points = faces(4)
    points[1] = np.nan
    points[2] *= 500
    folder = photos_of(tmp_path / "anna", 60, 40, points)
    (folder / "003.bmp").write_bytes(b"broken")
    found = read_photos(folder, SIZE, "face")
    assert found.names == ("000.jpg",) and len(found.images) == len(found.landmarks) == 1
    first, second, third = found.skipped
    assert first.startswith("001.PNG (no face: its landmarks are NaN")
    assert second.startswith("002.webp (no face") and "003.bmp cannot be decoded" in third
    (folder / "000.jpg").write_bytes(b"")
    with pytest.raises(RuntimeInputError, match="none of the 4 in .* The first: 000.jpg"):
        read_photos(folder, SIZE, "face")


def landmarks_of(**arrays: Any) -> Callable[[Path], None]:
    return lambda folder: np.savez(folder / LANDMARKS, **arrays)


def remove_pictures(folder: Path) -> None:
    for path in folder.glob("0*"):
        path.rename(folder / f".{path.name}")  # as a Mac's


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / LANDMARKS).unlink(), "no file .*pip install mediapipe.*numpy.sa"),
        (lambda folder: (folder / LANDMARKS).write_bytes(b"x"), "no readable .npz"),
        (landmarks_of(points=faces(3)), "got points in .*expected 'landmarks'"),
        (landmarks_of(landmarks=faces(3)[:, :68]), r"got float64 of shape \(3, 68, 2\)"),
        (landmarks_of(landmarks=np.zeros((3, 478, 2), int)), "got int64 of shape"),
        (landmarks_of(landmarks=np.array([{}, None], object)), "no readable .npz"),
        (landmarks_of(landmarks=faces(2)), "got 2 faces .* expected 3, as many as"),
        (landmarks_of(landmarks=faces(3) * np.nan), "none of the 3 in"),
        (remove_pictures, "no .bmp, .jpeg, .jpg, .png, .webp file in"),
    ],
)
def test_what_are_no_photos_of_a_person_is_refused(
    spoil: Callable[[Path], Any], message: str, tmp_path: Path
) -> None:
    folder = photos_of(tmp_path / "anna", 40, 40, faces(3))
    spoil(folder)
    with pytest.raises(RuntimeInputError, match=message):
        read_photos(folder, SIZE, "face")


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeInputError, match="gone cannot be read"):
        read_photos(tmp_path / "gone", SIZE, "face")


# What a person is drawn with


def test_poses_are_cut_alike_so_that_a_head_goes_on_moving(tmp_path: Path) -> None:
    points = faces(3, 0.2)
    points[1] += 0.05
    folder = photos_of(tmp_path / "anna", 100, 80, points)
    names, found = read_poses(folder, "face")
    assert names == ["000", "001", "002"]
    inner = points[:, list(POINTS)] * (100, 80)
    moved = (inner[1] - inner[0]).mean(0) / (inner[1] - inner[0]).mean()
    assert_close((found[1] - found[0]).mean(0) / (found[1] - found[0]).mean(), moved, 1e-3)
    assert np.ptp(np.median(found, axis=0), axis=0).max() == pytest.approx(FACE_SHARE, rel=1e-4)
    _, central = read_poses(folder, "centre")
    assert np.array_equal(central, read_photos(folder, SIZE, "centre").landmarks)


def test_poses_need_no_pictures(tmp_path: Path) -> None:
    points = faces(4)[:, list(POINTS)]
    points[2] = np.nan
    np.savez(tmp_path / LANDMARKS, landmarks=points)
    names, found = read_poses(tmp_path, "centre")
    assert names == ["0000", "0001", "0003"]
    assert_close(found, points[[0, 1, 3]], 1e-6)
    np.savez(tmp_path / LANDMARKS, landmarks=points[2:3])
    with pytest.raises(RuntimeInputError, match="shows no face in any frame"):
        read_poses(tmp_path, "centre")


def test_pictures_are_the_middle_of_any_shape(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "anna", 2)
    names, found = read_pictures_of(folder, (16, 24))
    assert names == sorted(path.stem for path in folder.glob("*.png"))
    assert found.shape == (2, 3, 16, 24) and 0 <= found.min() <= found.max() <= 1
