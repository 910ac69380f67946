"""Core ML through coremltools, on a Mac: the only place where coremltools can predict."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np

from pgn_runtime.backends import Arrays, Session, Shape, check_buffers
from pgn_runtime.errors import MissingBackendError, RuntimeInputError
from pgn_runtime.files import Pixels


def load(path: Path, threads: int) -> Session:
    """Open an .mlpackage for the CPU and the Neural Engine; Core ML chooses its own threads."""
    if platform.system() != "Darwin":
        raise RuntimeInputError(
            f"model: {path} needs a Mac: Core ML runs nowhere else. "
            f"Here, use an .onnx or .tflite file of the same network."
        )
    try:
        import coremltools
    except ImportError:
        raise MissingBackendError("coremltools", "export") from None
    try:
        model = coremltools.models.MLModel(
            str(path), compute_units=coremltools.ComputeUnit.CPU_AND_NE
        )
        model.get_compiled_model_path()  # raises where the constructor only warned
        description = model.get_spec().description
    except Exception as error:  # coremltools' have no base class of their own
        raise RuntimeInputError(f"model: Core ML refuses {path} ({error}).") from None

    def run(inputs: Arrays, outputs: Arrays | None = None, /) -> dict[str, Pixels]:
        found = model.predict(dict(inputs))
        if outputs is None:
            return {name: np.ascontiguousarray(found[name], dtype=np.float32) for name in found}
        check_buffers(outputs, {name: array.shape for name, array in found.items()})
        for name, array in outputs.items():
            np.copyto(array, found[name], casting="same_kind")
        return dict(outputs)

    shapes = {value.name: _shape(value.type.multiArrayType) for value in description.input}
    names = tuple(value.name for value in description.output)
    return Session(run, shapes, names, "coreml")


def _shape(array: Any) -> Shape:
    return tuple(int(side) for side in array.shape)
