"""Core ML: coremltools, an ML program in float32 at a fixed size.

Off a Mac nothing can run the result. `check` reads the saved package back and holds what can be
held there: it loads, its interface, its precision.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pgn import MissingExtraError
from pgn_export.graph import INPUTS, OUTPUT, ProxyGraph, Size, example

SUFFIX = ".mlpackage"
FIXED_SIZE = True
PACKAGES = ("torch", "coremltools")

_NO_OPERATION = (torch.ops.aten.alias.default, torch.ops.aten.detach.default)


def export(graph: ProxyGraph, size: Size, path: Path) -> None:
    """Write an .mlpackage for iOS 16 and later."""
    ct = _coremltools()
    inputs = example(size)
    program = torch.export.export(graph, (), inputs).run_decompositions({})
    for node in list(program.graph.nodes):
        if node.op == "call_function" and node.target in _NO_OPERATION:
            node.replace_all_uses_with(node.args[0])  # coremltools has no converter for them
            program.graph.erase_node(node)
    model = ct.convert(
        program,
        inputs=[ct.TensorType(name, shape=inputs[name].shape) for name in INPUTS],
        outputs=[ct.TensorType(OUTPUT)],
        compute_precision=ct.precision.FLOAT32,
        minimum_deployment_target=ct.target.iOS16,
        skip_model_load=True,
    )
    model.short_description = "Perceptual gradient network: proxy target of an image, in pixels"
    model.save(str(path))


def check(path: Path, size: Size) -> None:
    """Load the package and hold its interface and precision.

    Raises:
        RuntimeError: what differs from the contract.
    """
    spec = _coremltools().models.MLModel(str(path), skip_model_load=True).get_spec()
    features = [*spec.description.input, *spec.description.output]
    found = {f.name: tuple(f.type.multiArrayType.shape) for f in features}
    wanted = dict.fromkeys((*INPUTS, OUTPUT), (1, 3, *size))
    if found != wanted:
        raise RuntimeError(f"interface: got {found}, expected {wanted}")
    half = [op for op in _operations(spec) if _is_half(op)]
    if half:
        raise RuntimeError(f"precision: {len(half)} operations compute in float16, not float32")


def _operations(spec: Any) -> list[Any]:
    function = spec.mlProgram.functions["main"]
    return list(function.block_specializations[function.opset].operations)


def _is_half(operation: Any) -> bool:
    float16 = 10  # MIL.proto, enum DataType
    return any(output.type.tensorType.dataType == float16 for output in operation.outputs)


def _coremltools() -> Any:
    try:
        import coremltools
    except ImportError:
        raise MissingExtraError("coremltools", "export") from None
    return coremltools
