"""A generator that can be run backwards: its traced operations, and the rules of the way back.

What depends on no trainable parameter is not gone back over: it is the frozen prefix, whose last
values, the boundary, can be computed once for each condition.
"""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import Node
from torch.fx.node import map_arg

from pgn import ConversionError, PgnError
from pgn.errors import unknown_name
from pgn_export.fitting import convolutions
from pgn_export.fitting.convolutions import Lowering
from pgn_export.fitting.decompositions import DECOMPOSITIONS
from pgn_export.fitting.rules import RULES, Convolution, Rule

Values = dict[Node, Any]  # tensors, and lists of tensors

CONVOLUTION = torch.ops.aten.conv2d.default


class Tape(nn.Module):
    """`generator`(condition) -> image, traced at the size of an example."""

    def __init__(
        self, generator: nn.Module, condition: Tensor, trainable: Sequence[str], lowering: Lowering
    ) -> None:
        """Trace a copy of the generator, in evaluation mode.

        Args:
            condition: an example, (M, 3, H, W).
            trainable: names of the parameters that will be given from outside.
            lowering: how to compute with those.

        Raises:
            PgnError: no such parameter, none, or one without influence.
            ConversionError: the way back lacks an operation; it is named with its module.
        """
        super().__init__()
        frozen = copy.deepcopy(generator).eval().requires_grad_(False)
        _check_names(trainable, [name for name, _ in frozen.named_parameters()])
        self.traced = _trace(frozen, condition)
        nodes = list(self.traced.graph.nodes)
        self.lowering = lowering
        self.image: Node = nodes[-1].args[0][0]
        self.condition: Node = next(node for node in nodes if node.op == "placeholder")
        self.trained = {n.target: n for n in nodes if n.op == "get_attr" and n.target in trainable}
        _check_influence(self.trained, self.image)
        self.varying = _dependents(nodes, self.trained.values())
        frozen_prefix = _dependents(nodes, [self.condition]) - self.varying
        self.boundary = [
            n for n in nodes if n in frozen_prefix and not self.varying.isdisjoint(n.users)
        ]
        self.way_back = [n for n in reversed(nodes) if n in self.varying and n.op != "get_attr"]
        for node in self.way_back:
            self._check(node)

    @property
    def boundary_names(self) -> list[str]:
        """What the boundary's values are called in the graphs."""
        if self.boundary == [self.condition]:
            return ["condition"]
        return [f"prefix_{k}" for k in range(len(self.boundary))]

    def prefix(self, condition: Tensor) -> list[Tensor]:
        """The values of the boundary for conditions (M, 3, H, W)."""
        values = self._evaluate({self.condition: condition}, self.boundary)
        return [values[node] for node in self.boundary]

    def run(self, boundary: Iterable[Tensor], parameters: Mapping[str, Tensor]) -> Values:
        """All values from the boundary to the image; that one is `values[tape.image]`."""
        known: Values = dict(zip(self.boundary, boundary, strict=True))
        known |= {node: parameters[name] for name, node in self.trained.items()}
        return self._evaluate(known, [self.image])

    def pull_back(self, values: Values, gradient: Tensor) -> dict[str, Tensor]:
        """The trainable parameters' gradients, from that of the image (M, 3, H, W).

        `values`: what `run` gave.
        """
        gradients: Values = {self.image: gradient}
        for node in self.way_back:
            if node in gradients:
                g = _filled(gradients.pop(node), values[node])
                self._step_back(node, g, values, gradients)
        return {name: _filled(gradients[n], values[n]) for name, n in self.trained.items()}

    def _step_back(self, node: Node, g: Any, values: Values, gradients: Values) -> None:
        """Add to `gradients` what the arguments of `node` get of its own, g."""
        arguments: Any = map_arg(node.args, values.__getitem__)
        of_node: Any = node.args
        for argument, rule in zip(of_node, self._rules(node), strict=False):
            if self._varies(argument):
                found = _attempt(node, rule, g, values[node], *arguments, **node.kwargs)
                sources = [argument] if isinstance(argument, Node) else argument
                parts = [found] if isinstance(argument, Node) else found
                for source, part in zip(sources, parts, strict=True):
                    if source in self.varying:
                        gradients[source] = _sum(gradients.get(source), part)

    def _rules(self, node: Node) -> Sequence[Rule]:
        if node.target is not CONVOLUTION:
            return RULES.get(node.target, ())
        frozen = replace(self.lowering, convolve=convolutions.whole)
        return Convolution(self.lowering if self._is_lowered(node) else frozen).rules

    def _is_lowered(self, node: Node) -> bool:
        """Whether it is a convolution with weights that are given from outside."""
        return node.target is CONVOLUTION and node.args[1] in self.varying

    def _varies(self, argument: Any) -> bool:
        found: list[Node] = []
        map_arg(argument, found.append)
        return not self.varying.isdisjoint(found)

    def _check(self, node: Node) -> None:
        """Refuse an operation, or an argument of it, without a way back."""
        without = (*node.args[len(self._rules(node)) :], *node.kwargs.values())
        if any(map(self._varies, without)):
            raise _lacking(node)

    def _evaluate(self, known: Values, wanted: Iterable[Node]) -> Values:
        """`known`, and all values that the `wanted` ones need besides."""
        needed = _needed(wanted, known)
        values = dict(known)
        for node in self.traced.graph.nodes:
            if node in needed:
                values[node] = self._value(node, values)
        return values

    def _value(self, node: Node, values: Values) -> Any:
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self.traced)
        call: Any = Convolution(self.lowering) if self._is_lowered(node) else node.target
        arguments, keywords = map_arg((node.args, node.kwargs), values.__getitem__)
        return _attempt(node, call, *arguments, **keywords)


