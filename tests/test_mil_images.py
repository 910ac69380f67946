"""The interpreter's convolutions, pooling, resizing and other image operations against float64
PyTorch, or against their definition where PyTorch has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_mil_operations import CASES as OTHERS
from test_mil_operations import LIMITS, Case, Weights, check, evaluate, on
from torch import Tensor
from torch.nn import functional as F

from pgn_export.mil.program import OPERATIONS

pytestmark = pytest.mark.filterwarnings("ignore")  # of coremltools and what it imports


def conv(kind: str, torch_shape: tuple[int, ...], reference: dict[str, Any], **given: Any) -> Case:
    """A convolution with a bias, by its MIL parameters and by PyTorch's."""
    groups = reference.get("groups", 1)
    outputs = torch_shape[1] * groups if "transpose" in kind else torch_shape[0]
    function = F.conv_transpose2d if "transpose" in kind else F.conv2d
    return (
        lambda mb, v, w: getattr(mb, kind)(
            x=v["x"], weight=w(*torch_shape), bias=w(outputs), **given
        ),
        lambda v, w: function(v["x"], w(*torch_shape), w(outputs), **reference),
    )


def same_conv(v: dict[str, Tensor], w: Weights) -> Tensor:
    """TensorFlow's `same` at stride 2: 7 and 9 pixels give 4 and 5, the odd pixel goes after."""
    return F.conv2d(F.pad(v["x"], (1, 2, 1, 2)), w(4, 6, 4, 4), stride=2)


def excluding(x: Tensor) -> Tensor:
    """Uneven padding left out of the mean."""
    pad, ones = (2, 1, 1, 0), torch.ones_like(x)
    total, count = (F.avg_pool2d(F.pad(v, pad), 3, 2, divisor_override=1) for v in (x, ones))
    return total / count


