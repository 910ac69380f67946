"""What lives at a time while a graph is run, operation by operation.

A tensor lives from the operation that gives it to the last one that takes it, as the planners of
the runtimes see it (Pisarchyk and Lee, arXiv 2001.03288).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Operation:
    """One operation: names of what it takes and gives."""

    name: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    is_view: bool = False  # the first output is the first input in another shape
    in_place: bool = False  # the output may lie where an input of its size lay, after the last use
    scratch: int = 0  # bytes for itself, while it runs


def most_alive(operations: Sequence[Operation], sizes: Mapping[str, int]) -> tuple[int, str]:
    """The most bytes that live at a time, and the name of the operation that runs then.

    Args:
        operations: in the order of execution.
        sizes: bytes of the tensors that count: all but inputs, outputs and constants.
    """
    owners: dict[str, str] = {}  # of the memory of views
    for operation in operations:
        if operation.is_view and operation.outputs[0] in sizes:
            source = operation.inputs[0]
            owners[operation.outputs[0]] = owners.get(source, source)
    taken = [{owners.get(name, name) for name in operation.inputs} for operation in operations]
    last_use = {name: index for index, names in enumerate(taken) for name in names}

    alive: dict[str, int] = {}
    most, where = 0, ""
    for index, operation in enumerate(operations):
        dying = [name for name in taken[index] if name in alive and last_use[name] == index]
        for name in operation.outputs:
            if name in sizes and name not in owners:
                alive[name] = sizes[name]
                same = [old for old in dying if sizes[old] == sizes[name]]
                if operation.in_place and same:
                    dying.remove(same[0])
                    del alive[same[0]]
        now = sum(alive.values()) + operation.scratch
        if now > most:
            most, where = now, operation.name
        for name in (*dying, *operation.outputs):
            if last_use.get(name, index) == index:
                alive.pop(name, None)
    return most, where
