"""TFLite (LiteRT): litert-torch at a fixed size, NCHW kept; then the file is mended and named."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from pgn import MissingExtraError, PgnError
from pgn_export.graph import Conversion, Graph
from pgn_export.lacking import lacking

SUFFIX = ".tflite"
DYNAMIC = False
DTYPES = ("fp32", "fp16", "int8")
PACKAGES = ("torch", "litert-torch", "ai-edge-litert", "ai-edge-quantizer")


def export(conversion: Conversion, path: Path) -> None:
    """Write a .tflite file: our names in its signature, `metadata` as its `Model.metadata`.

    Raises:
        PgnError: litert-torch is not to be had on this system.
        MissingExtraError: it is not installed.
        ConversionError: it lacks an operation.
    """
    try:
        import litert_torch  # noqa: F401  (the slow import, before the work)
        from ai_edge_litert.tools import flatbuffer_utils

        from pgn_export import tflite_precision
    except ImportError as error:
        if sys.platform != "linux":
            raise PgnError("tflite: litert-torch exists for Linux only. Export there.") from None
        raise MissingExtraError(error.name or "litert-torch", "export") from None
    model = flatbuffer_utils.read_model_from_bytearray(_convert(conversion.graph))
    _shuffle_instead_of_resize(model)
    if conversion.dtype != "fp32":
        model = tflite_precision.lower(model, conversion.dtype)
    _name_inputs_and_outputs(model)
    _embed(model, conversion.metadata)
    path.write_bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _convert(graph: Graph) -> bytes:
    import litert_torch

    try:
        converted = litert_torch.convert(graph.module, sample_kwargs=graph.inputs)
    except RuntimeError as error:
        found = re.search(r"target=torch\.ops\.([\w.]+)", str(error))
        if found is None:
            raise
        raise lacking("tflite", found[1], graph.program) from error
    content: bytes = converted.model_content()
    return content


def _shuffle_instead_of_resize(model: Any) -> None:
    """Write nearest x2 upsampling as four copies of the channels and DEPTH_TO_SPACE: the same bits.

    XNNPACK has no RESIZE_NEAREST_NEIGHBOR: each one splits its graph, and runs on one thread.
    """
    from ai_edge_litert import schema_py_generated as schema

    graph = model.subgraphs[0]
    operators = []
    for operator in graph.operators:
        if not _doubles(model, operator):
            operators.append(operator)
            continue
        before, after = operator.inputs[0], operator.outputs[0]
        batch, height, width, channels = graph.tensors[before].shape
        copies = schema.TensorT(
            shape=[batch, height, width, 4 * channels],
            name=graph.tensors[after].name + b"/copies",
            hasRank=True,
        )
        graph.tensors.append(copies)
        joined = len(graph.tensors) - 1
        concatenation = schema.ConcatenationOptionsT(axis=3)
        shuffle = schema.DepthToSpaceOptionsT(blockSize=2)
        operators += [
            _operator(model, "CONCATENATION", [before] * 4, joined, concatenation),
            _operator(model, "DEPTH_TO_SPACE", [joined], after, shuffle),
        ]
    graph.operators = operators


def _doubles(model: Any, operator: Any) -> bool:
    """Whether it is nearest x2 upsampling. Others may have no inputs."""
    from ai_edge_litert import schema_py_generated as schema

    code = model.operatorCodes[operator.opcodeIndex].builtinCode
    if code != schema.BuiltinOperator.RESIZE_NEAREST_NEIGHBOR:
        return False
    tensors = model.subgraphs[0].tensors
    before, after = (tensors[k].shape for k in (operator.inputs[0], operator.outputs[0]))
    return list(after[1:3]) == [2 * side for side in before[1:3]]


def _operator(model: Any, name: str, inputs: list[int], output: int, options: Any) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    code = getattr(schema.BuiltinOperator, name)
    known = [operator_code.builtinCode for operator_code in model.operatorCodes]
    if code not in known:
        model.operatorCodes.append(
            schema.OperatorCodeT(deprecatedBuiltinCode=code, builtinCode=code, version=1)
        )
        known.append(code)
    kind = type(options).__name__.removesuffix("T")
    return schema.OperatorT(
        opcodeIndex=known.index(code),
        inputs=inputs,
        outputs=[output],
        builtinOptionsType=getattr(schema.BuiltinOptions, kind),
        builtinOptions=options,
    )


def _name_inputs_and_outputs(model: Any) -> None:
    """Give the tensors the names of the signature: generated, not serving_default_generated."""
    for signature in model.signatureDefs:
        for entry in (*signature.inputs, *signature.outputs):
            model.subgraphs[0].tensors[entry.tensorIndex].name = entry.name


def _embed(model: Any, metadata: dict[str, str]) -> None:
    """`Model.metadata` is the format's own map of names to buffers; a buffer holds UTF-8 here."""
    from ai_edge_litert import schema_py_generated as schema

    for name, value in sorted(metadata.items()):
        data = np.frombuffer(value.encode(), np.uint8)
        model.buffers.append(schema.BufferT(data=data))
        model.metadata.append(schema.MetadataT(name=name, buffer=len(model.buffers) - 1))
