"""A generator that can be run backwards: its traced operations, and the rules of the way back.

What depends on no trained parameter is not gone back over: it is the frozen prefix, whose last
values, the boundary, can be computed once for each condition.
"""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import Node
from torch.fx.node import map_arg

from pgn import ConversionError, PgnError
from pgn.errors import unknown_name
from pgn_export.fitting import convolutions, enlarged
from pgn_export.fitting.convolutions import Lowering
from pgn_export.fitting.decompositions import DECOMPOSITIONS
from pgn_export.fitting.names import VALUE, tensor_name
from pgn_export.fitting.rules import LOWERED, REPEATING, RULES, Rule, repeated

Values = dict[Node, Any]  # tensors, and lists of tensors


@dataclass(frozen=True)
class Outside:
    """Names of a generator's parameters that are inputs of the graphs, no constants."""

    trainable: Sequence[str]
    given: Sequence[str] = ()  # a person's own, not trained

    def check(self, known: Sequence[str]) -> None:
        """Raises PgnError for an unknown name, nothing to train, or one in both lists."""
        if not self.trainable:
            raise PgnError(f"trainable: got nothing, expected some of {', '.join(known)}.")
        for name in (*self.trainable, *self.given):
            if name not in known:
                raise unknown_name("trainable", name, known)
        if both := set(self.trainable) & set(self.given):
            raise PgnError(f"trainable: {', '.join(sorted(both))} cannot be trained and given.")


class Tape(nn.Module):
    """`generator`(condition) -> image, traced at the size of an example."""

    def __init__(
        self, generator: nn.Module, condition: Tensor, outside: Outside, lowering: Lowering
    ) -> None:
        """Trace a copy of the generator, in evaluation mode.

        Args:
            condition: an example, (M, 3, H, W).
            outside: which parameters are no constants.
            lowering: how to compute with those that are trained.

        Raises:
            PgnError: no such parameter, none to train, or one without influence.
            ConversionError: the way back lacks an operation; it is named with its module.
        """
        super().__init__()
        frozen = copy.deepcopy(generator).eval().requires_grad_(False)
        outside.check([name for name, _ in frozen.named_parameters()])
        self.traced = _trace(frozen, condition)
        nodes = list(self.traced.graph.nodes)
        self.lowering = lowering
        self.image: Node = nodes[-1].args[0][0]
        self.condition: Node = next(node for node in nodes if node.op == "placeholder")
        self.trained = _parameters(nodes, outside.trainable)
        self.given = _parameters(nodes, outside.given)
        _check_influence({**self.trained, **self.given}, self.image)
        self.varying = _dependents(nodes, self.trained.values())
        sources = [self.condition, *self.given.values()]
        frozen_prefix = _dependents(nodes, sources) - self.varying
        boundary = [n for n in nodes if n in frozen_prefix and not self.varying.isdisjoint(n.users)]
        self.prefix = [node for node in boundary if node not in sources]
        self.direct = [node for node in sources if node in boundary]
        self.way_back = [n for n in reversed(nodes) if n in self.varying and n.op != "get_attr"]
        for node in self.way_back:
            self._check(node)

    @property
    def inputs(self) -> dict[str, Node]:
        """The condition and the parameters from outside, as they are called in the graphs."""
        parameters = {**self.trained, **self.given}
        named = {VALUE + tensor_name(name): node for name, node in parameters.items()}
        return {"condition": self.condition, **named}

    @property
    def prefix_inputs(self) -> list[str]:
        """Which of the inputs the prefix is computed from."""
        needed = _needed(self.prefix, ())
        return [name for name, node in self.inputs.items() if node in needed]

    @property
    def suffix_inputs(self) -> dict[str, Node]:
        """What is given to the part with a way back: inputs, and values of the prefix."""
        taken = {*self.trained.values(), *self.direct}
        inputs = {name: node for name, node in self.inputs.items() if node in taken}
        return {**inputs, **{f"prefix_{k}": node for k, node in enumerate(self.prefix)}}

    def run_prefix(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The values of the prefix, by their names, from `prefix_inputs` at least."""
        known = {self.inputs[name]: inputs[name] for name in self.prefix_inputs}
        values = self._evaluate(known, self.prefix)
        return {f"prefix_{k}": values[node] for k, node in enumerate(self.prefix)}

    def run(self, inputs: Mapping[str, Tensor]) -> Values:
        """All values up to the image, from `suffix_inputs`; that one is `values[tape.image]`."""
        known = {node: inputs[name] for name, node in self.suffix_inputs.items()}
        return self._evaluate(known, [self.image])

    def pull_back(self, values: Values, gradient: Tensor) -> dict[str, Tensor]:
        """The trainable parameters' gradients, from that of the image (M, 3, H, W).

        `values`: what `run` gave.
        """
        gradients: Values = {self.image: gradient}
        for node in self.way_back:
            if node in gradients:
                g = gradients.pop(node)
                if g is None or node.target not in REPEATING:
                    g = _filled(g, values[node])
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
        if node.target not in LOWERED:
            return RULES.get(node.target, ())
        return LOWERED[node.target](self._lowering(node)).rules

    def _lowering(self, node: Node) -> Lowering:
        """Of a convolution: with weights from outside, or with constant ones."""
        if node.args[1] in self.varying:
            return self.lowering
        return replace(self.lowering, convolve=convolutions.whole)

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
        call: Any = node.target
        if call in LOWERED and node.args[1] in self.varying:
            call = LOWERED[call](self._lowering(node))
        arguments, keywords = map_arg((node.args, node.kwargs), values.__getitem__)
        return _attempt(node, call, *arguments, **keywords)


def _trace(generator: nn.Module, condition: Tensor) -> fx.GraphModule:
    """A graph of PyTorch's operations, without changes in place."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, about itself
        program = torch.export.export(generator, (condition,)).run_decompositions(DECOMPOSITIONS)
        traced = program.module(check_guards=False)
    enlarged.merge(traced)
    return fx.GraphModule(traced, traced.graph)  # which has train() and eval() again


def _parameters(nodes: Iterable[Node], names: Sequence[str]) -> dict[str, Node]:
    return {str(n.target): n for n in nodes if n.op == "get_attr" and n.target in names}


def _check_influence(parameters: Mapping[str, Node], image: Node) -> None:
    needed = _needed([image], ())
    for name, node in parameters.items():
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
        return repeated(gradient, value)
    return [_filled(g, v) for g, v in zip(gradient, value, strict=True)]
