"""Files: hashes, writing by rename, and pictures as numpy arrays."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pgn_runtime.errors import RuntimeInputError

Pixels = NDArray[np.float32]
MAX_BYTES = 2**31  # of a graph: ONNX's and TFLite's formats end there
MAX_TEXT_BYTES = 2**24


def sha256(path: Path) -> str:
    """Hash of a file; of a folder (.mlpackage), over the names and hashes of all its files.

    Raises:
        RuntimeInputError: it is missing, no file (a pipe, a device), too large, or unreadable.
    """
    if not path.is_dir():
        with _opened(path, MAX_BYTES) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for name in sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()):
        digest.update(os.fsencode(name) + b"\0" + bytes.fromhex(sha256(path / name)))
    return digest.hexdigest()


def read_text(path: Path) -> str:
    """A text file.

    Raises:
        RuntimeInputError: as `sha256`; it is no UTF-8.
    """
    with _opened(path, MAX_TEXT_BYTES) as file:
        content = file.read()
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise RuntimeInputError(f"file: {path} is no UTF-8 text ({error}).") from None


def exists(path: Path) -> bool:
    """Whether something is there; not where one may not look, or the name is too long."""
    try:
        return path.exists()
    except OSError:
        return False


def _opened(path: Path, limit: int) -> BufferedReader:
    """A file that lies on a disk, opened: reading a pipe could take for ever."""
    try:
        if not path.is_file():
            raise RuntimeInputError(f"file: {path} is missing, or is no ordinary file.")
        if (size := path.stat().st_size) > limit:
            raise RuntimeInputError(
                f"file: {path} has {size} bytes, expected at most {limit}. It is damaged."
            )
        return path.open("rb")
    except OSError as error:
        raise RuntimeInputError(f"file: {path} cannot be read ({error.strerror}).") from None


def check_folder(folder: Path) -> None:
    """Make `folder` if it is missing, and see that it can be written, before work begins.

    Raises:
        RuntimeInputError: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RuntimeInputError(f"output: cannot write to {folder} ({error.strerror}).") from None


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block ends without an error.

    Raises:
        RuntimeInputError: the folder cannot be made or written, or the disk is full.
    """
    check_folder(path.parent)
    prefix = f".{path.name:.100}."  # a killed run's left-overs can be told by it
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)  # mkstemp makes files that only their owner may read
        temporary.replace(path)
    except OSError as error:
        raise RuntimeInputError(
            f"output: cannot write {path} ({error.strerror or error})."
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def open_picture(path: Path) -> Image.Image:
    """A picture as 8-bit RGB: turned as its EXIF says, 16-bit grey scaled, alpha dropped.

    Raises:
        RuntimeInputError: the file is missing, or is no picture that can be decoded.
    """
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
            if picture.mode.startswith("I;16"):  # convert() would clip it at 255
                picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
            return picture.convert("RGB")
    except FileNotFoundError:
        raise RuntimeInputError(f"image: no file {path}. Check the path.") from None
    except Exception as error:  # on damaged metadata Pillow raises anything
        raise RuntimeInputError(
            f"image: {path} cannot be decoded ({error!s:.200}). Expected a JPEG, PNG, WebP or BMP "
            f"file."
        ) from None


def read_image(path: Path) -> Pixels:
    """One picture as (1, 3, H, W) pixels in [0, 1]; errors as `open_picture`."""
    array = np.asarray(open_picture(path), dtype=np.float32) / np.float32(255.0)
    return np.ascontiguousarray(array.transpose(2, 0, 1)[None])


def to_picture(image: Pixels) -> Image.Image:
    """(3, H, W) pixels, clipped to [0, 1], as a picture."""
    array = np.round(np.clip(image.transpose(1, 2, 0), 0, 1) * 255)
    return Image.fromarray(array.astype(np.uint8))


def write_image(path: Path, image: Pixels) -> None:
    """Write (1, 3, H, W) pixels, clipped to [0, 1], as a picture."""
    with atomic_path(path) as temporary:
        to_picture(image[0]).save(temporary)
