"""A reference rate of the machine: its fastest product of large float32 matrices (sgemm).

It is no bound for a network: a convolution by Winograd needs fewer products than are counted.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

CALLS = {1024: 20, 2048: 5, 4096: 2}  # by side of the matrices; 10 s in all on one thread

Product = Callable[[], object]


def matmul_rate(threads: int, device: str) -> float:
    """Multiply-accumulates a second, the best of several sizes by PyTorch and, on a CPU where it is
    installed, by ONNX Runtime: on some processors either is twice as fast as the other."""
    makers = [partial(_in_torch, threads, device)]
    if device == "cpu" and all(map(importlib.util.find_spec, ("onnx", "onnxruntime"))):
        makers.append(partial(_in_onnxruntime, threads))
    return max(_rate(maker, side, calls) for maker in makers for side, calls in CALLS.items())


def _rate(maker: Callable[[int], Product], side: int, calls: int) -> float:
    product = maker(side)
    return side**3 / min(_seconds(product) for _ in range(calls))


def _seconds(product: Product) -> float:
    start = time.perf_counter()
    product()
    return time.perf_counter() - start


def _in_torch(threads: int, device: str, side: int) -> Product:
    torch.set_num_threads(threads)
    a, b = torch.rand(2, side, side, device=device)

    def product() -> None:
        torch.mm(a, b)
        if device == "cuda":
            torch.cuda.synchronize()

    return product


def _in_onnxruntime(threads: int, side: int) -> Product:
    import onnx
    import onnxruntime

    from pgn_runtime.backends.onnxruntime import session_options

    a, b, product = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (side, side))
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
    values = np.random.default_rng(0).random((2, side, side), dtype=np.float32)
    return lambda: session.run(None, dict(zip("ab", values, strict=True)))
