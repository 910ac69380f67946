"""The stream of photos: the same step for every start, each photo once a pass, damage named."""

from __future__ import annotations

import io
import pickle
import random
import tarfile
from dataclasses import replace
from itertools import chain, islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pgn import PgnError
from pgn.distill.data import ATTEMPTS, Batch, Stream, photo_batches
from pgn.distill.shards import encoded_photos, shard_urls
from pgn.files import find_images
from pgn_export import parity

CANVAS = 12
STREAM = Stream(seed=5, batch=3)

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on few cores


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
    """Eight shards of three photos, with labels beside them."""
    where = tmp_path / "shards"
    where.mkdir()
    for shard in range(8):
        entries: dict[str, bytes] = {}
        for number in range(3 * shard, 3 * shard + 3):
            entries |= {f"{number}.png": photo(number), f"{number}.cls": b"1"}
        write_shard(where / f"train-{shard}.tar", entries)
    return where


@pytest.mark.parametrize(("start", "workers"), [(0, 1), (3, 0), (5, 2), (4, 3)])
def test_a_step_of_a_folder_depends_on_its_number_alone(
    start: int, workers: int, folder: Path
) -> None:
    (folder / "8.png").write_bytes(b"broken")
    undisturbed = steps(folder, STREAM, 0, 9)[start:]
    assert_same(steps(folder, replace(STREAM, start=start), workers, 9 - start), undisturbed)
    assert any(batch.corrupt for batch in undisturbed)


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_shards_resume_as_if_undisturbed(workers: int, shards: Path) -> None:
    for shard in (8, 9):
        write_shard(shards / f"train-{shard}.tar", {"24.png": photo(24), "25.jpg": b"broken"})
    undisturbed = steps(shards, STREAM, workers, 16)
    for start in (1, 5):
        resumed = steps(shards, replace(STREAM, start=start), workers, 16 - start)
        assert_same(resumed, undisturbed[start:])
    assert any(batch.corrupt for batch in undisturbed[5:])


def test_ranks_share_the_photos_of_every_pass(folder: Path) -> None:
    ranks = [steps(folder, replace(STREAM, rank=rank, world=2), 0, 8) for rank in (0, 1)]
    seen = [number for both in zip(*ranks, strict=True) for b in both for number in numbers(b)]
    passes = [seen[first : first + 8] for first in range(0, 48, 8)]
    assert all(sorted(one) == list(range(8)) for one in passes), passes
    assert len({tuple(one) for one in passes}) == 6  # in another order each time


def test_lanes_share_the_shards_of_every_pass(shards: Path) -> None:
    urls = shard_urls(str(shards))
    lanes = [encoded_photos(urls, 0, lane, 4) for lane in range(4)]
    orders = []
    for _ in range(3):
        names = [[Path(name).name for name, _ in islice(lane, 6)] for lane in lanes]
        orders.append(names)
        assert sorted(chain(*names)) == sorted(f"{number}.png" for number in range(24))
    assert orders[0] != orders[1] != orders[2]
    other = [Path(name).name for name, _ in islice(encoded_photos(urls, 1, 0, 4), 6)]
    assert other != orders[0][0]


def test_ranks_read_different_shards(shards: Path) -> None:
    ranks = [steps(shards, replace(STREAM, rank=rank, world=2), 2, 4) for rank in (0, 1)]
    seen = [number for rank in ranks for batch in rank for number in numbers(batch)]
    assert sorted(seen) == list(range(24))  # two lanes each, a pass of six photos a lane


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


def test_a_shard_that_breaks_off_gives_what_it_has_and_is_named(shards: Path) -> None:
    whole = (shards / "train-0.tar").read_bytes()
    (shards / "train-0.tar").write_bytes(whole[: whole.index(photo(2)[:8], 3000) + 20])
    (shards / "train-1.tar").write_bytes(b"no tar at all" * 100)
    lost = bytearray((shards / "train-2.tar").read_bytes() + bytes(range(256)) * 200)
    header = lost.index(b"7.png")
    lost[header : header + 512] = b"\xff" * 512  # tarfile takes a damaged header for the end
    (shards / "train-2.tar").write_bytes(lost)
    names = [name for name, _ in islice(encoded_photos(shard_urls(str(shards)), 0, 0, 1), 21)]
    good = {Path(name).name for name in names if name.endswith(".png")}
    assert {"9.png", "23.png", "0.png", "6.png"} <= good and not good & {"3.png", "4.png", "8.png"}
    bad = sorted(name for name in names if not name.endswith(".png"))
    shard_names = [str(shards / f"train-{shard}.tar") for shard in range(3)]
    assert [name.split(" (")[0] for name in bad] == shard_names
    assert "unexpected end" in bad[0] and "invalid header" in bad[1] and "before its end" in bad[2]
    batches = steps(shards, STREAM, 1, 8)
    assert {name for batch in batches for name in batch.corrupt} == set(bad)


