"""Loads a package and runs it.

Every program is first run on PyTorch's meta device, which computes shapes and no data: there all
results must agree with their declared types and all sizes must be reasonable, before a stranger's
file makes us allocate anything.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pgn import ConversionError, PgnError
from pgn.errors import unknown_name
from pgn.files import first_line
from pgn_export.mil.arguments import Arguments
from pgn_export.mil.features import Feature
from pgn_export.mil.package import open_package
from pgn_export.mil.program import OPERATIONS, Graph, Operation, read_graph
from pgn_export.mil.values import TensorType, Value

MAX_BYTES = 2**32  # of one tensor, and of all computed values that are alive at once
KNOWN_ELEMENTS = 64  # shapes that a program computes are at most this long

Array = NDArray[Any]
Step = Callable[[Operation, Mapping[str, Value]], list[Tensor]]


def load(path: str | Path) -> Program:
    """Load a saved .mlpackage.

    Raises:
        PgnError: there is no such package.
        ConversionError: it is damaged, or has operations that the interpreter lacks; all are named.
        MissingExtraError: coremltools is not installed.
    """
    return Program(read_graph(open_package(path)))


class Program:
    """An ML program; `inputs` and `outputs` tell the arrays' names, types and default shapes."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._last_uses = _last_uses(graph)
        self.inputs: dict[str, Feature] = graph.inputs
        results = self._shapes({name: f.shape for name, f in graph.inputs.items()})
        self.outputs: dict[str, Feature] = {
            name: Feature(str(value.dtype).removeprefix("torch."), tuple(value.shape))
            for name, value in results.items()
        }

    def operations(self) -> Counter[str]:
        """How often each kind of operation occurs, constants left out."""
        return Counter(operation.kind for operation in self._graph.operations)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Evaluate the program.

        Args:
            inputs: by name, of the declared types and of shapes that are accepted.

        Returns:
            the outputs by name.

        Raises:
            PgnError: an input is missing, unknown, or of another type or shape.
            ConversionError: the program cannot be evaluated on these shapes.
        """
        for name in inputs:
            if name not in self.inputs:
                raise unknown_name("input", name, self.inputs)
        for name, feature in self.inputs.items():
            _check(name, inputs.get(name), feature)
        self._shapes({name: array.shape for name, array in inputs.items()})
        values = {name: torch.tensor(np.ascontiguousarray(a)) for name, a in inputs.items()}
        results = self._run(values, _compute)
        return {name: value.numpy() for name, value in results.items()}

    def _shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """The outputs for inputs of these shapes, on the meta device."""
        for name, shape in shapes.items():
            if math.prod(shape) * 4 > MAX_BYTES:
                raise ConversionError(f"input '{name}': {shape} needs more than {MAX_BYTES} bytes.")
        values = {
            name: torch.empty(shape, dtype=getattr(torch, self.inputs[name].dtype), device="meta")
            for name, shape in shapes.items()
        }
        with _Limit():  # type: ignore[no-untyped-call]
            return self._run(values, _infer)

    @torch.no_grad()
    def _run(self, inputs: Mapping[str, Tensor], step: Step) -> dict[str, Tensor]:
        """Take one step for each operation, forgetting values after their last use."""
        values: dict[str, Value] = {**self._graph.constants, **inputs}
        alive = 0  # bytes of computed values
        for operation, dead in zip(self._graph.operations, self._last_uses, strict=True):
            results = step(operation, values)
            for (name, declared), result in zip(operation.outputs.items(), results, strict=True):
                values[name] = _declared(operation, declared, result)
                alive += _bytes(values[name])
            if alive > MAX_BYTES:
                raise ConversionError(f"{operation}: more than {MAX_BYTES} bytes are needed.")
            for name in dead:
                alive -= _bytes(values.pop(name))
        outputs = {name: values[name] for name in self._graph.outputs}
        return {name: value for name, value in outputs.items() if isinstance(value, Tensor)}


class _Limit(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses tensors of more than MAX_BYTES, also inside of an operation."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and _bytes(out) > MAX_BYTES:
            raise ConversionError(f"a tensor of shape {tuple(out.shape)} is too large")
        return out


def _compute(operation: Operation, values: Mapping[str, Value]) -> list[Tensor]:
    return _apply(operation, values, "cpu")


def _infer(operation: Operation, values: Mapping[str, Value]) -> list[Tensor]:
    """Shapes only; but what is small and follows from constants is known: it may be a shape."""
    results = _apply(operation, values, "meta")
    names = (name for group in operation.inputs.values() for name in group)
    known = not any(isinstance(v, Tensor) and v.is_meta for v in map(values.__getitem__, names))
    small = all(result.numel() <= KNOWN_ELEMENTS for result in results)
    return _apply(operation, values, "cpu") if known and small else results


def _apply(operation: Operation, values: Mapping[str, Value], device: str) -> list[Tensor]:
    given = Arguments(
        {name: [values[v] for v in group] for name, group in operation.inputs.items()}, device
    )
    try:
        results = OPERATIONS[operation.kind](given)
    except Exception as error:  # a stranger's numbers make PyTorch raise anything
        raise ConversionError(f"{operation}: {first_line(error)}.") from None
    if given.unasked():
        raise ConversionError(f"{operation}: has no input {', '.join(sorted(given.unasked()))}.")
    found = [results] if isinstance(results, Tensor) else list(results)
    if len(found) != len(operation.outputs):
        raise ConversionError(f"{operation}: gives {len(found)} values.")
    return found


def _declared(operation: Operation, declared: TensorType, result: Tensor) -> Tensor:
    """The result, checked and rounded to its declared type."""
    held = declared.data_type.held
    if not declared.fits(tuple(result.shape)) or _family(result.dtype) != _family(held):
        raise ConversionError(
            f"{operation}: gives {result.dtype} {tuple(result.shape)}, declared is {declared}."
        )
    return result.to(held)


def _family(dtype: torch.dtype) -> str:
    return "real" if dtype.is_floating_point else "bool" if dtype == torch.bool else "integer"


def _check(name: str, array: Array | None, feature: Feature) -> None:
    if array is None:
        raise PgnError(f"input '{name}': is missing, expected {feature}.")
    if array.dtype != np.dtype(feature.dtype) or not feature.accepts(array.shape):
        raise PgnError(f"input '{name}': got {array.dtype} {array.shape}, expected {feature}.")


def _bytes(value: Value) -> int:
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0


def _last_uses(graph: Graph) -> list[Sequence[str]]:
    """For each operation, the computed values that nothing needs after it."""
    needed = {*graph.constants, *graph.inputs, *graph.outputs}
    dead: list[Sequence[str]] = []
    for operation in reversed(graph.operations):
        used = {name for group in operation.inputs.values() for name in group}
        fresh = (used | operation.outputs.keys()) - needed
        needed |= fresh
        dead.append(sorted(fresh))
    return dead[::-1]
