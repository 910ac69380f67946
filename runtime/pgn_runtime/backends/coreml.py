"""Core ML through coremltools, on a Mac: the only place where coremltools can predict."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pgn_runtime.backends import Session, Shape
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

    def run(inputs: Mapping[str, Pixels]) -> dict[str, Pixels]:
        outputs = model.predict(dict(inputs))
        return {name: np.ascontiguousarray(outputs[name], dtype=np.float32) for name in outputs}

    shapes = {value.name: _shape(value.type.multiArrayType) for value in description.input}
    names = tuple(value.name for value in description.output)
    return Session(run, shapes, names, "coreml")


def _shape(array: Any) -> Shape:
    return tuple(int(side) for side in array.shape)
