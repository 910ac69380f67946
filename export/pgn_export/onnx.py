"""ONNX: torch.onnx (dynamo) with dynamic batch, height and width, then onnxsim."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pgn import MissingExtraError
from pgn_export.graph import INPUTS, OUTPUT, ProxyGraph, Size, example

SUFFIX = ".onnx"
FIXED_SIZE = False
OPSET = 18
PACKAGES = ("torch", "onnx", "onnxscript", "onnxsim", "onnxruntime")

_TRACE_BATCH = 2  # dimensions of 1 would be taken for constants


def export(graph: ProxyGraph, size: Size, path: Path) -> None:
    """Write one self-contained .onnx file that takes any batch and any size of at least 32."""
    try:
        import onnx
        import onnxscript  # noqa: F401  (torch.onnx needs it)
        import onnxsim
    except ImportError as error:
        raise MissingExtraError(error.name or "onnx", "export") from None
    dynamic = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    program = torch.onnx.export(
        graph,
        kwargs=example(size, _TRACE_BATCH),
        dynamic_shapes=dict.fromkeys(INPUTS, dynamic),
        input_names=list(INPUTS),
        output_names=[OUTPUT],
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model, valid = onnxsim.simplify(program.model_proto)
    if not valid:
        raise RuntimeError("onnxsim changed the graph's outputs")
    _name_dimensions(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def _name_dimensions(model: Any) -> None:
    """Say batch, height, width where the tracer wrote s48, s20, s80."""
    for value in (*model.graph.input, *model.graph.output):
        for axis, name in ((0, "batch"), (2, "height"), (3, "width")):
            value.type.tensor_type.shape.dim[axis].dim_param = name
    del model.graph.value_info[:]  # they hold the tracer's names