def resized(size: tuple[int, int], **how: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: F.interpolate(x, size=size, **how)


def sampled(positions: Callable[[int, int], list[float]], size: tuple[int, int]) -> Any:
    """Bilinear samples by the definition, a product of two interpolation matrices."""

    def matrix(side: int, wanted: int) -> Tensor:
        rows = torch.zeros(wanted, side, dtype=torch.float64)
        for row, position in zip(rows, positions(side, wanted), strict=True):
            position = min(side - 1.0, max(0.0, position))
            for pixel in range(side):
                row[pixel] = max(0.0, 1 - abs(position - pixel))
        return rows

    return lambda x: matrix(x.shape[-2], size[0]) @ x @ matrix(x.shape[-1], size[1]).T


def blocks(x: Tensor, to_depth: bool) -> Tensor:
    """TensorFlow's space_to_depth and depth_to_space of blocks of 2, element by element."""
    n, c, h, w = x.shape
    if to_depth:
        out = torch.empty(n, 4 * c, h // 2, w // 2, dtype=x.dtype)
        for place in range(4):
            out[:, place * c : place * c + c] = x[:, :, place // 2 :: 2, place % 2 :: 2]
        return out
    out = torch.empty(n, c // 4, 2 * h, 2 * w, dtype=x.dtype)
    for place in range(4):
        out[:, :, place // 2 :: 2, place % 2 :: 2] = x[:, place * c // 4 : (place + 1) * c // 4]
    return out


CASES: dict[str, Case] = {
    "conv_custom": conv(
        "conv", (4, 3, 3, 2),
        {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2},
        strides=[2, 1], pad_type="custom", pad=[1, 1, 2, 2], dilations=[1, 2], groups=2,
    ),
    "conv_valid": conv("conv", (5, 6, 1, 3), {}, pad_type="valid"),
    "conv_depthwise": conv("conv", (6, 1, 3, 3), {"groups": 6}, groups=6),
    "conv_same": (
        lambda mb, v, w: mb.conv(x=v["x"], weight=w(4, 6, 4, 4), strides=[2, 2], pad_type="same"),
        same_conv,
    ),
    "conv_same_lower": (
        lambda mb, v, w: mb.conv(x=v["x"], weight=w(4, 6, 2, 2), pad_type="same_lower"),
        lambda v, w: F.conv2d(F.pad(v["x"], (1, 0, 1, 0)), w(4, 6, 2, 2)),
    ),
    "conv_1d": (
        lambda mb, v, w: mb.conv(x=v["flat"], weight=w(3, 5, 4)),
        lambda v, w: F.conv1d(v["flat"], w(3, 5, 4)),
    ),
    "conv_transpose": conv(
        "conv_transpose", (6, 4, 3, 3), {"stride": 2, "padding": 1, "groups": 2},
        strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1], groups=2,
    ),
    "conv_transpose_shape": conv(
        "conv_transpose", (6, 4, 3, 3), {"stride": 2, "padding": 1, "output_padding": 1},
        strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1], output_shape=[2, 4, 14, 18],
    ),
    "conv_transpose_same": conv(
        "conv_transpose", (6, 4, 4, 4), {"stride": 2, "padding": 1},
        strides=[2, 2], pad_type="same",
    ),
    "conv_transpose_beyond": conv(
        "conv_transpose", (6, 4, 1, 1), {"stride": 2, "output_padding": 1},
        strides=[2, 2], pad_type="same",
    ),
    "avg_pool": on(
        "x", "avg_pool", lambda x: F.avg_pool2d(x, (2, 3), (2, 1), (1, 1)),
        kernel_sizes=[2, 3], strides=[2, 1], pad_type="custom", pad=[1, 1, 1, 1],
    ),
    "avg_pool_excluding": on(
        "x", "avg_pool", excluding, kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom",
        pad=[1, 0, 2, 1], exclude_padding_from_average=True,
    ),
    "avg_pool_ceil": on(
        "x", "avg_pool", lambda x: F.avg_pool2d(x, 3, (2, 3), 1, ceil_mode=True),
        kernel_sizes=[3, 3], strides=[2, 3], pad_type="custom", pad=[1, 1, 1, 1], ceil_mode=True,
    ),
    "avg_pool_1d": on(
        "flat", "avg_pool", lambda x: F.avg_pool1d(x, 3, 2),
        kernel_sizes=[3], strides=[2], pad_type="valid",
    ),
    "max_pool": on(
        "x", "max_pool", lambda x: F.max_pool2d(x, (3, 2), (1, 2), (1, 0)),
        kernel_sizes=[3, 2], strides=[1, 2], pad_type="custom", pad=[1, 1, 0, 0],
    ),
    "max_pool_ceil": on(
        "x", "max_pool", lambda x: F.max_pool2d(x - 9, 2, 2, ceil_mode=True) + 9,
        kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid", ceil_mode=True,
    ),
    "batch_norm": (
        lambda mb, v, w: mb.batch_norm(
            x=v["x"], mean=w(6), variance=abs(w(6)), gamma=w(6), beta=w(6),
            epsilon=abs(w(1)[0]),
        ),
        lambda v, w: F.batch_norm(
            v["x"], w(6), abs(w(6)), w(6), w(6), eps=float(abs(w(1)[0]))
        ),
    ),
    "instance_norm": (
        lambda mb, v, w: mb.instance_norm(x=v["x"], gamma=w(6), beta=w(6)),
        lambda v, w: F.instance_norm(v["x"], weight=w(6), bias=w(6)),
    ),
    "upsample_nearest_neighbor": on(
        "x", "upsample_nearest_neighbor", resized((14, 27)),
        scale_factor_height=2, scale_factor_width=3,
    ),
    "upsample_nearest_neighbor_fraction": on(
        "x", "upsample_nearest_neighbor", resized((10, 13)),
        scale_factor_height=1.5, scale_factor_width=1.5,
    ),
    "upsample_bilinear": on(
        "x", "upsample_bilinear", resized((14, 27), mode="bilinear"),
        scale_factor_height=2, scale_factor_width=3, align_corners=False,
    ),
    "upsample_bilinear_corners": on(
        "x", "upsample_bilinear", resized((14, 27), mode="bilinear", align_corners=True),
        scale_factor_height=2, scale_factor_width=3, align_corners=True,
    ),
    "upsample_bilinear_plain": on(
        "x", "upsample_bilinear", sampled(lambda a, b: [i * a / b for i in range(b)], (14, 27)),
        scale_factor_height=2, scale_factor_width=3, align_corners=False, half_pixel_centers=False,
    ),
    "resize_nearest_neighbor": on(
        "x", "resize_nearest_neighbor", resized((21, 18)),
        target_size_height=21, target_size_width=18,
    ),
    "resize_bilinear_strict": on(
        "x", "resize_bilinear", resized((5, 20), mode="bilinear", align_corners=True),
        target_size_height=5, target_size_width=20, sampling_mode="STRICT_ALIGN_CORNERS",
    ),
    "resize_bilinear_strict_single": on(
        "x", "resize_bilinear", lambda x: x[..., :1, :1],
        target_size_height=1, target_size_width=1, sampling_mode="STRICT_ALIGN_CORNERS",
    ),
    "resize_bilinear_align_single": on(
        "x", "resize_bilinear", lambda x: x[..., 3:4, 4:5],
        target_size_height=1, target_size_width=1, sampling_mode="ALIGN_CORNERS",
    ),
    "resize_bilinear_default": on(
        "x", "resize_bilinear",
        sampled(lambda a, b: [i * (a - a / b) / (b - 1) for i in range(b)], (5, 20)),
        target_size_height=5, target_size_width=20,
    ),
    "resize_bilinear_offset": on(
        "x", "resize_bilinear",
        sampled(lambda a, b: [(0.5 + i) * (a - 1) / b for i in range(b)], (5, 20)),
        target_size_height=5, target_size_width=20, sampling_mode="OFFSET_CORNERS",
    ),
    "resize_bilinear_unalign": on(
        "x", "resize_bilinear", resized((5, 20), mode="bilinear"),
        target_size_height=5, target_size_width=20, sampling_mode="UNALIGN_CORNERS",
    ),
    "resize": on(
        "x", "resize", resized((7, 20), mode="bilinear"), shape=[5, 0, 20],
        resized_dims=np.uint32(2), sampling_mode="UNALIGN_CORNERS",
    ),
    "resize_by_repeating": on(
        "x", "resize", resized((14, 9)), shape=[14, 9], resized_dims=np.uint32(2),
        interpolation_mode="NEAREST_NEIGHBOR",
    ),
    "crop": on("x", "crop", lambda x: x[..., 1:-2, 3:], crop_height=[1, 2], crop_width=[3, 0]),
    "pad_constant": on(
        "x", "pad", lambda x: F.pad(x, (3, 0, 1, 2), value=0.5),
        pad=[1, 2, 3, 0], mode="constant", constant_val=0.5,
    ),
    "pad_reflect": on(
        "x", "pad", lambda x: F.pad(x, (8, 0, 1, 6), mode="reflect"),
        pad=[1, 6, 8, 0], mode="reflect",
    ),
    "pad_replicate": on(
        "x", "pad", lambda x: F.pad(x, (3, 0, 1, 2), mode="replicate"),
        pad=[0, 0, 0, 0, 1, 2, 3, 0], mode="replicate",
    ),
    "pixel_shuffle": on("even", "pixel_shuffle", lambda x: F.pixel_shuffle(x, 2), upscale_factor=2),
    "pixel_unshuffle": on(
        "even", "pixel_unshuffle", lambda x: F.pixel_unshuffle(x, 2), downscale_factor=np.uint32(2)
    ),
    "space_to_depth": on("even", "space_to_depth", lambda x: blocks(x, True), block_size=2),
    "depth_to_space": on("even", "depth_to_space", lambda x: blocks(x, False), block_size=2),
    "linear": (
        lambda mb, v, w: mb.linear(x=v["flat"], weight=w(4, 12), bias=w(4)),
        lambda v, w: F.linear(v["flat"], w(4, 12), w(4)),
    ),
    "matmul": (
        lambda mb, v, w: mb.matmul(x=v["x"], y=v["y"], transpose_x=True),
        lambda v, w: v["x"].mT @ v["y"],
    ),
    "matmul_transposed": (
        lambda mb, v, w: mb.matmul(x=v["x"], y=w(1, 1, 4, 9), transpose_y=True),
        lambda v, w: v["x"] @ w(1, 1, 4, 9).mT,
    ),
    "layer_norm": (
        lambda mb, v, w: mb.layer_norm(x=v["x"], axes=[-2, -1], gamma=w(7, 9), beta=w(7, 9)),
        lambda v, w: F.layer_norm(v["x"], (7, 9), w(7, 9), w(7, 9)),
    ),
    "prelu": (
        lambda mb, v, w: mb.prelu(x=v["x"], alpha=w(6)), lambda v, w: F.prelu(v["x"], w(6))
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=LIMITS)
def outputs(request: Any, tmp_path_factory: Any) -> tuple[str, dict[str, NDArray[Any]]]:
    dtype = str(request.param)
    return dtype, evaluate(CASES, dtype, tmp_path_factory.mktemp("mil"))


@pytest.mark.parametrize("name", CASES)
def test_an_operation_is_that_of_float64(
    name: str, outputs: tuple[str, dict[str, NDArray[Any]]]
) -> None:
    dtype, found = outputs
    check(CASES[name], dtype, found[name])


def test_every_operation_of_the_interpreter_has_a_case() -> None:
    told = {*CASES, *OTHERS}
    untold = [kind for kind in OPERATIONS if not any(name.startswith(kind) for name in told)]
    assert all(kind.startswith("constexpr") or kind == "dequantize" for kind in untold), untold
