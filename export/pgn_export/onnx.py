"""ONNX: torch.onnx (dynamo) from the traced graph, onnxsim, our rewriting, the precision."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from pgn import MissingExtraError
from pgn_export.graph import DESCRIPTIONS, FEATURES, Conversion, Graph
from pgn_export.lacking import lacking

SUFFIX = ".onnx"
DYNAMIC = True
DTYPES = ("fp32", "fp16", "int8")
OPSET = 18
PACKAGES = ("torch", "onnx", "onnxscript", "onnxsim", "onnxruntime")


def export(conversion: Conversion, path: Path) -> None:
    """Write one self-contained .onnx file, float32 at its inputs and outputs.

    Raises:
        ConversionError: torch.onnx lacks an operation of the graph.
        MissingExtraError: a package of the converter is not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  (torch.onnx needs it)
        import onnxsim

        from pgn_export import onnx_precision, onnx_rewrite
    except ImportError as error:
        raise MissingExtraError(error.name or "onnx", "export") from None
    graph = conversion.graph
    model, valid = onnxsim.simplify(_convert(graph))
    if not valid:
        raise RuntimeError("onnxsim changed the graph's outputs")
    model = onnx_rewrite.rewrite(model, conversion.dtype)
    model = onnx_precision.lower(model, conversion.dtype, graph.module)
    _name_dimensions(model, graph.free_axes)
    _describe(model, conversion.metadata)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _convert(graph: Graph) -> Any:
    try:
        program = torch.onnx.export(
            graph.program,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        found = re.search(r"target=torch\.ops\.([\w.]+)", str(error.__cause__))
        if found is None:
            raise
        raise lacking("onnx", found[1], graph.program) from error
    assert program is not None
    return program.model_proto


def _name_dimensions(model: Any, free_axes: dict[int, str]) -> None:
    """Say batch, height, width where the tracer wrote s48, s20, s80."""
    for value in (*model.graph.input, *model.graph.output):
        for axis, name in free_axes.items():
            value.type.tensor_type.shape.dim[axis].dim_param = name
    del model.graph.value_info[:]  # they hold the tracer's names


def _describe(model: Any, metadata: dict[str, str]) -> None:
    """Our metadata, sorted, in place of the tools' notes about their own work."""
    import onnx

    onnx.helper.set_model_props(model, dict(sorted(metadata.items())))
    model.producer_name, model.producer_version = "pgn-edge", ""
    for value in (*model.graph.input, *model.graph.output):
        value.doc_string = DESCRIPTIONS.get(value.name, FEATURES)
    model.doc_string = "Perceptual gradient network: pixels in [0, 1], RGB, (N, 3, H, W)."
