"""Clips, and their frames in order: folders of pictures, and videos (PyAV, extra `avatar`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from pgn.errors import MissingExtraError, PgnError
from pgn.files import IMAGE_SUFFIXES, first_line, open_rgb

if TYPE_CHECKING:
    from av import VideoFrame

VIDEO_SUFFIXES = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"}
FOLDER_LANDMARKS = "landmarks.npz"


class Frame(NamedTuple):
    """A frame that is not decoded yet."""

    name: str
    picture: Callable[[], Image.Image]  # 8-bit RGB, upright; raises anything for a damaged one


class Clip(NamedTuple):
    """A video, or a folder of frames sorted by name."""

    path: Path
    landmarks: Path  # where they belong: CLIP.npz beside CLIP.mp4, landmarks.npz beside frames
    frames: Callable[[], Iterable[Frame]]  # raises PgnError for a broken video


def find_clips(place: Path) -> list[Clip]:
    """All clips in a folder and below, sorted; of a video the one that it is.

    Hidden files, such as a Mac's ._000.jpg, and hidden folders, such as .thumbnails, are left out.
    """
    if is_video(place):
        return [_video(place)]
    below = (path for path in place.rglob("*") if _is_visible(path.relative_to(place)))
    files = sorted(below, key=lambda path: (path.parent, path))
    pictures = (path for path in files if path.suffix.lower() in IMAGE_SUFFIXES)
    folders = [_folder(*group) for group in groupby(pictures, key=lambda path: path.parent)]
    videos = [_video(path) for path in files if is_video(path)]
    return sorted(folders + videos, key=lambda clip: clip.path)


def is_video(path: Path) -> bool:
    """Whether it is a file that is called like a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()


def _is_visible(path: Path) -> bool:
    return not any(part.startswith(".") for part in path.parts)


def _folder(folder: Path, pictures: Iterable[Path]) -> Clip:
    frames = [Frame(str(path), partial(open_rgb, path)) for path in pictures]
    return Clip(folder, folder / FOLDER_LANDMARKS, lambda: frames)


def _video(path: Path) -> Clip:
    return Clip(path, path.with_suffix(".npz"), partial(_video_frames, path))


def _video_frames(path: Path) -> Iterator[Frame]:
    try:
        import av
    except ImportError:
        raise MissingExtraError("av", "avatar") from None
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise PgnError(f"video: {path} holds no pictures, expected a video of a face.")
            for index, frame in enumerate(container.decode(video=0)):
                yield Frame(f"{path}, frame {index}", partial(_upright, frame))
    except (av.FFmpegError, OSError) as error:
        raise PgnError(f"video: {path} cannot be decoded ({first_line(error)}).") from None


def _upright(frame: VideoFrame) -> Image.Image:
    """Phones film lying on their side, and write into the file how it is to be turned."""
    picture = Image.fromarray(frame.to_ndarray(format="rgb24"))
    return picture.rotate(frame.rotation, expand=True)
