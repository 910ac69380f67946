"""Moving elements without computing: slices, joins, padding, reshaping, blocks of pixels.
coremltools' tensor_operation.py and tensor_transformation.py define them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from pgn import ConversionError
from pgn_export.mil.arguments import Arguments


def reshape(given: Arguments) -> Tensor:
    """A 0 takes the side of x as far from the last, or 1 where there is none; a -1 the rest."""
    x, shape = given.tensor("x"), given.integers("shape")
    aligned = [1] * (len(shape) - x.dim()) + list(x.shape)[max(0, x.dim() - len(shape)) :]
    return x.reshape([side or old for side, old in zip(shape, aligned, strict=True)])


def transpose(given: Arguments) -> Tensor:
    return given.tensor("x").permute(given.integers("perm"))


def expand_dims(given: Arguments) -> Tensor:
    x, axes = given.tensor("x"), given.integers("axes")
    for axis in sorted(axis % (x.dim() + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def squeeze(given: Arguments) -> Tensor:
    x = given.tensor("x")
    return x.squeeze(tuple(given.integers("axes", range(x.dim()))))


def concat(given: Arguments) -> Tensor:
    values, axis = given.tensors("values"), given.integer("axis")
    if not given.flag("interleave", False):
        return torch.cat([v.reshape(1) if v.dim() == 0 else v for v in values], axis)
    axis %= values[0].dim()
    return torch.stack(values, axis + 1).flatten(axis, axis + 1)


def stack(given: Arguments) -> Tensor:
    return torch.stack(given.tensors("values"), given.integer("axis"))


def split(given: Arguments) -> tuple[Tensor, ...]:
    x, axis = given.tensor("x"), given.integer("axis")
    count = given.integer("num_splits", 0)
    sizes = given.integers("split_sizes", [])
    if not sizes and (count < 1 or x.shape[axis] % count):
        raise ConversionError(f"{x.shape[axis]} elements cannot be split in {count}")
    return torch.split(x, sizes or x.shape[axis] // count, axis)


def slice_by_index(given: Arguments) -> Tensor:
    """NumPy's x[begin:end:stride, ...]; a masked begin or end is open, a squeezed one an index."""
    x = given.tensor("x")
    no = [False] * x.dim()
    begins, ends = given.integers("begin"), given.integers("end")
    strides = given.integers("stride", [1] * x.dim())
    open_begin, open_end = given.flags("begin_mask", no), given.flags("end_mask", no)
    squeezed = given.flags("squeeze_mask", no)
    for axis, stride in enumerate(strides):
        begin = None if open_begin[axis] else begins[axis]
        end = None if open_end[axis] else ends[axis]
        if squeezed[axis]:
            chosen = range(*slice(begin, None).indices(x.shape[axis]))[:1]
        else:
            chosen = range(*slice(begin, end, stride).indices(x.shape[axis]))
        if chosen != range(x.shape[axis]):
            x = _take(x, axis, torch.arange(chosen.start, chosen.stop, chosen.step))
    return x.squeeze(tuple(axis for axis in range(x.dim()) if squeezed[axis]))


def slice_by_size(given: Arguments) -> Tensor:
    """From `begin`, `size` elements of each dimension; -1 stands for the rest."""
    x = given.tensor("x")
    begins, sizes = given.integers("begin"), given.integers("size")
    for axis, (begin, size) in enumerate(zip(begins, sizes, strict=True)):
        begin += x.shape[axis] if begin < 0 else 0
        x = x.narrow(axis, begin, x.shape[axis] - begin if size == -1 else size)
    return x


def reverse(given: Arguments) -> Tensor:
    x = given.tensor("x")
    return x.flip(given.integers("axes", range(x.dim())))


def tile(given: Arguments) -> Tensor:
    return given.tensor("x").tile(given.integers("reps"))


