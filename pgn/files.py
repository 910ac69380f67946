"""Files: pictures, folders of them, tensors without code, and writing by rename."""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pgn.errors import PgnError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
UNREADABLE = (  # what Pillow raises, the last two for damaged EXIF
    OSError,
    SyntaxError,
    ValueError,
    Image.DecompressionBombError,
    struct.error,
    TypeError,
)


def open_rgb(file: str | Path | IO[bytes]) -> Image.Image:
    """A picture as 8-bit RGB: turned as its EXIF says, 16-bit grey scaled, alpha dropped.

    Raises:
        one of UNREADABLE: it is no picture that can be decoded.
    """
    with Image.open(file) as opened:
        picture = ImageOps.exif_transpose(opened)
        if picture.mode.startswith("I;16"):  # convert() would clip it at 255
            picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
        return picture.convert("RGB")


def read_image(path: str | Path) -> Tensor:
    """Read one picture as pixels (3, H, W) in [0, 1].

    Raises:
        PgnError: the file is missing, or is no picture that can be decoded.
    """
    try:
        array = np.asarray(open_rgb(path), dtype=np.float32) / 255.0
    except FileNotFoundError:
        raise PgnError(f"image: no file {path}. Check the path.") from None
    except UNREADABLE as error:
        raise PgnError(
            f"image: {path} cannot be decoded ({error}). Expected a JPEG, PNG, WebP or BMP file."
        ) from None
    return torch.from_numpy(array).permute(2, 0, 1)


def find_images(folder: str | Path) -> list[Path]:
    """All pictures below `folder`, sorted by name.

    Raises:
        PgnError: there is no such folder, or it holds no picture.
    """
    root = Path(folder)
    if not root.is_dir():
        raise PgnError(f"images: no folder {root}. Check the path.")
    found = (p for p in root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    paths = sorted(found)
    if not paths:
        raise PgnError(f"images: no {', '.join(sorted(IMAGE_SUFFIXES))} file below {root}.")
    return paths


def read_torch(path: Path) -> Any:
    """What a PyTorch file holds: tensors and plain values; code in it is never run.

    Raises:
        PgnError: no PyTorch file, one that wants to run code, or one that would inflate.
    """
    try:
        _check_stored(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except PgnError:
        raise
    except pickle.UnpicklingError:
        raise PgnError(
            f"file: {path} is refused: it is damaged, or it holds more than tensors and reading it "
            f"could run code. Ask its author for plain weights."
        ) from None
    except Exception as error:  # a damaged file makes torch.load raise anything
        raise PgnError(f"file: {path} is no readable PyTorch file ({first_line(error)}).") from None


def _check_stored(path: Path) -> None:
    """Refuse a zip bomb: torch.save does not compress, so no file holds less than it declares."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":  # by which torch.load knows its zip files
            return
    with zipfile.ZipFile(path) as archive:
        declared = sum(entry.file_size for entry in archive.infolist())
    if declared > path.stat().st_size:
        raise PgnError(
            f"file: {path} declares {declared} bytes and has {path.stat().st_size}: compressed, "
            f"as torch.save never does. Ask its author for the file as it was saved."
        )


def first_line(error: Exception) -> str:
    """An exception in one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def check_folder(folder: Path) -> None:
    """Make `folder` if it is missing, and see that it can be written, before work begins.

    Raises:
        PgnError: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise PgnError(f"output: cannot write to {folder} ({error.strerror}).") from None


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block ends without an error.

    Raises:
        PgnError: the folder cannot be made or written, or the disk is full.
    """
    final = Path(path)
    check_folder(final.parent)
    handle, name = tempfile.mkstemp(dir=final.parent, prefix=f".{final.name:.100}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)  # mkstemp makes files that only their owner may read
        temporary.replace(final)
    except OSError as error:
        raise PgnError(f"output: cannot write {final} ({first_line(error)}).") from None
    finally:
        temporary.unlink(missing_ok=True)
