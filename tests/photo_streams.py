"""Photos that tell their numbers, shards of them, and steps of the stream they make."""

from __future__ import annotations

import io
import tarfile
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pgn.distill.data import Batch, Stream, photo_batches

CANVAS = 12
STREAM = Stream(seed=5, batch=3)


def photo(number: int) -> bytes:
    """A PNG of one colour, which says its number, over a random texture in blue."""
    noise = np.random.default_rng(number).integers(0, 256, (16 + number, 20), dtype=np.uint8)
    array = np.stack([np.full_like(noise, number), np.full_like(noise, 7), noise], 2)
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def numbers(batch: Batch) -> list[int]:
    """Which photos a batch holds."""
    return [int(image[0].float().mean().round()) for image in batch.images]


def steps(source: object, stream: Stream, workers: int, count: int) -> list[Batch]:
    return list(islice(photo_batches(str(source), CANVAS, stream, workers), count))


def assert_same(found: list[Batch], wanted: list[Batch]) -> None:
    for index, (a, b) in enumerate(zip(found, wanted, strict=True)):
        assert torch.equal(a.images, b.images), f"batch {index}: {numbers(a)}, not {numbers(b)}"
        assert a.corrupt == b.corrupt


def write_shard(path: Path, entries: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def eight_shards(where: Path) -> Path:
    """A new folder `where` of eight shards of three photos, with labels beside them."""
    where.mkdir()
    for shard in range(8):
        entries: dict[str, bytes] = {}
        for number in range(3 * shard, 3 * shard + 3):
            entries |= {f"{number}.png": photo(number), f"{number}.cls": b"1"}
        write_shard(where / f"train-{shard}.tar", entries)
    return where
