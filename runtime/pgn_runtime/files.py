"""Files: hashes, writing by rename, and pictures as numpy arrays."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pgn_runtime.errors import RuntimeInputError

Pixels = NDArray[np.float32]


def sha256(path: Path) -> str:
    """Hash of a file; of a folder (.mlpackage), over the names and contents of all its files."""
    digest = hashlib.sha256()
    if path.is_file():
        digest.update(path.read_bytes())
    else:
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(str(file.relative_to(path)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


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
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)  # mkstemp makes files that only their owner may read
        temporary.replace(path)
    except OSError as error:
        raise RuntimeInputError(f"output: cannot write {path} ({error.strerror}).") from None
    finally:
        temporary.unlink(missing_ok=True)


def read_image(path: Path) -> Pixels:
    """One picture as (1, 3, H, W) pixels in [0, 1], turned as its EXIF says, alpha dropped.

    Raises:
        RuntimeInputError: the file is missing, or is no picture that can be decoded.
    """
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
            if picture.mode.startswith("I;16"):  # convert() would clip it at 255
                picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
            array = np.asarray(picture.convert("RGB"), dtype=np.float32) / np.float32(255.0)
    except FileNotFoundError:
        raise RuntimeInputError(f"image: no file {path}. Check the path.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise RuntimeInputError(
            f"image: {path} cannot be decoded ({error}). Expected a JPEG, PNG, WebP or BMP file."
        ) from None
    return np.ascontiguousarray(array.transpose(2, 0, 1)[None])


def write_image(path: Path, image: Pixels) -> None:
    """Write (1, 3, H, W) pixels, clipped to [0, 1], as a picture."""
    array = np.round(np.clip(image[0].transpose(1, 2, 0), 0, 1) * 255).astype(np.uint8)
    with atomic_path(path) as temporary:
        Image.fromarray(array).save(temporary)
