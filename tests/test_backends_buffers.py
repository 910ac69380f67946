"""Runtimes that write into the caller's arrays, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import assert_close
from numpy.typing import NDArray
from small_graphs import write_onnx, write_tflite

from pgn_runtime import RuntimeInputError, backends
from pgn_runtime.backends import Session

GUARD = np.float32(7.0)


def _onnx(folder: Path) -> Path:
    from onnx import helper

    nodes = [
        helper.make_node("Add", ["x", "x"], ["twice"]),
        helper.make_node("Mul", ["twice", "x"], ["y"]),
    ]
    return write_onnx(folder / "m.onnx", nodes, {"x": (2, 3)}, {"y": (2, 3)})


def _tflite(folder: Path) -> Path:
    operators = [("ADD", ["x", "x"], "twice"), ("MUL", ["twice", "x"], "y")]
    tensors = {name: [2, 3] for name in ("x", "twice", "y")}
    return write_tflite(folder / "m.tflite", operators, tensors)


@pytest.fixture(params=[_onnx, _tflite])
def session(request: pytest.FixtureRequest, tmp_path: Path) -> Session:
    """y = 2 x^2, (2, 3)."""
    return backends.load(request.param(tmp_path), 1)


def guarded() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """An array for y, and what lies around it in memory."""
    around = np.full((6, 3), GUARD)
    return around[2:4], around


def test_a_runtime_writes_into_the_callers_array_and_not_past_it(session: Session) -> None:
    y, around = guarded()
    x = np.random.default_rng(0).random((2, 3), dtype=np.float32)
    for value in (x, x + np.float32(1)):  # a second call sees the new input
        found = session.run({"x": value}, {"y": y})
        assert found["y"] is y
        assert_close(y, 2.0 * value.astype(np.float64) ** 2, 1e-6)
    assert (np.delete(around, [2, 3], axis=0) == GUARD).all()


def test_outputs_of_earlier_calls_are_kept(session: Session) -> None:
    x = np.ones((2, 3), np.float32)
    first = session.run({"x": x})["y"]
    session.run({"x": x * np.float32(3)})
    y, _ = guarded()
    session.run({"x": x * np.float32(5)}, {"y": y})
    session.run({"x": x * np.float32(4)})
    assert (first == 2).all() and (y == 50).all()


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({}, "got arrays for none, expected one for each of y"),
        ({"y": np.zeros((2, 3), np.float32), "z": np.zeros(1, np.float32)}, "got arrays for y, z"),
        ({"y": np.zeros((2, 4), np.float32)}, r"float32 \(2, 4\) for y, .* of shape \(2, 3\)"),
        ({"y": np.zeros(6, np.float32)}, r"float32 \(6,\) for y"),
        ({"y": np.zeros((2, 3), np.float64)}, r"float64 \(2, 3\) for y"),
        ({"y": np.zeros((2, 3), np.int32)}, r"int32 \(2, 3\) for y"),
        ({"y": np.zeros((3, 2), np.float32).T}, "contiguous, writeable"),
        ({"y": np.broadcast_to(np.float32(0), (2, 3))}, "contiguous, writeable"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    session: Session, outputs: dict[str, NDArray[Any]], message: str
) -> None:
    with pytest.raises(RuntimeInputError, match=message):
        session.run({"x": np.ones((2, 3), np.float32)}, outputs)
    assert not any(array.any() for array in outputs.values())


def test_a_missing_input_is_refused(session: Session) -> None:
    session.run({"x": np.ones((2, 3), np.float32)})  # its value must not be taken again
    y, around = guarded()
    with pytest.raises(Exception, match="x"):
        session.run({}, {"y": y})
    assert (around == GUARD).all()


def test_onnx_runtime_refuses_an_array_that_a_free_dimension_does_not_fit(tmp_path: Path) -> None:
    from onnx import helper

    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    path = write_onnx(tmp_path / "m.onnx", nodes, {"x": ("n", 3)}, {"y": ("n", 3)})
    session = backends.load(path, 1)
    y, around = guarded()
    assert_close(session.run({"x": np.ones((2, 3), np.float32)}, {"y": y})["y"], y, 0.0)
    around[:] = GUARD
    with pytest.raises(Exception, match=r"\{4,3\}|shape"):
        session.run({"x": np.ones((4, 3), np.float32)}, {"y": y})
    assert (around == GUARD).all()
