"""Photos of a person with their landmarks, cut to squares as the avatar was trained on.

    PHOTOS/a.jpg, b.jpg ...   in the order of their names
    PHOTOS/landmarks.npz      `landmarks`: (photos, 478, 2), FaceMesh with irises, or (photos, 81,
                              2); fractions of width and height, NaN where there is no face

It repeats pgn.avatar.readers, with which the avatar was trained, so that both give the same pixels
and landmarks for the central square of a picture.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pgn_runtime.errors import RuntimeInputError
from pgn_runtime.files import Pixels, open_picture
from pgn_runtime.landmarks import MAX_VALUE, MESH_POINTS, POINTS, Points, compact

LANDMARKS = "landmarks.npz"
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
FACE_SHARE = 0.56  # of a square's side that a face's landmarks take: the mean over training frames
FACE_CENTRE = (0.5, 0.53)  # where the middle of their bounding box lies in the square
MIN_FACE = 1e-3  # of a picture's shorter side: less of a face can be of no use
HOW_TO_FIND_FACES = (
    "Find the faces with MediaPipe's Face Landmarker (pip install mediapipe) and write them: "
    "numpy.savez('landmarks.npz', landmarks=points), (photos, 478, 2), in the order of the "
    "pictures' names, x as fractions of the width and y of the height, NaN where there is no face."
)


@dataclass(frozen=True)
class Square:
    """Where a picture is cut, in its pixels."""

    left: float
    top: float
    side: float


@dataclass(frozen=True)
class Photos:
    """K photos; those that could not be used are named in `skipped`, each with the reason."""

    names: tuple[str, ...]
    images: Pixels  # (K, 3, size, size) in [0, 1]
    landmarks: Points  # (K, L, 2), fractions of the side
    skipped: tuple[str, ...]


def central(points: Points, picture: tuple[int, int]) -> Square:
    """The central square of a picture (width, height), whatever it shows."""
    width, height = picture
    side = min(picture)
    return Square((width - side) / 2, (height - side) / 2, side)


def around_face(points: Points, picture: tuple[int, int]) -> Square:
    """The square in which a face (L, 2), pixels, is as large as in training; as far as it fits.

    Raises:
        RuntimeInputError: the face has no size.
    """
    low, high = points.min(0), points.max(0)
    extent = float((high - low).max())
    if extent < MIN_FACE * min(picture):
        raise RuntimeInputError("no face: all of its landmarks are in one place")
    side = min(extent / FACE_SHARE, *picture)
    corner = (low + high) / 2 - side * np.array(FACE_CENTRE)
    left, top = corner.clip(0, np.array(picture) - side).tolist()
    return Square(left, top, side)


CROPS = {"face": around_face, "centre": central}


def read_photos(folder: Path, size: int, crop: str) -> Photos:
    """Read the photos of a person.

    Args:
        size: pixels; squares are scaled to this.
        crop: one of CROPS.

    Raises:
        RuntimeInputError: no photos; landmarks that are missing, damaged, or of other photos; no
            photo that can be used.
    """
    paths = find_pictures(folder)
    names, images, landmarks, skipped = [], [], [], []
    for path, mesh in zip(paths, _read_landmarks(folder, len(paths)), strict=True):
        try:
            picture, points = open_picture(path), _fractions(mesh)
            square = CROPS[crop](points * _array(picture.size), picture.size)
            landmarks.append(_within(points, picture.size, square))
        except RuntimeInputError as error:
            skipped.append(f"{path.name} ({error})")
            continue
        names.append(path.name)
        images.append(_cut(picture, square, size))
    if not names:
        raise RuntimeInputError(
            f"photos: none of the {len(paths)} in {folder} can be used. The first: {skipped[0]}"
        )
    return Photos(tuple(names), np.stack(images), np.stack(landmarks), tuple(skipped))


def read_poses(folder: Path, crop: str) -> tuple[list[str], Points]:
    """Landmarks (N, L, 2) to draw a person with, and their names; frames without a face are left
    out.

    All frames are cut alike, by their median face, so that a head that moves goes on moving. Where
    there are no pictures beside the landmarks, these are fractions of a square's side.

    Raises:
        RuntimeInputError: as `read_photos`.
    """
    paths = _pictures(folder)
    size = open_picture(paths[0]).size if paths else (1, 1)
    known = _names(paths)
    names, points = [], []
    for index, mesh in enumerate(_read_landmarks(folder, len(paths) or None)):
        if np.abs(mesh).max() <= MAX_VALUE:  # False also for NaN
            names.append(known[index] if paths else f"{index:04}")
            points.append(_fractions(mesh))
    if not names:
        raise RuntimeInputError(f"landmarks: {folder / LANDMARKS} shows no face in any frame.")
    stacked = np.stack(points)
    try:
        square = CROPS[crop](np.median(stacked, axis=0) * _array(size), size)
        return names, _within(stacked, size, square)
    except RuntimeInputError as error:
        raise RuntimeInputError(
            f"landmarks: {folder / LANDMARKS}: {error}. Leave such frames out: make them NaN."
        ) from None


def read_pictures(folder: Path, size: tuple[int, int]) -> tuple[list[str], Pixels]:
    """The middle of every picture in a folder, (N, 3, height, width), and the names.

    Raises:
        RuntimeInputError: no pictures, or one that cannot be decoded.
    """
    paths = find_pictures(folder)
    resized = (
        ImageOps.fit(open_picture(path), size[::-1], Image.Resampling.BICUBIC) for path in paths
    )
    return _names(paths), np.stack([_pixels(picture) for picture in resized])


def find_pictures(folder: Path) -> list[Path]:
    """The pictures of a folder in the order of their names, without hidden ones.

    Raises:
        RuntimeInputError: there is no such folder, or no picture in it.
    """
    if not (paths := _pictures(folder)):
        raise RuntimeInputError(
            f"photos: no {', '.join(sorted(SUFFIXES))} file in {folder}, expected a folder of "
            f"photos of one person."
        )
    return paths


def _pictures(folder: Path) -> list[Path]:
    try:
        found = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES]
    except OSError as error:
        raise RuntimeInputError(f"photos: {folder} cannot be read ({error.strerror}).") from None
    return sorted(path for path in found if not path.name.startswith("."))


def _names(paths: list[Path]) -> list[str]:
    """Without suffixes, where that tells the pictures apart."""
    stems = [path.stem for path in paths]
    return stems if len({*stems}) == len(stems) else [path.name for path in paths]


def _read_landmarks(folder: Path, count: int | None) -> NDArray[Any]:
    """(count, 478 or L, 2), with NaN where there is no face; any number where count is None."""
    path = folder / LANDMARKS
    if not os.path.isfile(path):  # noqa: PTH113  Path.is_file raises where one may not look
        raise RuntimeInputError(f"landmarks: no file {path}. {HOW_TO_FIND_FACES}")
    try:
        with np.load(path, allow_pickle=False) as file:
            names, array = file.files, file.get("landmarks")
    except Exception as error:  # a damaged file makes numpy raise anything
        raise RuntimeInputError(
            f"landmarks: {path} is no readable .npz ({error!s:.200}). {HOW_TO_FIND_FACES}"
        ) from None
    if array is None:
        raise RuntimeInputError(
            f"landmarks: got {', '.join(names):.200} in {path}, expected 'landmarks'."
        )
    known = [(MESH_POINTS, 2), (len(POINTS), 2)]
    if array.dtype.kind != "f" or array.ndim != 3 or array.shape[1:] not in known:
        raise RuntimeInputError(
            f"landmarks: got {array.dtype} of shape {array.shape} in {path}, expected floats of "
            f"(photos, {MESH_POINTS}, 2), FaceMesh with irises, or (photos, {len(POINTS)}, 2)."
        )
    if count is not None and len(array) != count:
        raise RuntimeInputError(
            f"landmarks: got {len(array)} faces in {path}, expected {count}, as many as there are "
            f"pictures beside it, in the order of their names (NaN where there is no face)."
        )
    return np.asarray(array)


def _fractions(mesh: NDArray[Any]) -> Points:
    """(478 or L, 2) -> our landmarks (L, 2), fractions of width and height."""
    if not np.abs(mesh).max() <= MAX_VALUE:  # NaN as well
        raise RuntimeInputError(
            "no face: its landmarks are NaN, or no fractions of width and height"
        )
    points = mesh.astype(np.float32)
    return compact(points[None])[0] if len(points) == MESH_POINTS else points


def _cut(picture: Image.Image, square: Square, size: int) -> Pixels:
    """(3, size, size)."""
    box = (square.left, square.top, square.left + square.side, square.top + square.side)
    # Pillow's filters widen when they shrink a picture, so nothing aliases
    return _pixels(picture.resize((size, size), Image.Resampling.BICUBIC, box))


def _within(points: Points, picture: tuple[int, int], square: Square) -> Points:
    """Fractions of a picture's width and height -> fractions of the square's side.

    Raises:
        RuntimeInputError: the face is far larger than the square, or far from it.
    """
    corner = _array((square.left, square.top))
    found = np.asarray((points * _array(picture) - corner) / np.float32(square.side))
    if not np.abs(found).max() <= MAX_VALUE:
        raise RuntimeInputError("landmarks reach far out of the square that is cut")
    return found


def _array(pair: tuple[float, float]) -> Points:
    return np.array(pair, np.float32)


def _pixels(picture: Image.Image) -> Pixels:
    """(3, H, W) in [0, 1]."""
    array = np.asarray(picture, np.float32) / np.float32(255)
    return np.ascontiguousarray(array.transpose(2, 0, 1))
