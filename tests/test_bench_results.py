"""Result files: what is saved is what is loaded, and what others send is not trusted."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgn import PgnError
from pgn_bench import results
from pgn_bench.results import Result, Row, load, parse, save

ROW = Row("exact vgg19", "torch", "cpu", 224, 1, 2, "fp32", 300.0, 290.0, 350.0, 24)
FULL = replace(
    ROW, cpu_ms=590.0, load_ms=1.5, peak_bytes=2**40, formula_bytes=3, file_bytes=4, parameters=5,
    macs=6, cosine=-0.5, noisy=False, details={"warm_load_ms": 2.0, "weights": "random"},
)  # fmt: skip


def plain(**changes: Any) -> dict[str, Any]:
    """A result as JSON, with other fields in its row; None removes one."""
    value = json.loads(json.dumps(Result("gradient", {"cores": 2}, [ROW]).plain()))
    value["rows"][0].update(changes)
    value["rows"][0] = {key: part for key, part in value["rows"][0].items() if part is not None}
    return dict(value)


def test_saved_is_loaded(tmp_path: Path) -> None:
    result = Result("scaling", {"processor": "x"}, [ROW, FULL], {"left_out": {"a": "why"}})
    save(result, tmp_path / "new" / "result.json")
    assert load(tmp_path / "new" / "result.json") == result
    written = json.loads((tmp_path / "new" / "result.json").read_text())
    assert written["schema"] == 1 and written["command"] and written["date"].endswith("+00:00")
    assert "cosine" not in written["rows"][0] and written["rows"][1]["noisy"] is False
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["result.json"]


def test_what_cannot_be_loaded_is_not_saved(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("old")
    for wrong in (replace(ROW, median_ms=float("nan")), replace(ROW, details={"x": float("inf")})):
        with pytest.raises(PgnError):
            save(Result("fit", {}, [wrong]), tmp_path / "result.json")
    assert (tmp_path / "result.json").read_text() == "old"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"median_ms": None}, "'median_ms' is missing"),
        ({"median_ms": "3"}, "median_ms is '3'"),
        ({"median_ms": True}, "median_ms is True"),
        ({"median_ms": 10**400}, "median_ms is"),
        ({"median_ms": 1.0}, "in no order"),
        ({"p10_ms": -1.0}, "p10_ms is -1.0"),
        ({"size": 22.4}, "size is 22.4"),
        ({"calls": 0}, "calls is 0"),
        ({"threads": -1}, "threads is -1"),
        ({"cosine": 1.5}, "cosine is 1.5"),
        ({"noisy": 1}, "noisy is 1"),
        ({"speed": 3}, "unknown field 'speed'"),
        ({"provider": "x" * 3000}, "provider is 'xxx"),
        ({"details": {"a": [[[[[[[[[1]]]]]]]]]}}, "details is"),
        ({"details": list(range(3))}, "details is"),
    ],
)
def test_a_wrong_row_is_refused(changes: dict[str, Any], message: str) -> None:
    assert parse(plain(), "here").rows == [ROW]
    with pytest.raises(PgnError, match=f"here, row 0.*{re.escape(message)}"):
        parse(plain(**changes), "here")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "schema"),
        ({"schema": 2}, "schema"),
        (plain() | {"kind": "gradients"}, "expected one of"),
        (plain() | {"kind": ["gradient"]}, "expected one of"),
        (plain() | {"rows": {}}, "rows"),
        (plain() | {"rows": [3]}, "got int"),
        (plain() | {"rows": [plain()["rows"][0]] * 10_001}, "at most 10000"),
        (plain() | {"machine": "mine"}, "machine is 'mine'"),
        (plain() | {"date": 3}, "date is 3"),
        (plain() | {"more": 3}, "unknown field 'more'"),
    ],
)
def test_a_wrong_result_is_refused(value: Any, message: str) -> None:
    with pytest.raises(PgnError, match=message):
        parse(value, "here")


def test_wrong_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = {"no.json": b"\xff\xfe", "deep.json": b"[" * 100_000, "nan.json": b"NaN"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    for name in (*contents, "gone.json", "."):
        with pytest.raises(PgnError, match="result: "):
            load(tmp_path / name)
    monkeypatch.setattr(results, "MAX_BYTES", 10)
    (tmp_path / "large.json").write_text(" " * 11)
    with pytest.raises(PgnError, match="more than 10 bytes"):
        load(tmp_path / "large.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.sampled_from(sorted(plain()["rows"][0])), JSON)
def test_no_value_makes_a_traceback(name: str, value: Any) -> None:
    changed = plain()
    changed["rows"][0][name] = value
    try:
        (row,) = parse(changed, "here").rows
    except PgnError:
        return
    json.dumps(row.__dict__, allow_nan=False)
