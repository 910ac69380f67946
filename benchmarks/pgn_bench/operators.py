"""Where the time of a gradient goes in ONNX Runtime: its own profiler, operator by operator.

Beside it the rate of a gradient, as a whole and inside its convolutions, as a fraction of the
machine's reference rate, that of products of matrices.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from pgn_bench.providers_exported import Files, Task, inputs_of
from pgn_runtime.backends.onnxruntime import session_options

CALLS = 20  # profiled ones, after WARM_UP others
WARM_UP = 3
PRODUCTS = ("Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul")


@dataclass(frozen=True)
class Operator:
    """All nodes of one kind, after ONNX Runtime's own rewriting."""

    name: str  # Conv, Mul, ReorderInput
    nodes: int
    milliseconds: float  # of one call, the sum of each node's median


def profile(files: Files, task: Task, folder: Path) -> list[Operator]:
    """Operators of an exported gradient, the dearest first; `folder` is for the profiler's file."""
    import onnxruntime

    options = session_options(task.threads)
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / files.graph.stem)
    session = onnxruntime.InferenceSession(
        str(files.graph), options, providers=["CPUExecutionProvider"]
    )
    inputs = inputs_of(files, task)
    for _ in range(WARM_UP + CALLS):
        session.run(None, inputs)
    return operators(json.loads(Path(session.end_profiling()).read_text(encoding="utf-8")))


def operators(events: Sequence[Mapping[str, Any]]) -> list[Operator]:
    """The profiler's events, summed by kind, the dearest first."""
    nodes: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            key = (event["args"]["op_name"], event["name"])
            nodes.setdefault(key, []).append(event["dur"] / 1000)
    kinds: dict[str, list[float]] = {}
    for (kind, _), milliseconds in nodes.items():
        kinds.setdefault(kind, []).append(median(milliseconds[WARM_UP:]))
    found = [Operator(kind, len(each), sum(each)) for kind, each in kinds.items()]
    return sorted(found, key=lambda operator: -operator.milliseconds)


def in_products(found: Sequence[Operator]) -> float:
    """Milliseconds of a call in convolutions and products of matrices."""
    return sum(operator.milliseconds for operator in found if operator.name in PRODUCTS)
