"""Compressed weights and quantised activations. coremltools' constexpr_ops.py, compression.py and
quantization_ops.py define them; here they compute in float32 and are rounded once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pgn import ConversionError
from pgn_export.mil.arguments import Arguments

_RANGES = {"int8": (-128, 127, torch.int8), "uint8": (0, 255, torch.uint8)}


def affine_dequantize(given: Arguments) -> Tensor:
    """scale * (quantized_data - zero_point), each a number or one for every slice of `axis`."""
    data, axis = given.tensor("quantized_data"), given.integer("axis")
    zero = _along(given.tensor("zero_point"), data, axis)
    return _along(given.tensor("scale"), data, axis) * (data.float() - zero)


def blockwise_shift_scale(given: Arguments) -> Tensor:
    """scale * (data - offset); one scale for every block of the data."""
    data, offset = given.tensor("data").float(), given.optional("offset")
    if offset is not None:
        data = data - _spread(offset.float(), data)
    return _spread(given.tensor("scale"), data) * data


def lut_to_dense(given: Arguments) -> Tensor:
    """Values of a look-up table; iOS 18 has a table for every block, iOS 16 packs the indices."""
    if given.has("shape"):
        return _packed_lut(given)
    indices, table = given.tensor("indices"), given.tensor("lut")
    palettes, vector = table.shape[-2:]
    blocks = table.flatten(0, -3)  # (tables, palettes, vector)
    numbers = torch.arange(len(blocks)).reshape(table.shape[:-2]).to(indices.device)
    flat = _spread(numbers, indices).long() * palettes + indices.long()
    dense = blocks.flatten(0, 1)[flat]  # (*indices, vector)
    axis = given.integer("vector_axis", 0) % indices.dim()
    if vector == 1:
        return dense.squeeze(-1)
    return dense.movedim(-1, axis + 1).flatten(axis, axis + 1)


def constexpr_cast(given: Arguments) -> Tensor:
    if given.text("output_dtype") != "fp32":
        raise ConversionError("output_dtype must be fp32")
    return given.tensor("source_val").float()


def quantize(given: Arguments) -> Tensor:
    """clip(round(input / scale) + zero_point); halves are rounded to the even number."""
    x, name = given.tensor("input"), given.text("output_dtype")
    if name not in _RANGES:
        raise ConversionError(f"output_dtype '{name}' is unknown, expected int8 or uint8")
    low, high, dtype = _RANGES[name]
    axis = given.integer("axis", 0)
    steps = torch.round(x / _along(given.tensor("scale"), x, axis))
    if given.has("zero_point"):
        steps = steps + _along(given.tensor("zero_point"), x, axis)
    return steps.clamp(low, high).to(dtype)


def dequantize(given: Arguments) -> Tensor:
    """scale * (input - zero_point)."""
    data, axis = given.tensor("input").float(), given.integer("axis", 0)
    if given.has("zero_point"):
        data = data - _along(given.tensor("zero_point"), data, axis)
    return _along(given.tensor("scale"), data, axis) * data


def _packed_lut(given: Arguments) -> Tensor:
    indices, table = given.tensor("indices"), given.tensor("lut")
    shape = given.integers("shape")
    bits = max(len(table) - 1, 1).bit_length()
    unpacked = (indices.long()[:, None] >> torch.arange(8).to(indices.device)) & 1
    count = torch.Size(shape).numel()
    if len(table) != 2**bits or len(indices) != (count * bits + 7) // 8:
        raise ConversionError(
            f"{len(indices)} bytes of indices and {len(table)} values do not give shape {shape}"
        )
    places = (1 << torch.arange(bits)).to(indices.device)
    numbers = (unpacked.flatten()[: count * bits].reshape(-1, bits) * places).sum(1)
    return table[numbers].reshape(shape)


def _along(parameter: Tensor, data: Tensor, axis: int) -> Tensor:
    """A number or a vector of `axis`, to broadcast against the data."""
    if parameter.dim() == 0:
        return parameter.float()
    side = data.shape[axis]
    if parameter.shape != (side,):
        raise ConversionError(f"a parameter of shape {tuple(parameter.shape)} for {side} slices")
    return parameter.float().reshape([-1] + [1] * (data.dim() - 1 - axis % data.dim()))


def _spread(blocks: Tensor, data: Tensor) -> Tensor:
    """One value a block, repeated over the block's elements."""
    if blocks.dim() != data.dim() or any(
        not small or side % small for side, small in zip(data.shape, blocks.shape, strict=True)
    ):
        raise ConversionError(f"blocks {tuple(blocks.shape)} do not divide {tuple(data.shape)}")
    for axis, (side, small) in enumerate(zip(data.shape, blocks.shape, strict=True)):
        blocks = blocks.repeat_interleave(side // small, axis)
    return blocks


WEIGHTS: dict[str, Callable[[Arguments], Tensor]] = {
    "constexpr_affine_dequantize": affine_dequantize,
    "constexpr_blockwise_shift_scale": blockwise_shift_scale,
    "constexpr_cast": constexpr_cast,
    "constexpr_lut_to_dense": lut_to_dense,
    "dequantize": dequantize,
    "quantize": quantize,
}
