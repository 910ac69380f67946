"""The program in a specification: its interface, constants and operations, read and cross-checked.

Nothing is computed here. Names must be defined before they are used and only once, so that running
the operations in their order is sound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pgn import ConversionError
from pgn_export.mil.arguments import Arguments
from pgn_export.mil.elementwise import ELEMENTWISE
from pgn_export.mil.features import Feature, read_feature
from pgn_export.mil.package import Package
from pgn_export.mil.reductions import REDUCTIONS
from pgn_export.mil.resizing import RESIZING
from pgn_export.mil.shapes import SHAPES
from pgn_export.mil.values import TensorType, Value, decode, read_type
from pgn_export.mil.weights import WEIGHTS
from pgn_export.mil.windows import WINDOWS

OPERATIONS: Mapping[str, Callable[[Arguments], Tensor | tuple[Tensor, ...]]] = {
    **ELEMENTWISE,
    **REDUCTIONS,
    **RESIZING,
    **SHAPES,
    **WEIGHTS,
    **WINDOWS,
}
_MAIN = "main"
_NAMES_SHOWN = 5  # of values, for each missing operation


@dataclass(frozen=True)
class Operation:
    """One operation: names of values in, names and declared types of values out."""

    kind: str
    inputs: dict[str, tuple[str, ...]]
    outputs: dict[str, TensorType]

    def __str__(self) -> str:
        return f"operation {self.kind} ({', '.join(self.outputs)})"


@dataclass(frozen=True)
class Graph:
    """What is computed, and from what."""

    inputs: dict[str, Feature]
    outputs: list[str]
    constants: dict[str, Value]
    operations: list[Operation]


def read_graph(package: Package) -> Graph:
    """Read the main function of a package.

    Raises:
        ConversionError: it is damaged, no ML program, or has operations that are not understood.
    """
    model = package.parse()
    functions = model.mlProgram.functions
    if _MAIN not in functions:
        kind = model.WhichOneof("Type") or "empty"
        names = ", ".join(functions) or kind
        raise ConversionError(f"{package.root}: expected an ML program 'main', got {names}.")
    function = functions[_MAIN]
    if function.opset not in function.block_specializations:
        raise ConversionError(f"{package.root}: has no code for its own opset {function.opset!r}.")
    block = function.block_specializations[function.opset]
    _check_known(package, block.operations)
    inputs = {feature.name: read_feature(feature) for feature in model.description.input}
    declared = {value.name: read_type(value.name, value.type) for value in function.inputs}
    _check_inputs(inputs, declared)
    outputs = [feature.name for feature in model.description.output]
    if not outputs or set(outputs) != set(block.outputs):
        raise ConversionError(
            f"outputs: described are {outputs}, the program has {list(block.outputs)}."
        )
    reader = _Reader(package, set(inputs))
    for operation in block.operations:
        reader.read(operation)
    missing = [name for name in outputs if name not in reader.defined]
    if missing:
        raise ConversionError(f"outputs: {missing} are computed by no operation.")
    return Graph(inputs, outputs, reader.constants, reader.operations)


class _Reader:
    """Collects the operations of a block, in their order."""

    def __init__(self, package: Package, inputs: set[str]) -> None:
        self._package = package
        self.defined = inputs
        self.constants: dict[str, Value] = {}
        self.operations: list[Operation] = []

    def read(self, operation: Any) -> None:
        outputs = {o.name: read_type(o.name, o.type) for o in operation.outputs}
        if len(outputs) != len(operation.outputs) or not outputs:
            raise ConversionError(f"operation {operation.type}: expected outputs of own names.")
        first = next(iter(outputs))
        if operation.type == "const":
            self._constant(first, operation.attributes["val"])
            return
        inputs = {
            parameter: tuple(
                self._bound(f"{first}.{parameter}.{i}", binding)
                for i, binding in enumerate(argument.arguments)
            )
            for parameter, argument in operation.inputs.items()
        }
        for parameter, value in operation.attributes.items():
            if parameter != "name":
                inputs[parameter] = (self._constant(f"{first}.{parameter}", value),)
        for name in outputs:
            self._define(name)
        self.operations.append(Operation(operation.type, inputs, outputs))

    def _bound(self, literal: str, binding: Any) -> str:
        """The name of an input; a literal gets one."""
        if binding.WhichOneof("binding") == "value":
            return self._constant(literal, binding.value)
        if binding.name not in self.defined:
            raise ConversionError(f"value '{binding.name}' is used and nothing defines it before.")
        return str(binding.name)

    def _constant(self, name: str, value: Any) -> str:
        self._define(name)
        self.constants[name] = decode(name, value, self._package)
        return name

    def _define(self, name: str) -> None:
        if name in self.defined:
            raise ConversionError(f"value '{name}' is defined twice.")
        self.defined.add(name)


def _check_known(package: Package, operations: Any) -> None:
    missing: dict[str, list[str]] = {}
    for operation in operations:
        if operation.type not in (*OPERATIONS, "const") or operation.blocks:
            names = missing.setdefault(operation.type, [])
            names += [output.name for output in operation.outputs]
    if missing:
        told = (
            f"{kind} ({', '.join(names[:_NAMES_SHOWN])}"
            f"{f' and {len(names) - _NAMES_SHOWN} more' if len(names) > _NAMES_SHOWN else ''})"
            for kind, names in sorted(missing.items())
        )
        raise ConversionError(
            f"{package.root}: the interpreter has no {'; '.join(told)}. "
            "Add them to pgn_export/mil, or run the package on a Mac."
        )


def _check_inputs(described: dict[str, Feature], declared: dict[str, TensorType]) -> None:
    """The interface and the function must mean the same."""
    for name in described.keys() | declared.keys():
        feature, of_function = described.get(name), declared.get(name)
        if feature is None or of_function is None:
            raise ConversionError(f"input '{name}' is not both described and in the program.")
        same = feature.dtype == of_function.data_type.name and of_function.fits(feature.shape)
        if not same:
            raise ConversionError(f"input '{name}' is described {feature}, it is {of_function}.")
