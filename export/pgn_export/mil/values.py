"""Types of MIL values and the decoding of constants, from MIL.proto of coremltools."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pgn import ConversionError
from pgn_export.mil.package import Blob, Package

Value = Tensor | str


@dataclass(frozen=True)
class DataType:
    """An element type: how it is stored in the package, and how we hold it."""

    name: str  # numpy's where it has one
    bits: int
    held: torch.dtype
    field: str  # of MIL.proto's TensorValue
    blob: int | None  # BlobDataType of MILBlob; None where blobs do not hold it


STRING = DataType("string", 0, torch.uint8, "strings", None)  # held as str, not as a tensor
TYPES = {  # MIL.proto, enum DataType; torch has no arithmetic in uint16 and uint32
    1: DataType("bool", 8, torch.bool, "bools", None),
    2: STRING,
    10: DataType("float16", 16, torch.float16, "bytes", 1),
    11: DataType("float32", 32, torch.float32, "floats", 2),
    21: DataType("int8", 8, torch.int8, "bytes", 4),
    22: DataType("int16", 16, torch.int16, "ints", 6),
    23: DataType("int32", 32, torch.int32, "ints", 14),
    25: DataType("int4", 4, torch.int8, "bytes", 8),
    31: DataType("uint8", 8, torch.uint8, "bytes", 3),
    32: DataType("uint16", 16, torch.int32, "ints", 7),
    33: DataType("uint32", 32, torch.int64, "bytes", 15),
    35: DataType("uint4", 4, torch.uint8, "bytes", 11),
    36: DataType("uint2", 2, torch.uint8, "bytes", 10),
    37: DataType("uint1", 1, torch.uint8, "bytes", 9),
    38: DataType("uint6", 6, torch.uint8, "bytes", 13),
    39: DataType("uint3", 3, torch.uint8, "bytes", 12),
}


@dataclass(frozen=True)
class TensorType:
    """A declared type; None stands for a side that the program leaves open."""

    data_type: DataType
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        sides = ["?" if side is None else str(side) for side in self.shape]
        return f"{self.data_type.name}[{', '.join(sides)}]"

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether `shape` is one of this type."""
        return len(shape) == len(self.shape) and all(
            wanted in (None, side) for wanted, side in zip(self.shape, shape, strict=True)
        )


def read_type(name: str, value_type: Any) -> TensorType:
    """The type of a value from its MIL.proto ValueType.

    Raises:
        ConversionError: it is no tensor, or of an element type or rank that is not understood.
    """
    if value_type.WhichOneof("type") != "tensorType":
        kind = value_type.WhichOneof("type") or "no type"
        raise ConversionError(f"value '{name}': is of {kind}, expected a tensor.")
    tensor = value_type.tensorType
    if tensor.dataType not in TYPES:
        raise ConversionError(f"value '{name}': its element type {tensor.dataType} is unknown.")
    if tensor.rank != len(tensor.dimensions) or any(d.unknown.variadic for d in tensor.dimensions):
        raise ConversionError(f"value '{name}': expected a type with all {tensor.rank} sides.")
    shape = (d.constant.size if d.HasField("constant") else None for d in tensor.dimensions)
    return TensorType(TYPES[tensor.dataType], tuple(shape))


def decode(name: str, value: Any, package: Package) -> Value:
    """A constant's value from its MIL.proto Value: a tensor of the stored type, or a text.

    The bytes must be there before anything of the declared size is made.

    Raises:
        ConversionError: it is damaged, or of a kind that is not understood.
    """
    declared = read_type(name, value.type)
    if None in declared.shape:
        raise ConversionError(f"constant '{name}': its type {declared} is open.")
    data_type, shape = declared.data_type, tuple(side or 0 for side in declared.shape)
    if value.WhichOneof("value") == "blobFileValue":
        raw = package.read(_blob(name, declared, value.blobFileValue, math.prod(shape)))
        array = unpack(raw, data_type, math.prod(shape))
    else:
        array = _immediate(name, declared, value.immediateValue.tensor)
    if len(array) != math.prod(shape):
        raise ConversionError(
            f"constant '{name}': is declared {declared} and holds {len(array)} elements."
        )
    if data_type is STRING:
        return _text(name, array)
    held = np.asarray(array, dtype=_numpy(data_type.held))
    return torch.tensor(held, dtype=data_type.held).reshape(shape)


def unpack(raw: bytes, data_type: DataType, count: int) -> np.ndarray[Any, np.dtype[Any]]:
    """`count` elements from their little-endian bytes; those below 8 bits start at low bits."""
    if data_type.bits >= 8:
        usable = len(raw) - len(raw) % (data_type.bits // 8)
        return np.frombuffer(raw[:usable], np.dtype(data_type.name).newbyteorder("<"))
    bits = np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")
    rows = bits[: min(count, len(bits) // data_type.bits) * data_type.bits]
    weights = 1 << np.arange(data_type.bits)
    if data_type.name.startswith("int"):
        weights[-1] *= -1  # two's complement
    return rows.reshape(-1, data_type.bits).astype(np.int16) @ weights.astype(np.int16)


def _blob(name: str, declared: TensorType, value: Any, count: int) -> Blob:
    data_type = declared.data_type
    if data_type.blob is None:
        raise ConversionError(f"constant '{name}': blobs hold no {data_type.name}.")
    return Blob(value.fileName, value.offset, data_type.blob, count * data_type.bits)


def _immediate(name: str, declared: TensorType, tensor: Any) -> Any:
    """The elements that stand in the specification itself."""
    data_type = declared.data_type
    field = tensor.WhichOneof("value")
    if field != data_type.field:
        raise ConversionError(
            f"constant '{name}': is declared {declared}, its values are '{field}'."
        )
    values = getattr(tensor, data_type.field).values
    if field != "bytes":
        return values
    count = math.prod(side or 0 for side in declared.shape)
    if len(values) != (count * data_type.bits + 7) // 8:
        raise ConversionError(
            f"constant '{name}': is declared {declared}, has {len(values)} bytes."
        )
    return unpack(values, data_type, count)


def _text(name: str, values: Any) -> str:
    if len(values) != 1:
        raise ConversionError(f"constant '{name}': got {len(values)} texts, expected one.")
    return str(values[0])


def _numpy(held: torch.dtype) -> np.dtype[Any]:
    return np.dtype(str(held).removeprefix("torch."))
