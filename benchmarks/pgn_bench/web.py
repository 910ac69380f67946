"""onnxruntime-web for the page of `pgn-bench serve`: npm's package, fetched once, of a known hash.

Version and hash are those of package-lock.json beside the page, so that npm's own tools can watch
and raise them; a page needs four files of the package, and npm itself is not needed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import tarfile
import tempfile
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pgn import PgnError
from pgn.files import check_folder, first_line

PACKAGE = "onnxruntime-web"
LOCK = Path(__file__).parent / "serve" / "page" / "package-lock.json"
REGISTRY = "https://registry.npmjs.org"
FILES = (  # in dist/: each build is one module, and the binary that it loads from beside itself
    "ort.wasm.bundle.min.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.bundle.min.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
MAX_BYTES = 2**28  # of the archive
SECONDS = 60  # without a byte


@dataclass(frozen=True)
class WebRuntime:
    """An unpacked onnxruntime-web: FILES lie in `folder`/dist."""

    folder: Path
    version: str


def fetch(registry: str = REGISTRY) -> WebRuntime:
    """The pinned package from the user's cache, downloaded first if it is not there.

    Raises:
        PgnError: no network, no space, or what came has another hash; nothing is kept.
    """
    pin = json.loads(LOCK.read_text(encoding="utf-8"))["packages"][f"node_modules/{PACKAGE}"]
    version, integrity = pin["version"], pin["integrity"]
    folder = cache() / f"{PACKAGE}-{version}"
    if not folder.is_dir():
        check_folder(folder.parent)
        address = f"{registry}/{PACKAGE}/-/{PACKAGE}-{version}.tgz"
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".npm-") as temporary:
            archive = Path(temporary) / "package.tgz"
            try:
                with urllib.request.urlopen(address, timeout=SECONDS) as reply:
                    _save(reply, archive, integrity)
                _unpack(archive, Path(temporary))
            except OSError as error:
                raise PgnError(
                    f"{PACKAGE}: {address} cannot be downloaded ({first_line(error)}). Without a "
                    f"network, unpack it elsewhere and give --{PACKAGE} FOLDER."
                ) from None
            with suppress(OSError):  # another command was faster
                (Path(temporary) / "package").replace(folder)
    return unpacked(folder)


def unpacked(folder: Path) -> WebRuntime:
    """A package that npm, or tar, has unpacked.

    Raises:
        PgnError: a file of it is missing or damaged.
    """
    for name in ("package.json", *(f"dist/{name}" for name in FILES)):
        if not (folder / name).is_file():
            raise PgnError(
                f"{PACKAGE}: {folder} holds no {name}. Expected the unpacked npm package: npm pack "
                f"{PACKAGE}, tar xf {PACKAGE}-*.tgz, and give the folder 'package'."
            )
    try:
        package = json.loads((folder / "package.json").read_text(encoding="utf-8"))
        return WebRuntime(folder, str(package["version"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PgnError(
            f"{PACKAGE}: {folder / 'package.json'} cannot be read ({error!r:.80}). Unpack the npm "
            f"package again."
        ) from None


def cache() -> Path:
    """Where downloads and exports of ours stay, as the XDG base directory specification says."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pgn-edge"


def _save(reply: IO[bytes], path: Path, integrity: str) -> None:
    """Write a download of a known hash (subresource integrity: sha512-BASE64)."""
    digest, size = hashlib.sha512(), 0
    with path.open("wb") as file:
        while size <= MAX_BYTES and (part := reply.read(2**20)):
            digest.update(part)
            size += file.write(part)
    found = f"sha512-{base64.b64encode(digest.digest()).decode()}"
    if found != integrity:
        raise PgnError(
            f"{PACKAGE}: {size} bytes came, of the hash {found}, expected {integrity}. They are "
            f"not used; try again, or in another network."
        )


def _unpack(archive: Path, folder: Path) -> None:
    """Only what a page needs, from an archive of a known hash."""
    wanted = {f"package/{name}" for name in ("package.json", *(f"dist/{n}" for n in FILES))}
    with tarfile.open(archive) as members:
        for member in members:
            if member.name in wanted:
                members.extract(member, folder, filter="data")
