"""`pgn-export conformance`: are the gradients of the fitting step right in the runtimes?"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from pgn import ConversionError, GateError, PgnError, command
from pgn.files import atomic_path, check_folder
from pgn_export.choices import parse_names
from pgn_export.doctor import machine
from pgn_export.exporting import CONVERTERS, TARGETS
from pgn_export.fitting.conformance import Finding, cases, measure
from pgn_export.manifest import versions
from pgn_export.proof import runtimes

COLUMNS = {"MIL interpreter": "Core ML (MIL interpreter)"}  # where a runtime's name says too little
INTRODUCTION = """\
# Conformance: gradients where they are computed

Written by `pgn-export conformance -o docs/conformance.md`; exit code 4 where a figure is above its
gate. The graphs of the fitting step are converted, run by stock runtimes on the CPU, and compared
with float64 autograd in PyTorch, which goes back through the network itself and knows nothing of
our rules. Graphs run with other weights than they were traced with.

A figure is the worst element of any gradient, relative to the largest of that gradient. Layers are
tried one by one: gradients of their weights and of their inputs, for three images of odd sizes. A
step is that of a small avatar with every kind of block of the real one, for each preset of trained
parameters: three photos, one or three at a time, their gradients summed. The last row follows
Adam: how far each parameter then is from PyTorch's, relative to its largest change.

The MIL interpreter is ours: it shows what coremltools made of the graphs, not Apple's kernels. On a
Mac, Core ML itself gets a column.
"""


def conformance_command(
    target: Annotated[
        str, typer.Option(help="onnx, tflite, coreml, a comma list, or all.")
    ] = "all",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Markdown file, written besides.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Measure the gradients of every layer, of steps and of a fit in runtimes. Takes minutes."""
    targets = parse_names("--target", target, TARGETS)
    if output:
        _check_file(output)
    findings = list(_findings(targets))
    about = _about(targets)
    text = _markdown(findings, about)
    if output:
        with atomic_path(output) as temporary:
            temporary.write_text(text, encoding="utf-8")
    typer.echo(json.dumps(_plain(findings, about), indent=2) if as_json else text)
    _judge(findings)


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise PgnError(f"--output: {path} is a folder, expected a file, as {path}/conformance.md.")
    check_folder(path.parent)


def _judge(findings: Sequence[Finding]) -> None:
    if wrong := [finding for finding in findings if not finding.passes]:
        worst = "; ".join(f"{f.name} in {f.runtime}: {f.worst:.1e} > {f.gate:.0e}" for f in wrong)
        raise GateError(f"conformance: wrong gradients ({worst}). Do not fit with these versions.")
    if lacking := [finding for finding in findings if finding.problem]:
        words = "; ".join(f"{f.name}: {f.problem}" for f in lacking)
        raise ConversionError(f"conformance: all else is right, but not to be had are {words}")


def _findings(targets: Sequence[str]) -> Iterator[Finding]:
    for case in cases():
        first, *others = case.names
        more = f" and {len(others)} more" if others else ""
        for target in targets:
            command.stderr.print(f"{target}: {first}{more}", markup=False, highlight=False)
            yield from measure(case, target)


def _about(targets: Sequence[str]) -> dict[str, str]:
    """The machine, and the versions on which the figures depend."""
    packages = [package for target in targets for package in CONVERTERS[target].PACKAGES]
    packages += ["tensorflow-cpu"] if any("TensorFlow" in runtimes(t) for t in targets) else []
    return {**machine(), **versions(tuple(dict.fromkeys(packages)))}


def _plain(findings: Sequence[Finding], about: dict[str, str]) -> dict[str, Any]:
    """For JSON, which has no NaN."""
    rows = [
        {
            **asdict(finding),
            "errors": {name: _number(error) for name, error in finding.errors.items()},
            "worst": _number(finding.worst),
            "passes": finding.passes,
        }
        for finding in findings
    ]
    return {"machine": about, "findings": rows}


def _number(error: float) -> float | None:
    return error if math.isfinite(error) else None


def _markdown(findings: Sequence[Finding], about: dict[str, str]) -> str:
    columns = list(dict.fromkeys(finding.runtime for finding in findings))
    cells = {(finding.name, finding.runtime): _cell(finding) for finding in findings}
    gates = {finding.name: f"{finding.gate:.0e}" for finding in findings}
    rows = [
        ["layer or step", *(COLUMNS.get(column, column) for column in columns), "gate"],
        ["---"] * (len(columns) + 2),
        *([name, *(cells[name, column] for column in columns), gates[name]] for name in gates),
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    lacking = [f"- {f.name}, {f.runtime}: {f.problem}" for f in findings if f.problem]
    notes = "\n\nNot to be had:\n" + "\n".join(lacking) if lacking else ""
    machine_line = ", ".join(f"{name} {value}" for name, value in about.items())
    return f"{INTRODUCTION}\n{table}{notes}\n\nMeasured on {machine_line}.\n"


def _cell(finding: Finding) -> str:
    if finding.problem:
        return "not to be had"
    shown = f"{finding.worst:.0e}"
    return shown if finding.passes else f"**{shown}**"
