"""`pgn-export conformance`: the table, JSON and exit codes, on figures that are given."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner, Result

from pgn import ConversionError, GateError, PgnError
from pgn_export import conformance_cli
from pgn_export.choices import parse_names
from pgn_export.conformance_cli import conformance_command
from pgn_export.fitting.conformance import Case, Finding, cases
from pgn_export.fitting.conformance.comparing import worst
from pgn_export.fitting.conformance.layers import families

RUNTIMES = {"onnx": "ONNX Runtime", "tflite": "LiteRT", "coreml": "MIL interpreter"}


def figures(case: Case, target: str) -> list[Finding]:
    """A fit's steps are wrong in one runtime, a layer is lacking in another."""
    rows = []
    for name in case.names:
        error = 0.5 if name.startswith("50 steps") and target == "tflite" else 2e-7
        lacks = name == "tanh" and target == "coreml"
        errors = {} if lacks else {"weight": error / 2, "bias": error}
        problem = "coreml: no conversion for aten.tanh" if lacks else ""
        rows.append(Finding(name, RUNTIMES[target], case.gate, errors, problem))
    return rows


def invoke(*words: object) -> Result:
    app = typer.Typer()
    app.command()(conformance_command)
    return CliRunner().invoke(app, list(map(str, words)))


@pytest.fixture(autouse=True)
def given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformance_cli, "measure", figures)


def test_the_table_has_a_row_for_everything_and_names_what_is_wrong(tmp_path: Path) -> None:
    output = tmp_path / "new" / "conformance.md"
    done = invoke("-o", output)
    assert isinstance(done.exception, GateError) and done.exception.exit_code == 4
    assert "50 steps: decoder, photos at a time: 3 in LiteRT: 5.0e-01 > 1e-04" in str(
        done.exception
    )
    text = output.read_text()
    assert text in done.stdout
    lines = text.splitlines()
    heading = "| layer or step | ONNX Runtime | LiteRT | Core ML (MIL interpreter) | gate |"
    first = lines.index(heading)
    names = [name for case in cases() for name in case.names]
    assert [line.split(" | ")[0][2:] for line in lines[first + 2 :][: len(names)]] == names
    assert "| tanh | 2e-07 | 2e-07 | not to be had | 1e-05 |" in lines
    assert "- tanh, MIL interpreter: coreml: no conversion for aten.tanh" in lines
    assert "| 50 steps: decoder, photos at a time: 3 | 2e-07 | **5e-01** | 2e-07 | 1e-04 |" in lines
    assert f"torch {torch.__version__}" in lines[-1] and "python" in lines[-1]


def test_what_a_target_lacks_fails_the_command_when_all_else_is_right() -> None:
    assert invoke("--target", "onnx").exit_code == 0
    done = invoke("--target", "coreml")
    assert isinstance(done.exception, ConversionError) and done.exception.exit_code == 3
    assert "tanh: coreml: no conversion for aten.tanh" in str(done.exception)


def test_json_holds_every_gradient_and_no_nan() -> None:
    done = invoke("--target", "onnx,coreml", "--json")
    found: dict[str, Any] = json.loads(done.stdout, parse_constant=pytest.fail)
    assert {"onnxruntime", "coremltools"} <= found["machine"].keys()
    rows = {(row["name"], row["runtime"]): row for row in found["findings"]}
    assert rows["ReLU", "ONNX Runtime"]["errors"] == {"weight": 1e-7, "bias": 2e-7}
    lacking = rows["tanh", "MIL interpreter"]
    assert lacking["worst"] is None and lacking["passes"] and lacking["errors"] == {}


def test_bad_words_are_refused_before_the_work(tmp_path: Path) -> None:
    for words, said in (
        (["--target", "onxx"], "Did you mean 'onnx'"),
        (["-o", tmp_path], "folder"),
    ):
        done = invoke(*words)
        assert isinstance(done.exception, PgnError) and said in str(done.exception)
        assert done.exception.exit_code == 2 and not done.stdout


def test_nan_is_wrong() -> None:
    finding = Finding("tanh", "LiteRT", 1e-5, {"weight": 0.0, "bias": math.nan})
    assert math.isnan(finding.worst) and not finding.passes


def test_an_error_is_relative_to_the_largest_element() -> None:
    wanted = torch.tensor([4.0, -2.0, 0.0], dtype=torch.float64)
    assert worst(np.array([4.0, -2.0, 0.5], np.float32), wanted) == 0.125
    assert math.isnan(worst(np.array([4.0, math.nan, 0.0], np.float32), wanted))
    assert worst(np.zeros(3, np.float32), 0 * wanted) == 0
    assert worst(np.ones(3, np.float32), 0 * wanted) == math.inf
    assert worst(np.full(1, 4.0, np.float32), torch.full((3,), 4.0)) == math.inf, "another shape"


def test_layers_are_the_same_at_every_call_and_leave_the_seed_alone() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    twice = [families()[0]["linear"] for _ in range(2)]
    assert torch.rand(1) == wanted
    first, second = (layer.state_dict() for layer in twice)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_names_are_a_comma_list_or_all() -> None:
    assert parse_names("--target", "b, a,b", ("a", "b")) == ["b", "a"]
    assert parse_names("--target", "a,all", ("a", "b")) == ["a", "b"]
