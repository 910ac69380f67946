"""The stream of photos: the same step for every start, each photo once a pass, damage named."""

from __future__ import annotations

import io
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from photo_streams import CANVAS, STREAM, assert_same, eight_shards, numbers, photo, steps
from PIL import Image
from torch import Tensor

from pgn import PgnError
from pgn.distill.data import ATTEMPTS, Stream, photo_batches
from pgn.files import find_images
from pgn_export import parity

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on few cores


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven photos in a folder and one below."""
    where = tmp_path / "photos"
    (where / "below").mkdir(parents=True)
    for number in range(7):
        (where / f"{number}.png").write_bytes(photo(number))
    (where / "below" / "7.png").write_bytes(photo(7))
    return where


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return eight_shards(tmp_path / "shards")


@pytest.mark.parametrize(("start", "workers"), [(0, 1), (3, 0), (5, 2), (4, 3)])
def test_a_step_of_a_folder_depends_on_its_number_alone(
    start: int, workers: int, folder: Path
) -> None:
    (folder / "8.png").write_bytes(b"broken")
    undisturbed = steps(folder, STREAM, 0, 9)[start:]
    assert_same(steps(folder, replace(STREAM, start=start), workers, 9 - start), undisturbed)
    assert any(batch.corrupt for batch in undisturbed)


def test_ranks_share_the_photos_of_every_pass(folder: Path) -> None:
    ranks = [steps(folder, replace(STREAM, rank=rank, world=2), 0, 8) for rank in (0, 1)]
    seen = [number for both in zip(*ranks, strict=True) for b in both for number in numbers(b)]
    passes = [seen[first : first + 8] for first in range(0, 48, 8)]
    assert all(sorted(one) == list(range(8)) for one in passes), passes
    assert len({tuple(one) for one in passes}) == 6  # in another order each time


def test_seeds_ranks_and_steps_see_different_windows(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(photo(0))
    one = replace(STREAM, batch=4)
    streams = [one, replace(one, seed=6), replace(one, rank=1, world=2), replace(one, start=1)]
    images = [steps(tmp_path, stream, 0, 1)[0].images.numpy().tobytes() for stream in streams]
    assert len(set(images)) == 4


def test_a_window_is_a_square_of_the_shorter_side(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(photo(0))  # 20 wide, 16 high
    texture = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (16, 20), np.uint8))
    places = [texture[:, left : left + 16] for left in range(5)]
    windows = next(photo_batches(str(tmp_path), 16, Stream(0, 60), 0)).images[:, 2]
    found = [[bool((window == place).all()) for place in places] for window in windows]
    assert all(sum(row) == 1 for row in found) and np.any(found, axis=0).all()


def test_windows_are_scaled_without_aliasing(tmp_path: Path) -> None:
    stripes = np.zeros((60, 90, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    (small,), (large,) = (
        next(photo_batches(str(tmp_path), canvas, Stream(0, 1), 0)).images for canvas in (20, 120)
    )
    assert small.shape == (3, 20, 20) and large.shape == (3, 120, 120)
    assert (small[..., 2:-2].float() - 127.5).abs().max() < 8
    assert large.float().std() > 60


def test_bundled_photos_keep_their_colours() -> None:
    source = Path(parity.__file__).parent / "photos"
    images = next(photo_batches(str(source), 64, Stream(0, len(find_images(source))), 0)).images
    assert images.dtype == torch.uint8 and images.is_contiguous()
    means = {round(float(image.float().mean())) for image in images}
    whole = {round(float(image.mean() * 255)) for image in parity.photos((64, 64))}
    assert all(min(abs(a - b) for b in whole) < 30 for a in means), (means, whole)


def spoiled(data: bytes, generator: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(4):
        changed[generator.randrange(len(changed))] = generator.randrange(256)
    return bytes(changed[: generator.randrange(1, len(changed))])


@pytest.mark.filterwarnings("ignore")  # Pillow's, about what it reads in damaged files
def test_damaged_photos_are_never_fatal(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    generator = random.Random(0)
    for number in range(200):
        file = io.BytesIO()
        Image.new("RGB", (40, 50)).save(file, ("JPEG", "PNG", "WEBP")[number % 3], exif=exif)
        (tmp_path / f"{number}.jpg").write_bytes(spoiled(file.getvalue(), generator))
    for number in range(200):
        (tmp_path / f"good{number}.png").write_bytes(photo(number))
    batch = steps(tmp_path, replace(STREAM, batch=200), 0, 2)[0]
    assert len(batch.corrupt) > 50


def test_a_corrupt_photo_is_replaced_and_named_whenever_it_is_met(folder: Path) -> None:
    (folder / "8.png").write_bytes(photo(8)[:60])
    batches = steps(folder, replace(STREAM, batch=9), 0, 6)  # a pass each
    assert all(batch.corrupt == [str(folder / "8.png")] for batch in batches)
    found = [numbers(batch) for batch in batches]
    for one, following in pairwise(found):
        assert set(one) == set(range(8))
        assert any(one.count(a) == 2 and a == b for a, b in zip(one, following, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_only_broken_photos_are_an_error_without_traceback(workers: int, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(PgnError, match=f"{ATTEMPTS} photos in a row.*a.jpg") as caught:
        steps(tmp_path, STREAM, workers, 1)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "no .*jpg.* file below"),
        ("/nowhere", "no folder .*nowhere"),
        ("/train-{000..002}.tar", "no file .*train-000.tar \\(3 of 3 are missing\\)"),
        ("/a.tar", "no file .*a.tar"),
        ("/train-{000..002.tar", "cannot|expected a pattern"),
        ("/${PGN_UNKNOWN}-{0..1}.tar", "expected a pattern"),
    ],
)
def test_a_source_without_photos_is_refused(source: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(PgnError, match=message):
        photo_batches(f"{tmp_path}{source}", CANVAS, STREAM, 1)


def states() -> tuple[Tensor, object, str]:
    return torch.get_rng_state(), random.getstate(), str(np.random.get_state(legacy=False))


@pytest.mark.parametrize("workers", [0, 1])
def test_no_global_generator_is_touched(workers: int, folder: Path, shards: Path) -> None:
    before = states()
    for source in (folder, shards):
        steps(source, STREAM, workers, 2)
    after = states()
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]


def test_a_folder_smaller_than_a_batch_goes_round(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(photo(0))
    batches = steps(tmp_path, Stream(0, 7, start=10**12, world=3), 0, 40)
    assert {batch.images.shape for batch in batches} == {(7, 3, CANVAS, CANVAS)}
