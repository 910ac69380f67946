"""The machine's rate for products of matrices: what a network of convolutions could reach."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable

import numpy as np
import torch

MATRIX = 2048  # side of the square float32 matrices
TIMES = 5


def matmul_rate(threads: int, device: str) -> float:
    """Multiply-accumulates a second, the best of a few by PyTorch and, on a CPU where it is
    installed, by ONNX Runtime: on some processors either is twice as fast as the other."""
    products = [_in_torch(threads, device)]
    if device == "cpu" and all(map(importlib.util.find_spec, ("onnx", "onnxruntime"))):
        products.append(_in_onnxruntime(threads))
    return MATRIX**3 / min(_seconds(product) for product in products for _ in range(TIMES))


def _seconds(product: Callable[[], object]) -> float:
    start = time.perf_counter()
    product()
    return time.perf_counter() - start


def _in_torch(threads: int, device: str) -> Callable[[], object]:
    torch.set_num_threads(threads)
    a, b = torch.rand(2, MATRIX, MATRIX, device=device)

    def product() -> None:
        torch.mm(a, b)
        if device == "cuda":
            torch.cuda.synchronize()

    return product


def _in_onnxruntime(threads: int) -> Callable[[], object]:
    import onnx
    import onnxruntime

    from pgn_runtime.backends.onnxruntime import session_options

    a, b, product = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (MATRIX, MATRIX))
        for name in ("a", "b", "product")
    )
    node = onnx.helper.make_node("MatMul", ["a", "b"], ["product"])
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "product", [a, b], [product]),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=10,
    )
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), session_options(threads), providers=["CPUExecutionProvider"]
    )
    values = np.random.default_rng(0).random((2, MATRIX, MATRIX), dtype=np.float32)
    return lambda: session.run(None, dict(zip("ab", values, strict=True)))
