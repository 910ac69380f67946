"""Core ML packages of strangers: whatever is damaged or hostile in them is an error of ours."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_mil import SPECIFICATION, edit, tiny

from pgn import ConversionError, PgnError
from pgn_export import mil
from pgn_export.mil import interpreter

pytestmark = pytest.mark.filterwarnings("ignore")  # of coremltools and what it imports
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


@pytest.fixture(scope="module")
def original(tmp_path_factory: Any) -> Path:
    return tiny(tmp_path_factory.mktemp("original") / "tiny.mlpackage")


@pytest.fixture
def package(original: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(original, tmp_path / original.name))


def operations(model: Any) -> dict[str, Any]:
    """By the name of their first output."""
    function = model.mlProgram.functions["main"]
    block = function.block_specializations[function.opset]
    return {operation.outputs[0].name: operation for operation in block.operations}


def constant(model: Any, operation: str, parameter: str) -> Any:
    """The Value of a parameter of an operation."""
    named = operations(model)
    name = named[operation].inputs[parameter].arguments[0].name
    return named[name].attributes["val"]


def test_missing_operations_are_all_named_when_loading(package: Path) -> None:
    def change(model: Any) -> None:
        operations(model)["convolved"].type = "conv_quantized"
        operations(model)["half"].type = "non_zero"

    edit(package, change)
    with pytest.raises(ConversionError, match=r"conv_quantized \(convolved\); non_zero \(half\)"):
        mil.load(package)


def blob(model: Any) -> Any:
    return constant(model, "convolved", "weight").blobFileValue


def sides(value_type: Any) -> Any:
    return value_type.tensorType.dimensions


def set_side(value_type: Any, axis: int, side: int) -> None:
    sides(value_type)[axis].constant.size = side


def duplicate(model: Any) -> None:
    operations(model)["convolved"].outputs[0].name = "half"


SPOILT: dict[str, tuple[Callable[[Any], object], str]] = {
    "offset": (lambda m: setattr(blob(m), "offset", 2**40), "cut off"),
    "no blob there": (lambda m: setattr(blob(m), "offset", 128), "sentinel"),
    "file name": (lambda m: setattr(blob(m), "fileName", "weight.bin"), "expected @model_path"),
    "climbing": (lambda m: setattr(blob(m), "fileName", "@model_path/../../../x"), "leads out"),
    "absolute": (lambda m: setattr(blob(m), "fileName", "@model_path//etc/passwd"), "leads out"),
    "NUL": (lambda m: setattr(blob(m), "fileName", "@model_path/a\0b"), "missing"),
    "huge": (
        lambda m: set_side(constant(m, "convolved", "weight").type, 0, 2**62),
        "the constant's shape",
    ),
    "blob type": (
        lambda m: setattr(constant(m, "convolved", "weight").type.tensorType, "dataType", 11),
        "holds data of type 1",
    ),
    "unknown type": (
        lambda m: setattr(constant(m, "convolved", "weight").type.tensorType, "dataType", 12),
        "element type 12",
    ),
    "rank": (
        lambda m: setattr(constant(m, "convolved", "weight").type.tensorType, "rank", 9), "9 sides"
    ),
    "too few": (
        lambda m: set_side(constant(m, "convolved", "strides").type, 0, 3), "holds 2 elements"
    ),
    "wrong values": (
        lambda m: constant(m, "convolved", "strides").immediateValue.tensor.floats.values.append(1),
        "its values are 'floats'",
    ),
    "declared": (
        lambda m: set_side(operations(m)["convolved"].outputs[0].type, 1, 5), r"declared is float16"
    ),
    "undefined": (
        lambda m: setattr(operations(m)["half"].inputs["x"].arguments[0], "name", "ghost"),
        "'ghost'",
    ),
    "twice": (duplicate, "defined twice"),
    "unasked": (
        lambda m: operations(m)["half"].inputs["mode"].CopyFrom(operations(m)["half"].inputs["x"]),
        "has no input mode",
    ),
    "opset": (lambda m: setattr(m.mlProgram.functions["main"], "opset", "none"), "opset 'none'"),
    "no function": (lambda m: m.mlProgram.functions.clear(), "expected an ML program"),
    "no program": (lambda m: m.ClearField("mlProgram"), "expected an ML program"),
    "other input": (lambda m: setattr(m.description.input[0], "name", "a"), "not both described"),
    "other output": (lambda m: setattr(m.description.output[0], "name", "a"), "outputs: described"),
    "input type": (
        lambda m: setattr(m.description.input[0].type.multiArrayType, "dataType", 131104),
        "described",
    ),
    "image": (lambda m: m.description.input[0].type.imageType.SetInParent(), "is imageType"),
    "large strides": (
        lambda m: constant(m, "convolved", "strides").immediateValue.tensor.ints.values.__setitem__(
            0, 0
        ),
        "must be positive",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_specification_is_told(name: str, package: Path) -> None:
    change, message = SPOILT[name]
    edit(package, change)
    with pytest.raises(ConversionError, match=message) as caught:
        mil.load(package)
    assert caught.value.exit_code == 3


def manifest_to(package: Path, path: str) -> None:
    content = json.loads((package / "Manifest.json").read_text())
    content["itemInfoEntries"][content["rootModelIdentifier"]]["path"] = path
    (package / "Manifest.json").write_text(json.dumps(content))


def link_out(package: Path) -> None:
    weights = package / WEIGHTS
    weights.replace(package.parent / "outside.bin")
    weights.symlink_to(package.parent / "outside.bin")


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda p: (p / "Manifest.json").unlink(), "'Manifest.json' is missing"),
    "no json": (lambda p: (p / "Manifest.json").write_text("{"), "names no model"),
    "deep json": (lambda p: (p / "Manifest.json").write_text("[" * 100_000), "names no model"),
    "no entry": (lambda p: (p / "Manifest.json").write_text("{}"), "names no model"),
    "climbing": (lambda p: manifest_to(p, "../../tiny/../../x"), "leads out"),
    "absolute": (lambda p: manifest_to(p, "/etc/passwd"), "leads out"),
    "folder": (lambda p: manifest_to(p, "com.apple.CoreML"), "missing"),
    "no specification": (lambda p: (p / SPECIFICATION).unlink(), "missing"),
    "empty": (lambda p: (p / SPECIFICATION).write_bytes(b""), "expected an ML program"),
    "no protobuf": (lambda p: (p / SPECIFICATION).write_bytes(b"\xff" * 99), "no readable"),
    "no weights": (lambda p: (p / WEIGHTS).unlink(), "missing"),
    "short weights": (lambda p: (p / WEIGHTS).write_bytes(b"\0" * 70), "cut off"),
    "link": (link_out, "leads out"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_package_is_told(name: str, package: Path) -> None:
    spoil, message = BROKEN[name]
    spoil(package)
    with pytest.raises(ConversionError, match=message):
        mil.load(package)


def test_no_package_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(PgnError, match="no folder") as caught:
        mil.load(tmp_path / "none.mlpackage")
    assert caught.value.exit_code == 2


def test_large_results_are_refused_before_they_are_made(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mil.load(package)
    monkeypatch.setattr(interpreter, "MAX_BYTES", 1 * 3 * 6 * 5 * 4 - 1)
    with pytest.raises(ConversionError, match="input 'generated'.* needs more than 359 bytes"):
        mil.load(package)
    monkeypatch.setattr(interpreter, "MAX_BYTES", 1 * 3 * 8 * 7 * 4 - 1)  # padded
    with pytest.raises(ConversionError, match=r"conv.*a tensor of shape \(1, 3, 8, 7\)"):
        mil.load(package)


@settings(
    max_examples=200, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(
    file=st.sampled_from([SPECIFICATION, SPECIFICATION, SPECIFICATION, WEIGHTS, "Manifest.json"]),
    where=st.integers(0, 10**6),
    flip=st.integers(0, 255),
)
def test_flipped_and_missing_bytes_give_our_errors_or_numbers(
    package: Path, file: str, where: int, flip: int
) -> None:
    whole = (package / file).read_bytes()
    where %= len(whole)
    spoilt = bytearray(whole)
    spoilt[where] ^= flip
    (package / file).write_bytes(spoilt if flip else whole[:where])
    try:
        program = mil.load(package)
        inputs = {n: np.ones(f.shape, f.dtype) for n, f in program.inputs.items()}
        outputs = program.run(inputs)
        assert outputs and all(isinstance(array, np.ndarray) for array in outputs.values())
    except PgnError as error:
        assert str(error)
    finally:
        (package / file).write_bytes(whole)
