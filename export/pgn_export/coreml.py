"""Core ML: coremltools from the traced graph to an ML program at a fixed size.

Sizes are fixed: coremltools 9 converts neither the arithmetic on free sizes in a traced graph nor
padding by an amount that is known at run time only. Dates and random ids, which it writes, are
replaced, so that one network gives the same bytes every time.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx import Node

from pgn import ConversionError, MissingExtraError
from pgn.files import first_line
from pgn_export import coreml_precision
from pgn_export.graph import DESCRIPTIONS, FEATURES, Conversion
from pgn_export.lacking import lacking
from pgn_export.precision import float_size

SUFFIX = ".mlpackage"
DYNAMIC = False
DTYPES = ("fp32", "fp16", "int8")
PACKAGES = ("torch", "coremltools")
DEPLOYMENT_TARGET = "iOS16"  # the oldest whose ML programs hold int8 weights

_NO_OPERATION = (torch.ops.aten.alias.default, torch.ops.aten.detach.default)
_DATE = "com.github.apple.coremltools.conversion_date"


def export(conversion: Conversion, path: Path) -> None:
    """Write an .mlpackage for iOS 16 and later, float32 at its inputs and outputs.

    Raises:
        ConversionError: coremltools lacks an operation of the graph.
        MissingExtraError: coremltools is not installed.
    """
    ct = _coremltools()
    model = _convert(ct, conversion)
    if conversion.dtype == "int8":
        size = float_size(conversion.graph.module)
        model = coreml_precision.quantise_weights(ct, model, size)
    _describe(model, conversion)
    model.save(str(path))
    _make_reproducible(ct, path)


def _convert(ct: Any, conversion: Conversion) -> Any:
    graph = conversion.graph
    program = graph.program.run_decompositions({})
    _drop_no_operations(program)
    precision = ct.precision.FLOAT32
    if conversion.dtype != "fp32":
        coreml_precision.bound_ratios(program.graph_module)
        select = coreml_precision.computes_half(float_size(graph.module))
        precision = ct.transform.FP16ComputePrecision(op_selector=select)
    try:
        return ct.convert(
            program,
            inputs=[
                ct.TensorType(name, shape=tensor.shape, dtype=np.float32)
                for name, tensor in graph.inputs.items()
            ],
            outputs=[ct.TensorType(name, dtype=np.float32) for name in graph.outputs],
            compute_precision=precision,
            minimum_deployment_target=ct.target[DEPLOYMENT_TARGET],
            pass_pipeline=_passes(ct),
            skip_model_load=True,
        )
    except NotImplementedError as error:
        raise _lacking(program, error) from error


def _passes(ct: Any) -> Any:
    """coremltools' own, but for one that makes x*a + b a batch norm.

    That adds 1e-5 to the variance, which is 1: every product comes out 5e-6 too small.
    """
    passes = ct.PassPipeline.DEFAULT
    passes.remove_passes({"common::fuse_elementwise_to_batchnorm"})
    return passes


def _drop_no_operations(program: ExportedProgram) -> None:
    """Remove nodes that only rename a tensor: coremltools has no converter for them."""
    for node in list(program.graph.nodes):
        if node.op == "call_function" and node.target in _NO_OPERATION:
            node.replace_all_uses_with(node.args[0])
            program.graph.erase_node(node)


def _lacking(program: ExportedProgram, error: NotImplementedError) -> ConversionError:
    """The operation that coremltools' words name, and the modules that brought it."""
    words = set(re.findall(r"\w+", str(error)))
    for node in program.graph.nodes:
        if _operation(node) in words:
            return lacking("coreml", str(node.target), program)
    return ConversionError(f"coreml: {first_line(error)}.")


def _operation(node: Node) -> str | None:
    """erfinv of aten.erfinv.default; None of a node that is no operation of PyTorch's."""
    return str(node.target.overloadpacket.__name__) if isinstance(node.target, OpOverload) else None


def _describe(model: Any, conversion: Conversion) -> None:
    metadata = conversion.metadata
    model.short_description = "Perceptual gradient network: proxy target of an image, in pixels"
    model.author = "pgn-edge"
    model.license = metadata.get("pgn.licence", "")
    model.version = metadata.get("pgn.version", "")
    model.user_defined_metadata.update(metadata)
    del model.user_defined_metadata[_DATE]
    for name in conversion.graph.inputs:
        model.input_description[name] = DESCRIPTIONS.get(name, FEATURES)
    for name in conversion.graph.outputs:
        model.output_description[name] = DESCRIPTIONS.get(name, FEATURES)


def _make_reproducible(ct: Any, package: Path) -> None:
    """Give the package sorted maps and ids made of its files' content."""
    (package / "executorch_debug_handle_mapping.json").unlink(missing_ok=True)
    manifest_path = package / "Manifest.json"
    manifest = json.loads(manifest_path.read_text())
    root = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]
    specification = package / "Data" / root["path"]
    sorted_maps = ct.utils.load_spec(str(package)).SerializeToString(deterministic=True)
    specification.write_bytes(sorted_maps)
    specification.chmod(0o644)  # coremltools lets only the owner read it
    items = manifest["itemInfoEntries"].values()
    manifest["itemInfoEntries"] = {
        _content_id(package / "Data" / item["path"]): item for item in items
    }
    manifest["rootModelIdentifier"] = _content_id(specification)
    # In coremltools' own form: it writes the file again whenever it opens the package.
    manifest_path.write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n")


def _content_id(item: Path) -> str:
    """An id in the form that Core ML writes, of a file or of all files in a folder."""
    files = sorted(item.rglob("*")) if item.is_dir() else [item]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return str(uuid.uuid5(uuid.NAMESPACE_OID, digest.hexdigest()))


def _coremltools() -> Any:
    try:
        import coremltools
    except ImportError:
        raise MissingExtraError("coremltools", "export") from None
    return coremltools
