"""Which operations of a Core ML program compute in float16, and which weights become int8.

A lite network compares the features of two images that are nearly equal, and masks them where
they are positive: a small error of the first layers flips masks in all that follow. Three rules
keep the gradient, measured on the residual generated - proxy (docs/export.md has the figures).

float16  from the first large convolution to the last one. Before it are the pixels and the layers
         with the smallest weights, after it the subtraction of two nearly equal images.
int8     weights only, per output channel, and the large ones: activations need a Mac to calibrate.
         What computes in float16 above computes in float16 here.
both     a difference over a root of squares is written without the squares' range: they reach
         from 1e-6 to 2e5, and float16 from 6e-5 to 65504.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, fx

MAX_RATIO = 128.0  # x / sqrt(x^2 + 1) is 1 there, within 3e-5

Operation = Any  # coremltools has no annotations


def computes_half(size: int) -> Callable[[Operation], bool]:
    """A selector of the operations from convolutions of more than `size` weights to the last one.

    All that a chosen operation needs to know is around it in the program, which must not have
    changed yet at the first call.
    """
    chosen: set[str] = set()

    def select(operation: Operation) -> bool:
        if not chosen:
            chosen.update(_between(list(operation.enclosing_block.operations), size))
        return operation.name in chosen

    return select


def quantise_weights(ct: Any, model: Any, size: int) -> Any:
    """The coremltools `model` with weights of more than `size` elements in int8: symmetric, one
    scale an output channel."""
    config = ct.optimize.coreml.OpLinearQuantizerConfig(
        mode="linear_symmetric",
        dtype="int8",
        granularity="per_channel",
        weight_threshold=size,
    )
    return ct.optimize.coreml.linear_quantize_weights(
        model, config=ct.optimize.coreml.OptimizationConfig(global_config=config)
    )


def bound_ratios(graph_module: fx.GraphModule) -> None:
    """Rewrite a d / sqrt(d^2 + s) as a r / sqrt(r^2 + 1) with r = d / sqrt(s), in place."""
    aten = torch.ops.aten

    def as_traced(a: Tensor, d: Tensor, s: Tensor) -> Tensor:
        energy = aten.add.Tensor(aten.mul.Tensor(d, d), s)
        quotient: Tensor = aten.mul.Tensor(aten.mul.Tensor(a, d), aten.rsqrt.default(energy))
        return quotient

    def bounded(a: Tensor, d: Tensor, s: Tensor) -> Tensor:
        ratio = aten.mul.Tensor(d, aten.rsqrt.default(s))
        r = aten.clamp.default(ratio, -MAX_RATIO, MAX_RATIO)
        energy = aten.add.Tensor(aten.mul.Tensor(r, r), 1.0)
        quotient: Tensor = aten.mul.Tensor(aten.mul.Tensor(a, r), aten.rsqrt.default(energy))
        return quotient

    fx.replace_pattern(graph_module, as_traced, bounded)


def _between(operations: list[Operation], size: int) -> set[str]:
    """Names of the chosen ones among a program's operations, which are in the order they run in."""
    large = {op.name for op in operations if _weights(op) > size}
    convolutions = {op.name for op in operations if _weights(op)}
    after = _reached(operations, large, _producers)
    before = _reached(reversed(operations), convolutions, _consumers)
    return after & before


def _reached(
    operations: Iterable[Operation],
    start: set[str],
    neighbours: Callable[[Operation], Iterator[Operation]],
) -> set[str]:
    """`start`, and the operations with a reached one among their neighbours."""
    reached = set(start)
    for op in operations:
        if any(other.name in reached for other in neighbours(op)):
            reached.add(op.name)
    return reached


def _producers(operation: Operation) -> Iterator[Operation]:
    for value in operation.inputs.values():
        for variable in value if isinstance(value, (list, tuple)) else [value]:
            if variable is not None and variable.op is not None:
                yield variable.op


def _consumers(operation: Operation) -> Iterator[Operation]:
    return (child for variable in operation.outputs for child in variable.child_ops)


def _weights(operation: Operation) -> int:
    """How many weights a convolution has; 0 of any other operation."""
    is_convolution = operation.op_type in ("conv", "conv_transpose")
    return int(operation.weight.val.size) if is_convolution else 0
