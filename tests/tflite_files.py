"""Small networks as .tflite files, opened in LiteRT and as flatbuffers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from pgn_export import tflite
from pgn_export.graph import Conversion, Graph, Tensors

schema = pytest.importorskip("ai_edge_litert.schema_py_generated")

METADATA = {"pgn.output": '{"proxy": "the image to pull towards"}', "pgn.licence": "Grün"}
CODES = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
TYPES = {v: k for k, v in vars(schema.TensorType).items() if isinstance(v, int)}

Pixels = NDArray[np.float32]
Run = Callable[..., dict[str, Pixels]]


class Upsampled(nn.Module):
    def __init__(self, factor: int = 2) -> None:
        super().__init__()
        self.factor = float(factor)

    def forward(self, generated: Tensor) -> Tensors:
        features = F.avg_pool2d(generated, 3, 1, 1)  # so that the converter keeps NHWC
        return {"proxy": F.interpolate(features, scale_factor=self.factor, mode="nearest")}


class Gamma(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.lgamma(x)


class Unsupported(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 3, 1), Gamma())

    def forward(self, generated: Tensor) -> Tensors:
        return {"proxy": self.backbone(generated)}


class Converted:
    """A .tflite file of `graph`, opened in LiteRT and as a flatbuffer."""

    def __init__(self, graph: Graph, dtype: str, path: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.path = path
        tflite.export(Conversion(graph, dtype, metadata=METADATA), path)
        self.interpreter = Interpreter(str(path), num_threads=1)
        self.run: Run = self.interpreter.get_signature_runner()
        self.model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
        self.tensors = self.model.subgraphs[0].tensors

    def proxy(self, generated: Pixels, target: Pixels) -> Pixels:
        return self.run(generated=generated, target=target)["proxy"]

    def operations(self) -> list[tuple[str, Any]]:
        codes = self.model.operatorCodes
        operators = self.model.subgraphs[0].operators
        return [(CODES[codes[op.opcodeIndex].builtinCode], op) for op in operators]

    def weights(self) -> list[tuple[str, int]]:
        """Stored type and count of every convolution's weights, in order."""
        dequantised = {
            op.outputs[0]: op.inputs[0] for name, op in self.operations() if name == "DEQUANTIZE"
        }
        found = []
        for name, op in self.operations():
            if name == "CONV_2D":
                tensor = self.tensors[dequantised.get(op.inputs[1], op.inputs[1])]
                direct = "" if op.inputs[1] in dequantised else " direct"
                found.append((TYPES[tensor.type] + direct, int(np.prod(tensor.shape))))
        return found
