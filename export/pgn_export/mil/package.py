"""A .mlpackage on the disk: its manifest, its specification, and the blobs of its weights.

A package is a folder: Manifest.json names the specification (a protobuf) below Data/, and constants
of the specification point into blob files beside it. The blobs' format is that of coremltools'
MILBlob/Blob/StorageFormat.hpp: 64 bytes of metadata, then the raw data, at an offset it names.
All of it is a stranger's: nothing outside of the folder is read, no size is believed unchecked.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgn import ConversionError, MissingExtraError, PgnError
from pgn.files import first_line

_METADATA = struct.Struct("<IIQQQ32x")  # sentinel, type, bytes, offset, bits of padding
_SENTINEL = 0xDEADBEEF
_MODEL_PATH = "@model_path/"  # the folder of the specification


MAX_SPECIFICATION = 2**28  # bytes; weights lie in files of their own


@dataclass(frozen=True)
class Blob:
    """What a constant says of its blob: where it lies and what must be there."""

    file: str
    offset: int  # of its metadata
    data_type: int  # BlobDataType of MILBlob
    bits: int  # of the data, without padding


@dataclass(frozen=True)
class Package:
    """A package whose manifest was read."""

    root: Path
    specification: Path

    def parse(self) -> Any:
        """The specification, a coremltools.proto.Model_pb2.Model.

        Raises:
            ConversionError: it is no protobuf of this kind.
            MissingExtraError: coremltools is not installed.
        """
        try:
            from coremltools.proto import Model_pb2
            from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
        except ImportError:
            raise MissingExtraError("coremltools", "export") from None
        model = Model_pb2.Model()
        try:
            model.ParseFromString(_read(self.specification, 0, None))
        except DecodeError as error:
            raise ConversionError(
                f"{self.specification}: no readable Core ML specification ({first_line(error)})."
            ) from None
        return model

    def read(self, blob: Blob) -> bytes:
        """The raw bytes of a blob.

        Raises:
            ConversionError: its file is missing or outside of the package, or the metadata there
                disagrees with the constant or with the file.
        """
        if not blob.file.startswith(_MODEL_PATH):
            raise ConversionError(f"weights: got file '{blob.file}', expected {_MODEL_PATH}...")
        relative = blob.file.removeprefix(_MODEL_PATH)
        path = _inside(self.root, self.specification.parent, relative)
        where = f"{path}, blob at {blob.offset}"
        metadata = _read(path, blob.offset, _METADATA.size)
        sentinel, data_type, size, offset, padding = _METADATA.unpack(metadata)
        if sentinel != _SENTINEL:
            raise ConversionError(f"{where}: got sentinel {sentinel:#x}, expected {_SENTINEL:#x}.")
        if data_type != blob.data_type:
            raise ConversionError(
                f"{where}: holds data of type {data_type}, the constant says {blob.data_type}."
            )
        if size * 8 - padding != blob.bits or padding >= 8:
            raise ConversionError(
                f"{where}: holds {size} bytes with {padding} bits of padding, "
                f"the constant's shape needs {blob.bits} bits."
            )
        return _read(path, offset, size)


def open_package(path: str | Path) -> Package:
    """Read a package's manifest.

    Raises:
        PgnError: there is no such folder.
        ConversionError: its manifest is missing, damaged, or leads out of the folder.
    """
    root = Path(path)
    if not root.is_dir():
        raise PgnError(f"package: no folder {root}. Expected a saved .mlpackage.")
    manifest = root / "Manifest.json"
    try:
        content = json.loads(_read(_inside(root, root, manifest.name), 0, None))
        item = content["itemInfoEntries"][content["rootModelIdentifier"]]
        relative = str(item["path"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, PgnError):
            raise
        raise ConversionError(f"{manifest}: names no model ({first_line(error)}).") from None
    return Package(root, _inside(root, root / "Data", relative))


def _inside(root: Path, folder: Path, relative: str) -> Path:
    """`folder / relative`, a file that lies in `root` once links and dots are followed."""
    try:
        path = (folder / relative).resolve()
        found = path.is_file()
    except (OSError, ValueError, RuntimeError):  # NUL, too long, a ring of links
        found, path = False, root
    if not path.is_relative_to(root.resolve()):
        raise ConversionError(f"{root}: refers to {relative!r}, which leads out of the package.")
    if not found:
        raise ConversionError(f"{root}: its file {relative!r} is missing.")
    return path


def _read(path: Path, offset: int, size: int | None) -> bytes:
    """`size` bytes of a file from `offset`, or all that there are from there."""
    try:
        there = path.stat().st_size
        if size is None and there > MAX_SPECIFICATION:
            raise ConversionError(f"{path}: {there} bytes, expected at most {MAX_SPECIFICATION}.")
        if offset + (size or 0) > there:
            raise ConversionError(
                f"{path}: has {there} bytes, but {size} are to be read at {offset}. It is cut off."
            )
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)
    except OSError as error:
        raise ConversionError(f"{path}: cannot be read ({error.strerror}).") from None
