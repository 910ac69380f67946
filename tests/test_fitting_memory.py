"""Predicted memory against intervals counted by hand, and against processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_graphs import write_onnx, write_tflite

from pgn import PgnError
from pgn_export.fitting import memory
from pgn_export.fitting.budget import fit_budget, parse_bytes
from pgn_export.fitting.liveness import Operation, most_alive
from pgn_export.fitting.memory import LIBRARY, fit_peak, measured, peak_bytes
from pgn_export.fitting.plans import Plan, in_run_order

KIB = 1024  # bytes of 256 float32 values


@settings(max_examples=50)
@given(st.data())
def test_what_lives_against_intervals(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 12))
    sizes = {str(k): data.draw(st.integers(1, 50)) for k in range(count)}
    taken = [data.draw(st.sets(st.integers(0, k - 1))) if k else set() for k in range(count)]
    operations = [Operation(f"op{k}", [str(i) for i in taken[k]], [str(k)]) for k in range(count)]
    last = {k: max([k, *(j for j in range(count) if k in taken[j])]) for k in range(count)}
    wanted = [sum(sizes[str(k)] for k in range(now + 1) if last[k] >= now) for now in range(count)]
    most, where = most_alive(operations, sizes)
    assert most == max(wanted)
    assert where == f"op{wanted.index(max(wanted))}"


def test_views_take_nothing_and_keep_their_source() -> None:
    sizes = {"a": 10, "b": 10, "c": 10, "d": 3}
    operations = [
        Operation("make", ["x"], ["a"]),
        Operation("reshape", ["a"], ["b"], is_view=True),
        Operation("again", ["b"], ["c"], is_view=True),
        Operation("other", ["x"], ["d"]),
        Operation("use", ["c", "d"], ["y"]),
    ]
    assert most_alive(operations, sizes) == (13, "other")


@pytest.mark.parametrize(
    ("size", "later", "wanted"),
    [(10, [], 10), (9, [], 19), (10, ["a"], 20)],
    ids=["in its place", "another size", "still needed"],
)
def test_an_operation_in_place(size: int, later: list[str], wanted: int) -> None:
    operations = [
        Operation("make", ["x"], ["a"]),
        Operation("relu", ["a"], ["b"], in_place=True),
        Operation("use", ["b", *later], ["y"]),
    ]
    assert most_alive(operations, {"a": 10, "b": size})[0] == wanted


def test_scratch_counts_while_its_operation_runs() -> None:
    operations = [
        Operation("first", ["x"], ["a"], scratch=7),
        Operation("second", ["a"], ["b"], scratch=1),
    ]
    assert most_alive(operations, {"a": 4, "b": 5}) == (11, "first")


def test_the_plan_of_an_onnx_file(tmp_path: Path) -> None:
    from onnx import helper, numpy_helper

    nodes = [
        helper.make_node("Exp", ["x"], ["a"]),
        helper.make_node("Sin", ["a"], ["b"]),
        helper.make_node("Concat", ["a", "b"], ["both"], "join", axis=0),
        helper.make_node("ReduceMax", ["both", "axes"], ["most"]),
        helper.make_node("Mul", ["most", "w"], ["y"]),
    ]
    weights = numpy_helper.from_array(np.ones(256, np.float32), "w")
    axes = numpy_helper.from_array(np.zeros(1, np.int64), "axes")
    inputs, outputs = {"x": (4, 256)}, {"y": (1, 256)}
    plan = peak_bytes(write_onnx(tmp_path / "m.onnx", nodes, inputs, outputs, [weights, axes]))
    assert plan.weights == KIB + 8
    assert (plan.inputs, plan.outputs) == ({"x": 4 * KIB}, {"y": KIB})
    assert (plan.activations, plan.where) == (16 * KIB, "Concat join")
    assert plan.peak == plan.interface + plan.own


def test_operations_are_in_the_order_in_which_onnx_runtime_runs_them(tmp_path: Path) -> None:
    import onnxruntime
    from onnx import helper

    nodes = [
        *(helper.make_node(kind, ["x"], [kind], kind) for kind in ("Exp", "Sin", "Cos")),
        *(helper.make_node("Softmax", [k], [f"{k}2"], f"{k}2") for k in ("Cos", "Exp", "Sin")),
        helper.make_node("Mul", ["Sin2", "Cos2"], ["y"], "first"),
        helper.make_node("Mul", ["Exp2", "Exp"], ["z"], "second"),
    ]
    outputs = {"y": (4, 256), "z": (4, 256)}
    path = write_onnx(tmp_path / "m.onnx", nodes, {"x": (4, 256)}, outputs)
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    session.run(None, {"x": np.ones((4, 256), np.float32)})
    events = json.loads(Path(session.end_profiling()).read_text())
    run = [event["name"] for event in events if event["name"].endswith("_kernel_time")]
    assert [f"{node.name}_kernel_time" for node in in_run_order(nodes)] == run
    assert [f"{node.name}_kernel_time" for node in nodes] != run, "a test of nothing"


def test_the_columns_of_a_transposed_convolution(tmp_path: Path) -> None:
    from onnx import helper

    nodes = [helper.make_node("ConvTranspose", ["x", "w"], ["y"], "t", strides=[2, 2])]
    inputs = {"x": (1, 8, 5, 6), "w": (8, 3, 2, 2)}
    path = write_onnx(tmp_path / "m.onnx", nodes, inputs, {"y": (1, 3, 10, 12)})
    plan = peak_bytes(path)
    assert plan.activations == 4 * (3 * 2 * 2) * (5 * 6)
    assert plan.where == "ConvTranspose t"


def test_the_plan_of_a_tflite_file(tmp_path: Path) -> None:
    """a and b live together; c lies where b lay; the view d is c."""
    operators = [
        ("EXP", ["x"], "a"),
        ("EXP", ["a"], "b"),
        ("ADD", ["a", "b"], "c"),
        ("RESHAPE", ["c"], "d"),
        ("EXP", ["d"], "y"),
    ]
    shapes = {name: [4, 256] for name in ("x", "a", "b", "c")} | {
        name: [2, 2, 256] for name in ("d", "y")
    }
    plan = peak_bytes(write_tflite(tmp_path / "m.tflite", operators, shapes))
    assert (plan.inputs, plan.outputs, plan.weights) == ({"x": 4 * KIB}, {"y": 4 * KIB}, 0)
    assert (plan.activations, plan.where) == (8 * KIB, "EXP b")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of coremltools
def test_the_plan_of_a_core_ml_package(tmp_path: Path) -> None:
    import coremltools
    from coremltools.converters.mil import Builder

    @Builder.program(input_specs=[Builder.TensorSpec((4, 256))])
    def program(x):  # type: ignore[no-untyped-def]
        a = Builder.exp(x=x, name="a")
        b = Builder.sin(x=a, name="b")
        return Builder.reduce_sum(x=Builder.pow(x=a, y=b), axes=[0], name="y")

    model = coremltools.convert(program, compute_precision=coremltools.precision.FLOAT32)
    model.save(str(tmp_path / "m.mlpackage"))
    plan = peak_bytes(tmp_path / "m.mlpackage")
    assert (plan.inputs, plan.outputs) == ({"x": 4 * KIB}, {"y": KIB})
    assert plan.activations == 12 * KIB  # a, b and their power
    assert "pow" in plan.where


def test_other_files_have_no_plan(tmp_path: Path) -> None:
    with pytest.raises(PgnError, match=r"model: got '\.h5', expected one of \.onnx"):
        peak_bytes(tmp_path / "m.h5")


@pytest.mark.parametrize("suffix", [".onnx", ".tflite", ".mlpackage"])
def test_missing_and_damaged_files_are_told(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(PgnError, match="gone"):
        peak_bytes(tmp_path / f"gone{suffix}")
    (tmp_path / f"m{suffix}").write_bytes(b"no graph")
    with pytest.raises(PgnError, match=f"m{suffix}"):
        peak_bytes(tmp_path / f"m{suffix}")


def _wide(tmp_path: Path) -> Path:
    """8 MiB go in, 32 MiB lie between."""
    from onnx import helper

    nodes = [
        helper.make_node("Concat", ["x", "x", "x", "x"], ["wide"], "join", axis=0),
        helper.make_node("ReduceMax", ["wide"], ["y"], "most", keepdims=1),
    ]
    return write_onnx(tmp_path / "m.onnx", nodes, {"x": (1, 2**21)}, {"y": (1, 1)})


@pytest.mark.slow
def test_a_plan_against_a_process(tmp_path: Path) -> None:
    path = _wide(tmp_path)
    plan = peak_bytes(path)
    assert plan.activations == 4 * plan.inputs["x"]
    assert plan.peak == pytest.approx(measured(path), rel=0.2)


def plan(peak: int, **inputs: int) -> Plan:
    return Plan(peak, inputs, {}, 0, "", 0)


def test_a_whole_fit_keeps_photos_and_two_sets_of_what_it_trains() -> None:
    plans = {
        "gradient": plan(100, value_of_a=10, value_of_style=1, sum_of_a=10, photo=5, features_0=7),
        "update": plan(20),
        "render": plan(3),
    }
    kept = 4 * (5 + 7)  # 8 photos, two at a time
    arrays = (10 + 1) + 7 * 10 + kept  # values, means, squares and sums, all twice
    assert fit_peak(plans, photos=8, microbatch=2, threads=1) == LIBRARY + 123 + arrays
    own = plans["gradient"].own  # of a second worker, beside its sums
    assert fit_peak(plans, photos=8, microbatch=2, threads=2) == LIBRARY + 123 + own + arrays + 20
    plans["start"] = plan(1000, photo=5)
    assert fit_peak(plans, photos=8, microbatch=2) == LIBRARY + 1005 + kept


SIZES = {("all", 1): 90, ("all", 4): 250, ("decoder", 1): 60, ("last", 1): 20}


def of_sizes(asked: list[tuple[str, int]]) -> Callable[[str, int], int]:
    def predict(preset: str, microbatch: int) -> int:
        asked.append((preset, microbatch))
        return SIZES[preset, microbatch] * 10**6

    return predict


@pytest.mark.parametrize(("budget", "microbatch"), [("250MB", 4), ("249MB", 1), ("90 MB", 1)])
def test_the_largest_micro_batch_that_fits(budget: str, microbatch: int) -> None:
    asked: list[tuple[str, int]] = []
    choice = fit_budget(of_sizes(asked), parse_bytes(budget), (1, 4), ("all", "decoder", "last"))
    assert (choice.preset, choice.microbatch) == ("all", microbatch)
    assert {preset for preset, _ in asked} == {"all"}, "a graph was converted for nothing"


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (
            "70MB",
            r"got 70 MB.*batch 4: 250 MB; .*Take --trainable decoder --microbatch 1: 60 MB or",
        ),
        ("19MB", "last --microbatch 1: 20 MB. Nothing fits: raise the budget"),
    ],
)
def test_a_budget_that_is_too_small_is_told_what_fits(budget: str, message: str) -> None:
    with pytest.raises(PgnError, match=message):
        fit_budget(of_sizes([]), parse_bytes(budget), (1, 4), ("all", "decoder", "last"))


@pytest.mark.parametrize(
    ("text", "size"),
    [("300MB", 3 * 10**8), ("1.5 GiB", 3 * 2**29), ("2kb", 2000), ("64kib", 2**16), ("1B", 1)],
)
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "300", "MB", "-1MB", "0MB", "1e3MB", "1 XB", "9" * 400 + "B"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(PgnError, match="memory-budget: got .*such as 300MB"):
        parse_bytes(text)


def test_a_missing_package_of_a_format_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(path: Path) -> Plan:
        raise ImportError("no onnx", name="onnx")

    monkeypatch.setitem(memory._PLANS, ".onnx", absent)
    with pytest.raises(PgnError, match=r"onnx is not installed.*pgn-edge\[export\]"):
        peak_bytes(tmp_path / "m.onnx")
