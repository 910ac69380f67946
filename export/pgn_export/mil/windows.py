"""Operations with a sliding window: convolutions and pooling, in one to three dimensions.
coremltools' conv.py and pool.py define them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pgn import ConversionError
from pgn_export.mil.arguments import Arguments

_CONV = (F.conv1d, F.conv2d, F.conv3d)
_CONV_TRANSPOSE = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
_AVG_POOL = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
_MAX_POOL = (F.max_pool1d, F.max_pool2d, F.max_pool3d)


@dataclass(frozen=True)
class Window:
    """A window's geometry; a number a spatial dimension, two of `pad`: before and after."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    pad_type: str
    pad: list[int]

    @property
    def reach(self) -> list[int]:
        """Pixels from a window's first to its last, both counted."""
        return [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]

    def padding(self, sides: list[int]) -> list[int]:
        """What is padded before and after each of `sides`.

        `same` gives ceil(side / stride) windows, the odd pixel after; `same_lower`, before.
        """
        if self.pad_type == "valid":
            return [0] * (2 * len(sides))
        if self.pad_type == "custom":
            return self.pad
        if self.pad_type not in ("same", "same_lower"):
            raise ConversionError(f"pad_type '{self.pad_type}' is unknown")
        padding = []
        for side, stride, reach in zip(sides, self.strides, self.reach, strict=True):
            total = max(0, (-(-side // stride) - 1) * stride + reach - side)
            small, large = total // 2, total - total // 2
            padding += [small, large] if self.pad_type == "same" else [large, small]
        return padding


def conv(given: Arguments) -> Tensor:
    x, weight = given.tensor("x"), given.tensor("weight")
    window = _window(given, list(weight.shape[2:]))
    padded = F.pad(x, _torch_order(window.padding(list(x.shape[2:]))))
    convolve = _of_rank(_CONV, x)
    return convolve(
        padded,
        weight,
        given.optional("bias"),
        stride=window.strides,
        dilation=window.dilations,
        groups=given.integer("groups", 1),
    )


def conv_transpose(given: Arguments) -> Tensor:
    """The result without padding, cut to its shape; or filled with 0, where no window reaches."""
    x, weight, bias = given.tensor("x"), given.tensor("weight"), given.optional("bias")
    window = _window(given, list(weight.shape[2:]))
    whole = _of_rank(_CONV_TRANSPOSE, x)(
        x,
        weight,
        stride=window.strides,
        dilation=window.dilations,
        groups=given.integer("groups", 1),
    )
    cut = _transposed_cut(window, list(x.shape[2:]), list(whole.shape[2:]))
    if given.has("output_shape"):
        wanted = given.integers("output_shape")[2:]
        for axis, (there, side) in enumerate(zip(whole.shape[2:], wanted, strict=True)):
            cut[2 * axis + 1] = there - cut[2 * axis] - side
    result = F.pad(whole, _torch_order([-amount for amount in cut]))
    return result if bias is None else result + bias.reshape(-1, *[1] * (x.dim() - 2))


def avg_pool(given: Arguments) -> Tensor:
    """The mean of each window; of its pixels beyond the padding none counts, as in PyTorch."""
    x = given.tensor("x")
    window = _window(given, given.integers("kernel_sizes"))
    padding, beyond = _pool_padding(window, x, given.flag("ceil_mode", False))
    counted = torch.ones_like(x[:1, :1])
    excluded = given.flag("exclude_padding_from_average", False)
    counted = F.pad(counted, _torch_order(padding), value=0.0 if excluded else 1.0)
    pool = _of_rank(_AVG_POOL, x)
    padded = F.pad(F.pad(x, _torch_order(padding)), _torch_order(beyond))
    mean = pool(padded, window.kernel, window.strides)
    share = pool(F.pad(counted, _torch_order(beyond)), window.kernel, window.strides)
    return mean / share


def max_pool(given: Arguments) -> Tensor:
    x = given.tensor("x")
    window = _window(given, given.integers("kernel_sizes"))
    padding, beyond = _pool_padding(window, x, given.flag("ceil_mode", False))
    total = [a + b for a, b in zip(padding, beyond, strict=True)]
    padded = F.pad(x, _torch_order(total), value=float("-inf"))
    return _of_rank(_MAX_POOL, x)(padded, window.kernel, window.strides)


def _window(given: Arguments, kernel: list[int]) -> Window:
    ones = [1] * len(kernel)
    window = Window(
        kernel,
        given.integers("strides", ones),
        given.integers("dilations", ones),
        given.text("pad_type", "valid"),
        given.integers("pad", [0] * (2 * len(kernel))),
    )
    if min(kernel + window.strides + window.dilations, default=0) < 1:
        raise ConversionError(f"kernel, strides and dilations must be positive, got {window}")
    return window


def _pool_padding(window: Window, x: Tensor, ceil: bool) -> tuple[list[int], list[int]]:
    """The padding of each side, and what the last window needs beyond it if sizes round up."""
    sides = list(x.shape[2:])
    padding = window.padding(sides)
    beyond = [0] * len(padding)
    for axis, (side, kernel) in enumerate(zip(sides, window.kernel, strict=True) if ceil else ()):
        before, after = padding[2 * axis : 2 * axis + 2]
        stride = window.strides[axis]
        steps = -(-(side + before + after - kernel) // stride)
        if steps * stride >= side + before and before + after > 0:
            steps -= 1  # it would begin in the padding
        beyond[2 * axis + 1] = max(0, steps * stride + kernel - side - before - after)
    return padding, beyond


def _transposed_cut(window: Window, sides: list[int], whole: list[int]) -> list[int]:
    """What is cut off before and after each side; negative where zeros are appended."""
    if window.pad_type in ("valid", "custom"):
        return list(window.padding(sides))
    if window.pad_type != "same":
        raise ConversionError(f"pad_type '{window.pad_type}' is unknown")
    cut = []
    for side, stride, there in zip(sides, window.strides, whole, strict=True):
        total = there - side * stride
        before = max(0, total // 2)
        cut += [before, total - before]
    return cut


def _of_rank(functions: tuple[Callable[..., Tensor], ...], x: Tensor) -> Callable[..., Tensor]:
    if not 3 <= x.dim() <= 5:
        raise ConversionError(f"input 'x' has {x.dim()} dimensions, expected 3 to 5")
    return functions[x.dim() - 3]


def _torch_order(pad: list[int]) -> list[int]:
    """Pairs of the first dimension first, to PyTorch's: of the last dimension first."""
    pairs = [pad[i : i + 2] for i in range(0, len(pad), 2)]
    return [amount for pair in reversed(pairs) for amount in pair]


WINDOWS: dict[str, Callable[[Arguments], Tensor]] = {
    "avg_pool": avg_pool,
    "conv": conv,
    "conv_transpose": conv_transpose,
    "max_pool": max_pool,
}
