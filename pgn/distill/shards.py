"""WebDataset shards: tar files of photos, streamed from a disk, a web server or an object store.

Reference: Aizman, Maltby, Breuel, "High performance I/O for large scale deep learning",
arXiv 2001.01858. A shard is only ever read front to back, and nothing but its photos is read.
"""

from __future__ import annotations

import random
import tarfile
from collections.abc import Iterator, Sequence
from itertools import chain, count
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

import numpy as np
import webdataset
from webdataset.gopen import gopen, gopen_schemes, set_options
from webdataset.shardlists import expand_urls
from webdataset.tariterators import tar_file_iterator

from pgn.errors import PgnError
from pgn.files import IMAGE_SUFFIXES, first_line

SHUFFLE_BUFFER = 1000  # encoded photos, about 0.1 GB of ImageNet's
CHUNK = 1 << 16  # bytes

NamedBytes = tuple[str, bytes]  # a photo's name and its encoded bytes


def shard_urls(source: str) -> list[str]:
    """The shards that `source` names; none where it is, or should be, a folder of photos.

    Args:
        source: a folder with tar files and no photo in it, one .tar file, or a pattern or URL that
            WebDataset understands: "train-{000..127}.tar", "https://...", "pipe:command".

    Raises:
        PgnError: a pattern that makes no sense, a local shard that is missing, or a URL of a kind
            that cannot be streamed.
    """
    path = Path(source)
    if path.is_dir():
        return _tars(path)
    if not (source.endswith(".tar") or "{" in source or urlparse(source).scheme):
        return []
    try:
        urls: list[str] = expand_urls(source)
    except (AssertionError, ValueError) as error:
        raise PgnError(
            f"shards: got {source} ({first_line(error)}), expected a pattern like "
            f"train-{{000..127}}.tar."
        ) from None
    _check(urls)
    return urls


def encoded_photos(urls: Sequence[str], seed: int, lane: int, lanes: int) -> Iterator[NamedBytes]:
    """Endless: the photos of one of `lanes` readers that share the shards.

    In each pass a shuffle by (seed, pass) deals every shard to one lane, which gives each of their
    photos once, through a seeded shuffle buffer. A shard that cannot be read to its end gives one
    more "photo", which has no bytes and names the shard and the reason.

    Raises:
        PgnError: this lane's shards hold no photo.
    """
    for number in count():
        order = np.random.default_rng((*b"shards", seed, number)).permutation(len(urls))
        mine = [urls[index] for index in order[lane::lanes]]
        shuffle = webdataset.shuffle(SHUFFLE_BUFFER, rng=random.Random(f"{seed} {number} {lane}"))
        empty = True
        for photo in shuffle(chain.from_iterable(map(_photos, mine))):
            empty = False
            yield photo
        if empty:
            suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
            raise PgnError(f"shards: no {suffixes} file in {', '.join(mine[:3])}.")


def _photos(url: str) -> Iterator[NamedBytes]:
    try:
        with gopen(url) as stream:
            # a command may fail when nobody reads on; else its exit status counts, at the end
            set_options(stream, ignore_errors=True)
            for entry in tar_file_iterator(stream, select_files=_is_photo):
                yield f"{url}/{entry['fname']}", entry["data"]
            _read_to_the_end(stream)
            set_options(stream, ignore_errors=False)
    except Exception as error:  # what a damaged tar, a web server or a command raises
        yield f"{url} ({first_line(error).partition(' @ ')[0]})", b""


def _read_to_the_end(stream: object) -> None:
    """See that a download ended well, and that the tar did not end before its file."""
    while rest := stream.read(CHUNK):  # type: ignore[attr-defined]
        if rest.strip(b"\0"):
            raise tarfile.ReadError("damaged before its end")


def _is_photo(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def _tars(folder: Path) -> list[str]:
    entries = sorted(folder.iterdir())
    if any(_is_photo(entry.name) for entry in entries):
        return []
    return [str(entry) for entry in entries if entry.suffix == ".tar"]


def _check(urls: Sequence[str]) -> None:
    missing = [url for url in urls if not urlparse(url).scheme and not Path(url).is_file()]
    if missing:
        raise PgnError(
            f"shards: no file {missing[0]} ({len(missing)} of {len(urls)} are missing). "
            f"Check the pattern."
        )
    known = {"", "file", *gopen_schemes} - {"__default__"}
    for url in urls:
        if urlparse(url).scheme not in known:
            raise PgnError(
                f"shards: got {url}, expected a path or one of {', '.join(sorted(known - {''}))}. "
                f"Any command can stream a shard: 'pipe:aws s3 cp s3://bucket/{{000..127}}.tar -'."
            )