def test_commands_stream_shards_and_their_failure_is_named(shards: Path) -> None:
    source = f"pipe:cat {shards}/train-{{0..9}}.tar"
    names = [name for name, _ in islice(encoded_photos(shard_urls(source), 0, 0, 1), 26)]
    assert sum(name.endswith(".png") for name in names) == 24
    failed = sorted(name.split(" (")[0] for name in names if not name.endswith(".png"))
    assert failed == [f"pipe:cat {shards}/train-{shard}.tar" for shard in (8, 9)]
    photos = encoded_photos([f"pipe:cat {shards}/train-0.tar; exit 3"], 0, 0, 1)
    endings = [name.split(".tar")[-1] for name, _ in islice(photos, 4)]
    assert sum(ending.endswith(".png") for ending in endings) == 3
    assert "exit 3" in "".join(endings)


def test_a_command_that_is_not_read_to_its_end_does_no_harm(tmp_path: Path) -> None:
    entries = {f"{number}.png": bytes(1000) for number in range(500)}  # more than a pipe holds
    shard = write_shard(tmp_path / "0.tar", entries)
    photos = encoded_photos([f"pipe:cat {shard}"], 0, 0, 1)
    next(photos)
    del photos  # cat dies of SIGPIPE; a warning about that would fail this test


@pytest.mark.parametrize("workers", [0, 1])
def test_only_broken_photos_are_an_error_without_traceback(workers: int, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(PgnError, match=f"{ATTEMPTS} photos in a row.*a.jpg") as caught:
        steps(tmp_path, STREAM, workers, 1)
    assert "Traceback" not in str(caught.value)


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (pytest.fail, ("unpickled",))


def test_nothing_but_photos_of_a_shard_is_read(tmp_path: Path) -> None:
    entries = {"a.pkl": pickle.dumps(Bomb()), "a.pyd": b"", "a.pth": pickle.dumps(Bomb())}
    alone = write_shard(tmp_path / "alone.tar", entries)
    with pytest.raises(PgnError, match="no .*jpg.* file in .*alone.tar"):
        steps(alone, STREAM, 1, 1)
    beside = write_shard(tmp_path / "beside.tar", {**entries, "x/a.PNG": photo(3)})
    (batch,) = steps(beside, STREAM, 0, 1)
    assert numbers(batch) == [3, 3, 3] and not batch.corrupt


def test_sources_are_told_apart(shards: Path, folder: Path) -> None:
    eight = [str(shards / f"train-{shard}.tar") for shard in range(8)]
    (shards / "index.json").write_text("{}")
    assert shard_urls(str(shards)) == shard_urls(f"{shards}/train-{{0..7}}.tar") == eight
    assert shard_urls(eight[3]) == [eight[3]]
    assert shard_urls("https://a.b/{00..01}.tar") == ["https://a.b/00.tar", "https://a.b/01.tar"]
    write_shard(folder / "backup.tar", {})
    assert shard_urls(str(folder)) == shard_urls(str(folder / "nowhere")) == []


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


def test_what_cannot_be_streamed_is_refused_with_a_way_out() -> None:
    with pytest.raises(PgnError, match="got s3://b/0.tar.*https.*pipe:aws s3 cp"):
        photo_batches("s3://b/{0..1}.tar", CANVAS, STREAM, 1)


def test_fewer_shards_than_processes_are_refused_and_than_workers_shared(shards: Path) -> None:
    source = f"{shards}/train-{{0..1}}.tar"
    with pytest.raises(PgnError, match="got 2 in .* each of 3 processes.*more shards"):
        photo_batches(source, CANVAS, replace(STREAM, world=3), 1)
    assert_same(steps(source, STREAM, 5, 3), steps(source, STREAM, 2, 3))


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
