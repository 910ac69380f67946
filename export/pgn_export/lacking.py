"""The error for an operation that a converter lacks: which, and which modules brought it."""

from __future__ import annotations

from itertools import chain

from torch.export import ExportedProgram

from pgn import ConversionError


def lacking(target: str, operation: str, program: ExportedProgram) -> ConversionError:
    """`operation` as in aten.erfinv.default, or as converters rename it, prims.erfinv.default."""
    name = operation.split(".")[1:2]
    stacks = [
        node.meta.get("nn_module_stack")
        for node in chain(program.graph.nodes, program.run_decompositions().graph.nodes)
        if node.op == "call_function" and str(node.target).split(".")[1:2] == name
    ]
    paths = {list(stack.values())[-1][0] or "the outermost module" for stack in stacks if stack}
    return ConversionError(
        f"{target}: no conversion for {operation}, used in "
        f"{', '.join(sorted(paths)) or 'the network'}. Replace it, or export to another target."
    )
