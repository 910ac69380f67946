"""The interpreter of Core ML packages: its interface, types, compressed weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assert_close
from numpy.typing import NDArray
from test_mil_operations import save
from torch.nn import functional as F

from pgn import PgnError
from pgn_export import mil

pytestmark = pytest.mark.filterwarnings("ignore")  # of coremltools and what it imports
SPECIFICATION = "Data/com.apple.CoreML/model.mlmodel"
WEIGHT = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float16)


def tiny(path: Path) -> Path:
    """relu(conv(half(generated))) in float16, float32 outside."""
    from coremltools.converters.mil.mil import Builder as mb

    def build(generated: Any) -> Any:
        half = mb.cast(x=generated, dtype="fp16", name="half")
        convolved = mb.conv(x=half, weight=WEIGHT, pad_type="same", name="convolved")
        return mb.cast(x=mb.relu(x=convolved), dtype="fp32", name="proxy")

    return save(build, path, [(1, 3, 6, 5)])


def edit(package: Path, change: Callable[[Any], object]) -> None:
    """Change the specification's protobuf."""
    from coremltools.proto import Model_pb2

    model, path = Model_pb2.Model(), package / SPECIFICATION
    model.ParseFromString(path.read_bytes())
    change(model)
    path.write_bytes(model.SerializeToString())


def image(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(1).random(shape, dtype=np.float32)


@pytest.fixture(scope="module")
def original(tmp_path_factory: Any) -> Path:
    return tiny(tmp_path_factory.mktemp("original") / "tiny.mlpackage")


def test_results_are_rounded_to_their_declared_type(original: Path) -> None:
    program = mil.load(original)
    assert program.inputs["generated"].dtype == "float32"
    assert program.inputs["generated"].shape == (1, 3, 6, 5)
    assert program.outputs["proxy"].dtype == "float32"
    assert program.outputs["proxy"].shape == (1, 4, 6, 5)
    assert program.operations() == {"cast": 2, "conv": 1, "relu": 1}
    generated = image(1, 3, 6, 5)
    found = program.run({"generated": generated})["proxy"]
    half = torch.from_numpy(generated.astype(np.float16)).double()
    wanted = F.conv2d(half, torch.from_numpy(WEIGHT).double(), padding=1).relu()
    assert np.array_equal(found, found.astype(np.float16))
    assert_close(found, wanted.half(), 1e-3)
    exact = (found == wanted.half().numpy()).mean()
    assert exact > 0.98, f"only {exact:.3f} are rounded as float64 is"


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "'generated': is missing, expected float32"),
        ({"genrated": image(1, 3, 6, 5)}, "Did you mean 'generated'"),
        ({"generated": image(1, 3, 6, 6)}, r"got float32 \(1, 3, 6, 6\)"),
        ({"generated": image(1, 3, 6, 5).astype(np.float64)}, "got float64"),
    ],
)
def test_inputs_are_checked_against_the_declared_ones(
    original: Path, inputs: dict[str, Any], message: str
) -> None:
    with pytest.raises(PgnError, match=message):
        mil.load(original).run(inputs)


def test_inputs_may_be_views_and_are_not_changed(original: Path) -> None:
    program, generated = mil.load(original), image(1, 3, 6, 5)
    flipped = generated[..., ::-1]
    flipped.flags.writeable = False
    found = program.run({"generated": flipped})["proxy"]
    again = program.run({"generated": flipped.copy()})["proxy"]
    assert np.array_equal(found, again) and np.array_equal(generated, image(1, 3, 6, 5))


def flexible(path: Path, shapes: list[tuple[int, ...]] | None) -> mil.Program:
    """x + 1 with its shape computed; any sides of 4 to 12, or one of `shapes`."""
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import get_new_symbol

    def build(x: Any) -> Any:
        sides = mb.gather(x=mb.shape(x=x), indices=[0, 1, -2, -1], axis=0)
        return mb.reshape(x=mb.add(x=x, y=np.float32(1)), shape=sides, name="y")

    def change(model: Any) -> None:
        array = model.description.input[0].type.multiArrayType
        del array.shape[:]
        array.shape.extend((1, 3, 6, 6))
        for side in array.shapeRange.sizeRanges[2:] if shapes is None else ():
            side.lowerBound, side.upperBound = 4, 12
        for shape in shapes or ():
            array.enumeratedShapes.shapes.add(shape=shape)

    save(build, path, [(1, 3, get_new_symbol(), get_new_symbol())], "iOS16")
    edit(path, change)
    return mil.load(path)


