"""Streams of photos from shards: who reads which, that they resume, and damage and commands."""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

import pytest
from photo_streams import (
    CANVAS,
    STREAM,
    assert_same,
    eight_shards,
    numbers,
    photo,
    steps,
    write_shard,
)

from pgn import PgnError
from pgn.distill.data import photo_batches
from pgn.distill.shards import encoded_photos, shard_urls

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on few cores


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return eight_shards(tmp_path / "shards")


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_shards_resume_as_if_undisturbed(workers: int, shards: Path) -> None:
    for shard in (8, 9):
        write_shard(shards / f"train-{shard}.tar", {"24.png": photo(24), "25.jpg": b"broken"})
    undisturbed = steps(shards, STREAM, workers, 16)
    for start in (1, 5):
        resumed = steps(shards, replace(STREAM, start=start), workers, 16 - start)
        assert_same(resumed, undisturbed[start:])
    assert any(batch.corrupt for batch in undisturbed[5:])


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


def test_sources_are_told_apart(shards: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "0.png").write_bytes(photo(0))
    eight = [str(shards / f"train-{shard}.tar") for shard in range(8)]
    (shards / "index.json").write_text("{}")
    assert shard_urls(str(shards)) == shard_urls(f"{shards}/train-{{0..7}}.tar") == eight
    assert shard_urls(eight[3]) == [eight[3]]
    assert shard_urls("https://a.b/{00..01}.tar") == ["https://a.b/00.tar", "https://a.b/01.tar"]
    write_shard(folder / "backup.tar", {})
    assert shard_urls(str(folder)) == shard_urls(str(folder / "nowhere")) == []


def test_what_cannot_be_streamed_is_refused_with_a_way_out() -> None:
    with pytest.raises(PgnError, match="got s3://b/0.tar.*https.*pipe:aws s3 cp"):
        photo_batches("s3://b/{0..1}.tar", CANVAS, STREAM, 1)


def test_fewer_shards_than_processes_are_refused_and_than_workers_shared(shards: Path) -> None:
    source = f"{shards}/train-{{0..1}}.tar"
    with pytest.raises(PgnError, match="got 2 in .* each of 3 processes.*more shards"):
        photo_batches(source, CANVAS, replace(STREAM, world=3), 1)
    assert_same(steps(source, STREAM, 5, 3), steps(source, STREAM, 2, 3))