def pad(given: Arguments) -> Tensor:
    """Pad the last dimensions, of which `pad` holds pairs: before, after."""
    x, amounts = given.tensor("x"), given.integers("pad")
    mode, fill = given.text("mode", "constant"), given.number("constant_val", 0.0)
    pairs = [amounts[i : i + 2] for i in range(0, len(amounts), 2)]
    if min(amounts, default=0) < 0 or len(amounts) % 2 or len(pairs) > x.dim():
        raise ConversionError(f"pad {amounts} does not fit {x.dim()} dimensions")
    if mode == "constant":
        return F.pad(x, [amount for pair in reversed(pairs) for amount in pair], value=fill)
    for axis, (before, after) in zip(range(-len(pairs), 0), pairs, strict=True):
        last = x.shape[axis] - 1
        if max(before, after) > last + (mode == "replicate"):
            raise ConversionError(f"pad {amounts} is larger than the image, {tuple(x.shape)}")
        x = _take(x, axis, _border(mode, torch.arange(-before, last + 1 + after), last))
    return x


def fill(given: Arguments) -> Tensor:
    return _filled(given.tensor("value"), given.integers("shape"))


def fill_like(given: Arguments) -> Tensor:
    return _filled(given.tensor("value"), list(given.tensor("ref_tensor").shape))


def shape(given: Arguments) -> Tensor:
    return torch.tensor(list(given.tensor("x").shape), dtype=torch.int32)


def gather(given: Arguments) -> Tensor:
    """Slices of x along one axis; a negative index counts from the end."""
    x, indices = given.tensor("x"), given.tensor("indices").long()
    axis = given.integer("axis", 0) % max(x.dim(), 1)
    given.flag("validate_indices", False)  # they always are
    if given.integer("batch_dims", 0) != 0:
        raise ConversionError("batch_dims other than 0 are not supported")
    wrapped = torch.where(indices < 0, indices + x.shape[axis], indices)
    taken = _take(x, axis, wrapped.reshape(-1))
    return taken.reshape(x.shape[:axis] + indices.shape + x.shape[axis + 1 :])


def pixel_shuffle(given: Arguments) -> Tensor:
    return F.pixel_shuffle(given.tensor("x"), given.integer("upscale_factor"))


def pixel_unshuffle(given: Arguments) -> Tensor:
    return F.pixel_unshuffle(given.tensor("x"), given.integer("downscale_factor"))


def depth_to_space(given: Arguments) -> Tensor:
    """TensorFlow's order of channels: first by the place in the block, then by the result's."""
    x, block = given.tensor("x"), given.integer("block_size")
    grouped = torch.unflatten(x, 1, (block * block, -1)).transpose(1, 2).flatten(1, 2)
    return F.pixel_shuffle(grouped, block)


def space_to_depth(given: Arguments) -> Tensor:
    x, block = given.tensor("x"), given.integer("block_size")
    blocks = F.pixel_unshuffle(x, block)
    return torch.unflatten(blocks, 1, (-1, block * block)).transpose(1, 2).flatten(1, 2)


def _filled(value: Tensor, sides: list[int]) -> Tensor:
    return value.reshape(()).expand(sides).clone()


def _take(x: Tensor, axis: int, index: Tensor) -> Tensor:
    return x.index_select(axis, index.to(x.device))


def _border(mode: str, index: Tensor, last: int) -> Tensor:
    """Positions outside of 0 to `last` brought inside."""
    if mode == "reflect":
        return last - (last - index.abs()).abs()
    if mode == "replicate":
        return index.clamp(0, last)
    raise ConversionError(f"mode '{mode}' is unknown, expected constant, reflect or replicate")


SHAPES: dict[str, Callable[[Arguments], Tensor | tuple[Tensor, ...]]] = {
    "concat": concat,
    "depth_to_space": depth_to_space,
    "expand_dims": expand_dims,
    "fill": fill,
    "fill_like": fill_like,
    "gather": gather,
    "pad": pad,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "reshape": reshape,
    "reverse": reverse,
    "shape": shape,
    "slice_by_index": slice_by_index,
    "slice_by_size": slice_by_size,
    "space_to_depth": space_to_depth,
    "split": split,
    "squeeze": squeeze,
    "stack": stack,
    "tile": tile,
    "transpose": transpose,
}