@pytest.mark.parametrize("shapes", [None, [(1, 3, 6, 6), (1, 3, 4, 9)]])
def test_flexible_shapes(shapes: list[tuple[int, ...]] | None, tmp_path: Path) -> None:
    program = flexible(tmp_path / "flexible.mlpackage", shapes)
    assert program.outputs["y"].shape == (1, 3, 6, 6)
    x = image(1, 3, 4, 9)
    assert np.array_equal(program.run({"x": x})["y"], x + 1)
    with pytest.raises(PgnError, match=r"got float32 \(1, 3, 4, 13\), expected float32"):
        program.run({"x": image(1, 3, 4, 13)})


def compressed() -> dict[str, Any]:
    """Compressed weights (4, 6), each as (iOS version, operation, its inputs)."""
    numbers = np.random.default_rng(2)
    signed = numbers.integers(-128, 128, (4, 6)).astype(np.int8)
    scale = numbers.uniform(0.1, 1, 4).astype(np.float32)
    table = numbers.normal(size=16).astype(np.float32)
    return {
        "affine": ("iOS16", "constexpr_affine_dequantize", {
            "quantized_data": signed, "scale": scale, "axis": 0,
            "zero_point": numbers.integers(-9, 9, 4).astype(np.int8),
        }),
        "affine_scalar": ("iOS16", "constexpr_affine_dequantize", {
            "quantized_data": signed.view(np.uint8), "scale": np.float32(0.3), "axis": 0,
            "zero_point": np.uint8(7),
        }),
        "lut": ("iOS16", "constexpr_lut_to_dense", {
            "indices": numbers.integers(0, 256, 12).astype(np.uint8), "lut": table,
            "shape": np.array([4, 6], np.uint32),
        }),
        "lut_6_bits": ("iOS16", "constexpr_lut_to_dense", {
            "indices": numbers.integers(0, 256, 18).astype(np.uint8),
            "lut": numbers.normal(size=64).astype(np.float16), "shape": np.array([4, 6], np.uint32),
        }),
        "cast": ("iOS16", "constexpr_cast", {
            "source_val": numbers.normal(size=(4, 6)).astype(np.float16), "output_dtype": "fp32",
        }),
        "blockwise": ("iOS18", "constexpr_blockwise_shift_scale", {
            "data": signed, "scale": numbers.uniform(0.1, 1, (2, 3)).astype(np.float32),
            "offset": numbers.integers(-9, 9, (2, 3)).astype(np.int8),
        }),
        "blockwise_float16": ("iOS18", "constexpr_blockwise_shift_scale", {
            "data": signed, "scale": numbers.uniform(0.1, 1, (4, 1)).astype(np.float16),
        }),
    }  # fmt: skip


@pytest.mark.parametrize("name", compressed())
def test_compressed_weights_are_those_of_coremltools(name: str, tmp_path: Path) -> None:
    from coremltools.converters.mil.mil import Builder as mb

    target, operation, parameters = compressed()[name]
    wanted = []

    def build(x: Any) -> Any:
        weight = getattr(mb, operation)(**parameters)
        wanted.append(weight.op.materialized_val_inference())
        return mb.add(x=x, y=mb.cast(x=weight, dtype="fp32"), name="weight")

    path = save(build, tmp_path / "weights.mlpackage", [(4, 6)], target)
    found = mil.load(path).run({"x": np.zeros((4, 6), np.float32)})["weight"]
    limit = 1e-3 if wanted[0].dtype == np.float16 else 1e-7
    assert_close(found, wanted[0].astype(np.float32), limit)


def test_small_types_and_tables_of_blocks(tmp_path: Path) -> None:
    """iOS 18: 4-bit integers, and a table for each block with vectors of two."""
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    numbers = np.random.default_rng(3)
    data = numbers.integers(-8, 8, (4, 6)).astype(types.np_int4_dtype)
    indices = numbers.integers(0, 4, (4, 3)).astype(types.np_uint2_dtype)
    table = numbers.normal(size=(2, 1, 4, 2)).astype(np.float32)
    wanted = []

    def build(x: Any) -> Any:
        scale = np.full((4, 1), 0.5, np.float32)
        first = mb.constexpr_blockwise_shift_scale(data=data, scale=scale)
        second = mb.constexpr_lut_to_dense(indices=indices, lut=table, vector_axis=np.int32(1))
        wanted.append(sum(value.op.materialized_val_inference() for value in (first, second)))
        return mb.add(x=mb.add(x=x, y=first), y=second, name="weight")

    path = save(build, tmp_path / "small.mlpackage", [(4, 6)], "iOS18")
    found = mil.load(path).run({"x": np.zeros((4, 6), np.float32)})["weight"]
    assert_close(found, wanted[0], 1e-7)