def _trace(generator: nn.Module, condition: Tensor) -> fx.GraphModule:
    """A graph of PyTorch's operations, without changes in place."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, about itself
        program = torch.export.export(generator, (condition,)).run_decompositions(DECOMPOSITIONS)
        traced = program.module(check_guards=False)
    return fx.GraphModule(traced, traced.graph)  # which has train() and eval() again


def _check_names(trainable: Sequence[str], known: Sequence[str]) -> None:
    if not trainable:
        raise PgnError(f"trainable: got nothing, expected some of {', '.join(known)}.")
    for name in trainable:
        if name not in known:
            raise unknown_name("trainable", name, known)


def _check_influence(trained: Mapping[str, Node], image: Node) -> None:
    needed = _needed([image], ())
    for name, node in trained.items():
        if node not in needed:
            raise PgnError(
                f"trainable: '{name}' has no influence on the image, expected parameters that have "
                f"one. Leave it out."
            )


def _needed(wanted: Iterable[Node], known: Container[Node]) -> set[Node]:
    """What the wanted nodes are computed from, themselves included; nothing behind known ones."""
    needed: set[Node] = set()
    waiting = list(wanted)
    while waiting:
        node = waiting.pop()
        if node not in known and node not in needed:
            needed.add(node)
            waiting += node.all_input_nodes
    return needed


def _dependents(nodes: Sequence[Node], sources: Iterable[Node]) -> set[Node]:
    """The sources and all that is computed from them; `nodes` are in their order."""
    found = set(sources)
    for node in nodes:
        if not found.isdisjoint(node.all_input_nodes) and node.op != "output":
            found.add(node)
    return found


def _lacking(node: Node, details: str = "") -> ConversionError:
    stack = node.meta.get("nn_module_stack")
    module = list(stack.values())[-1][0] if stack else ""
    return ConversionError(
        f"fitting: no way back through {node.target}{details}, used in "
        f"{module or 'the outermost module'} of the generator. Replace it, or train only what "
        f"comes after it."
    )


def _attempt(node: Node, call: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    try:
        return call(*arguments, **keywords)
    except NotImplementedError as error:
        raise _lacking(node, f" with {error}") from None


def _sum(first: Any, second: Any) -> Any:
    """Of gradients, of which None stands for zeros, one by one where they are lists."""
    if first is None or second is None:
        return second if first is None else first
    if isinstance(first, Tensor):
        return first + second
    return [_sum(a, b) for a, b in zip(first, second, strict=True)]


def _filled(gradient: Any, value: Any) -> Any:
    """The gradient in the shape of its value."""
    if gradient is None:
        return torch.zeros_like(value)
    if isinstance(value, Tensor):
        return gradient.expand(value.shape) if gradient.shape != value.shape else gradient
    return [_filled(g, v) for g, v in zip(gradient, value, strict=True)]
