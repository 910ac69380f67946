"""The endless stream of photos that a network is distilled on: a folder, or WebDataset shards.

Photos are decoded in worker processes to square windows of one size, so that they stack; crops of
the windows are drawn on the device (`pgn.distill.augment`). A step of the stream depends on its
number, not on the steps that this process has seen, so a killed run resumes bit for bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from io import BytesIO
from itertools import count, islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pgn.distill.shards import encoded_photos, shard_urls
from pgn.distill.workers import Steps, stream_steps
from pgn.errors import PgnError
from pgn.files import find_images, first_line, open_rgb

ATTEMPTS = 20  # unreadable photos in a row after which the source is called broken


@dataclass(frozen=True)
class Stream:
    """Which part of the endless stream of photos a process gets."""

    seed: int
    batch: int  # photos a step and process
    start: int = 0  # first step to deliver
    rank: int = 0  # of this process
    world: int = 1  # processes that share the photos


class Batch(NamedTuple):
    """One step's photos, and the names of those that were skipped on the way."""

    images: Tensor  # uint8 (batch, 3, canvas, canvas)
    corrupt: list[str]


class Photo(NamedTuple):
    """A photo that is not decoded yet."""

    name: str
    file: str | BytesIO


Places = Iterable[Iterable[Photo]]  # of a step: for each place of the batch, a photo and stand-ins


def check_source(source: str) -> None:
    """See that there is something to read, before anything is prepared.

    Args:
        source: as of `photo_batches`.

    Raises:
        PgnError: no photos, or a missing shard.
    """
    if not shard_urls(source):
        find_images(source)


def photo_batches(source: str, canvas: int, stream: Stream, workers: int) -> Iterator[Batch]:
    """Photos for ever: step `stream.start` and all that follow.

    Every photo comes once a pass, in an order drawn anew for each pass, and no two ranks get the
    same. One that cannot be decoded is replaced by the photo in its place of a later step. A step
    is a function of (source, canvas, stream without `start`), with shards also of `workers`.

    Args:
        source: a folder of photos, or shards as in `pgn.distill.shards.shard_urls`.
        canvas: pixels; a photo becomes a random square window of its shorter side, scaled to this.
        workers: processes that decode; 0 decodes in this one. At most one for each of this rank's
            shards is used.

    Raises:
        PgnError: at once: no photos, a missing shard, fewer shards than ranks; later: ATTEMPTS
            photos in a row that cannot be read.
    """
    urls = shard_urls(source)
    places: Steps[Places]
    if urls:
        if len(urls) < stream.world:
            raise PgnError(
                f"shards: got {len(urls)} in {source}, expected one or more for each of "
                f"{stream.world} processes. Pack the photos into more shards, or use fewer "
                f"processes."
            )
        workers = min(workers, len(urls) // stream.world)
        places = partial(_shard_steps, urls, stream)
    else:  # one array of names: processes would copy a list bit by bit, counting references
        names = np.array([str(path) for path in find_images(source)])
        places = partial(_folder_steps, names, stream)
    return stream_steps(partial(_batches, places, canvas, stream), stream.start, workers)


def _batches(
    places: Steps[Places], canvas: int, stream: Stream, first: int, every: int
) -> Iterator[Batch]:
    for step, of_step in zip(count(first, every), places(first, every), strict=True):
        yield _batch(of_step, canvas, (stream.seed, stream.rank, step))


def _batch(places: Places, canvas: int, seed: tuple[int, int, int]) -> Batch:
    windows, corrupt = [], []
    for place, candidates in enumerate(places):
        picture, skipped = _first_readable(candidates)
        random = np.random.default_rng((*b"window", *seed, place))
        windows.append(_window(picture, canvas, random))
        corrupt += skipped
    images = torch.from_numpy(np.stack(windows)).permute(0, 3, 1, 2)
    return Batch(images.contiguous(), corrupt)


def _folder_steps(
    names: NDArray[np.str_], stream: Stream, first: int, workers: int
) -> Iterator[Places]:
    """A step of all ranks is a stretch of the passes' shuffled photos, one behind the other."""

    def photo(position: int) -> Photo:
        number, index = divmod(position, len(names))
        name = str(names[_shuffled(stream.seed, number, len(names))[index]])
        return Photo(name, name)

    stretch = stream.world * stream.batch
    for step in count(first, workers):
        begin = step * stretch + stream.rank * stream.batch
        yield [
            map(photo, range(position, position + ATTEMPTS * stretch, stretch))
            for position in range(begin, begin + stream.batch)
        ]


@lru_cache(maxsize=2)
def _shuffled(seed: int, number: int, photos: int) -> NDArray[np.int64]:
    """The order of pass `number`."""
    return np.random.default_rng((*b"folder", seed, number)).permutation(photos)


def _shard_steps(urls: Sequence[str], stream: Stream, first: int, workers: int) -> Iterator[Places]:
    """Each worker of each rank reads a lane of its own; step k of a rank comes from lane k mod n.

    A loader begins with its worker 0 also when it resumes at a step of another worker: so workers
    take the lane of the step that they begin with, and skip what it has delivered.
    """
    lane = stream.rank * workers + first % workers
    photos = encoded_photos(urls, stream.seed, lane, stream.world * workers)
    delivered = first // workers * stream.batch
    rows = zip(*[islice(photos, delivered, None)] * stream.batch, strict=True)
    ahead = deque(islice(rows, ATTEMPTS))
    for row in rows:
        yield [
            [Photo(name, BytesIO(data)) for name, data in place]
            for place in zip(*ahead, strict=True)
        ]
        ahead.popleft()
        ahead.append(row)


def _first_readable(photos: Iterable[Photo]) -> tuple[Image.Image, list[str]]:
    """The first photo that can be decoded, and the names of those before it."""
    corrupt: list[str] = []
    for photo in photos:
        try:
            return open_rgb(photo.file), corrupt
        except Exception as error:  # on damaged metadata Pillow raises anything
            corrupt.append(photo.name)
            reason = first_line(error)
    raise PgnError(
        f"images: {len(corrupt)} photos in a row could not be read; the last was {corrupt[-1]} "
        f"({reason}). Check the source."
    )


def _window(picture: Image.Image, canvas: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """A random square of the shorter side, scaled to (canvas, canvas, 3)."""
    side = min(picture.size)
    left, top = (int(random.integers(length - side + 1)) for length in picture.size)
    square = picture.crop((left, top, left + side, top + side))
    # Pillow's filters widen when they shrink a picture, so nothing aliases
    window = square.resize((canvas, canvas), Image.Resampling.BICUBIC)
    return np.asarray(window)
