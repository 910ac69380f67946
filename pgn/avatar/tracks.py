"""Tracks: the landmarks of the face in each frame of a clip, from a file or by looking for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pgn.avatar.clips import Clip
from pgn.avatar.face_mesh import detector
from pgn.avatar.landmarks import MAX_VALUE, MESH_POINTS, POINTS, compact
from pgn.errors import PgnError
from pgn.files import first_line


class Track(NamedTuple):
    """The face in a clip."""

    clip: Clip
    frames: int  # of the clip, also those without a face
    points: dict[int, Tensor]  # frame -> landmarks (L, 2), fractions of width and height


def track_face(clip: Clip, model: str | Path | None, skipped: list[str]) -> Track:
    """The face in the frames of `clip`; those in which there is none are added to `skipped`.

    Args:
        clip: a clip; its .npz holds `landmarks`, (frames, 478, 2) or (frames, L, 2), with NaN
            where there is no face. Where that file is missing, faces are looked for.
        model: to look for faces with, as in `pgn.avatar.face_mesh.detector`.
        skipped: names of frames, each with the reason.

    Raises:
        PgnError: a broken file, a broken video, no way to look for faces, or no face in any frame.
    """
    landmarks = _read(clip.landmarks)
    if landmarks is None:
        return _find(clip, model, skipped)
    return _track(clip, landmarks, skipped)


def _read(path: Path) -> NDArray[Any] | None:
    """(frames, 478 or L, 2), with NaN where there is no face; None where there is no file."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            names, array = file.files, file.get("landmarks")
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged file makes numpy raise anything
        raise PgnError(f"landmarks: {path} is no readable .npz ({first_line(error)}).") from None
    if array is None:
        raise PgnError(f"landmarks: got {', '.join(names)} in {path}, expected 'landmarks'.")
    known = [(MESH_POINTS, 2), (len(POINTS), 2)]
    if array.dtype.kind != "f" or array.ndim != 3 or array.shape[1:] not in known:
        raise PgnError(
            f"landmarks: got {array.dtype} of shape {array.shape} in {path}, expected floats of "
            f"(frames, {MESH_POINTS}, 2), FaceMesh with irises, or (frames, {len(POINTS)}, 2)."
        )
    return np.asarray(array)


def _track(clip: Clip, landmarks: NDArray[Any], skipped: list[str]) -> Track:
    usable = np.abs(landmarks).max(axis=(1, 2)) <= MAX_VALUE  # False also for NaN
    if not usable.any():
        raise PgnError(
            f"landmarks: got NaN or no fractions in all {len(usable)} frames of {clip.landmarks}, "
            f"expected x as fractions of the width and y of the height. Divide pixels by them."
        )
    for index in np.flatnonzero(~usable):
        skipped.append(f"{clip.landmarks}, frame {index} (NaN or no fractions: no face)")
    points = torch.from_numpy(landmarks[usable].astype(np.float32))
    if points.shape[1] == MESH_POINTS:
        points = compact(points)
    indices = np.flatnonzero(usable).tolist()
    return Track(clip, len(landmarks), dict(zip(indices, points, strict=True)))


def _find(clip: Clip, model: str | Path | None, skipped: list[str]) -> Track:
    try:
        detect = detector(model)
    except PgnError as error:
        raise PgnError(f"landmarks: no file {clip.landmarks}, and {error}") from None
    frames = 0
    points: dict[int, Tensor] = {}
    for index, frame in enumerate(clip.frames()):
        frames += 1
        try:
            points[index] = compact(detect(frame.picture())[None])[0]
        except Exception as error:  # no face; or a picture on which Pillow raises anything
            skipped.append(f"{frame.name} ({first_line(error)})")
    if not points:
        raise PgnError(f"landmarks: no face in any of the {frames} frames of {clip.path}.")
    return Track(clip, frames, points)
