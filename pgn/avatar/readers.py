"""Reading persons from folders of frames, videos, and VoxCeleb2 (Chung et al., arXiv 1806.05622).

    SOURCE/PERSON/000.jpg ...       with SOURCE/PERSON/landmarks.npz
    SOURCE/PERSON/VIDEO/CLIP.mp4    with SOURCE/PERSON/VIDEO/CLIP.npz (VoxCeleb2)

All that lies below a person's folder is that person's, so whoever is held out is so in all videos.
Zakharov et al. (arXiv 1905.08233) take each video for a person instead, whose clothes and light are
the same in all frames; docs/avatar.md tells how to have it so. What the .npz holds:
`pgn.avatar.tracks`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pgn.avatar.clips import FOLDER_LANDMARKS, VIDEO_SUFFIXES, find_clips, is_video
from pgn.avatar.people import People, Person
from pgn.avatar.tracks import Track, track_face
from pgn.errors import MissingExtraError, PgnError
from pgn.files import first_line
from pgn.images import MIN_SIZE

MIN_FRAMES = 2  # of a person: one shows who it is, one is to be drawn


class Shot(NamedTuple):
    """A frame as networks want it."""

    image: Tensor  # uint8 (3, size, size)
    landmarks: Tensor  # float32 (L, 2), fractions of the side


def read_people(
    source: str | Path, size: int, frames: int = 64, model: str | Path | None = None
) -> People:
    """The persons of `source`, each read when first asked for, frames * 3 * size^2 bytes a person.

    Frames, clips and persons that cannot be used are skipped and named in `People.skipped`.

    Args:
        source: a folder with a folder for each person; the folder of one person, which holds
            landmarks.npz or no folder; or a video.
        size: pixels; the central square of a frame is scaled to this.
        frames: of a person at most, evenly spread over all that show a face.
        model: finds the landmarks where their file is missing, as in `face_mesh.detector`.

    Raises:
        PgnError: at once: no such source, nothing in it, or a size or a number of frames that is
            too small.
    """
    if size < MIN_SIZE:
        raise PgnError(f"size: got {size}, expected {MIN_SIZE} pixels or more.")
    if frames < MIN_FRAMES:
        raise PgnError(f"frames: got {frames}, expected {MIN_FRAMES} or more of each person.")
    places = _find_places(source)
    return People(
        {_name(place): partial(_read_person, place, size, frames, model) for place in places}
    )


def person_names(source: str | Path) -> list[str]:
    """Names of the persons that `read_people` finds in `source`.

    Raises:
        PgnError: no such source, or nothing in it.
    """
    return [_name(place) for place in _find_places(source)]


def _find_places(source: str | Path) -> list[Path]:
    try:
        return _places(Path(source))
    except OSError as error:
        raise PgnError(f"people: {source} cannot be read ({error.strerror}).") from None


def _places(root: Path) -> list[Path]:
    """The folder or the video of each person."""
    if is_video(root):
        return [root]
    if not root.is_dir():
        raise PgnError(
            f"people: got {root}, expected a folder with a folder for each person, or a video "
            f"({', '.join(sorted(VIDEO_SUFFIXES))})."
        )
    folders = sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    if folders and not (root / FOLDER_LANDMARKS).exists():
        return folders
    if not find_clips(root):
        raise PgnError(f"people: no picture and no video in {root}.")
    return [root]


def _name(place: Path) -> str:
    if place.name in ("", ".."):  # of "." and "..", which results cannot be filed under
        return place.resolve().name
    return place.stem if is_video(place) else place.name


def _read_person(place: Path, size: int, limit: int, model: str | Path | None) -> Person:
    skipped: list[str] = []
    tracks: list[Track] = []
    for clip in find_clips(place):
        with _naming(skipped):
            tracks.append(track_face(clip, model, skipped))
    shots: list[Shot] = []
    for track in _spread(tracks, limit):
        with _naming(skipped):
            shots += _shots(track, size, skipped)
    if len(shots) < MIN_FRAMES:
        reason = f"; skipped last: {skipped[-1]}" if skipped else "."
        raise PgnError(
            f"person: got {len(shots)} usable frames in {place}, expected {MIN_FRAMES} or "
            f"more{reason}"
        )
    images, landmarks = zip(*shots, strict=True)
    return Person(_name(place), torch.stack(images), torch.stack(landmarks), tuple(skipped))


@contextlib.contextmanager
def _naming(skipped: list[str]) -> Iterator[None]:
    """Write down why a clip cannot be read and go on; a missing package is no clip's fault."""
    try:
        yield
    except MissingExtraError:
        raise
    except PgnError as error:
        skipped.append(str(error))


def _spread(tracks: Sequence[Track], limit: int) -> list[Track]:
    """Tracks of at most `limit` frames in all, evenly spread; those left without one are gone."""
    every = [(place, index) for place, track in enumerate(tracks) for index in track.points]
    picked = np.linspace(0, len(every) - 1, min(limit, len(every))).round().astype(int)
    wanted = {every[position] for position in picked}
    thinned = (
        track._replace(points={i: p for i, p in track.points.items() if (place, i) in wanted})
        for place, track in enumerate(tracks)
    )
    return [track for track in thinned if track.points]


def _shots(track: Track, size: int, skipped: list[str]) -> list[Shot]:
    shots = []
    frames = 0
    for index, frame in enumerate(track.clip.frames()):
        frames += 1
        if index in track.points:
            try:
                shots.append(_shot(frame.picture(), track.points[index], size))
            except Exception as error:  # on damaged metadata Pillow raises anything
                skipped.append(f"{frame.name} ({first_line(error)})")
    if frames != track.frames:
        raise PgnError(
            f"landmarks: got {track.frames} frames in {track.clip.landmarks}, expected {frames}, "
            f"as many as in {track.clip.path}."
        )
    return shots


def _shot(picture: Image.Image, points: Tensor, size: int) -> Shot:
    """The central square, scaled; the landmarks follow."""
    # Pillow's filters widen when they shrink a picture, so nothing aliases
    square = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
    sides = torch.tensor(picture.size)
    side = sides.min()
    image = torch.from_numpy(np.array(square)).permute(2, 0, 1)
    return Shot(image.contiguous(), (points * sides - (sides - side) / 2) / side)
