"""Layers in one graph, each with its own way back, against autograd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pgn_export.fitting.conformance.comparing import Errors, arrays, errors, moved, noise
from pgn_export.fitting.conformance.layers import Layer
from pgn_export.fitting.graphs import LOWERINGS
from pgn_export.fitting.names import NEW, SUM, VALUE, tensor_name
from pgn_export.fitting.tape import Outside, Tape
from pgn_export.graph import Graph, Tensors, trace
from pgn_export.proof import Run

GATE = 1e-5


class WaysBack(nn.Module):
    """Layers side by side, each with its own values, its own gradient and its own sums.

    Gradients are added to sums, as in the step's graph: what came out unchanged would be an input
    and an output, which Core ML cannot name twice.
    """

    def __init__(self, tapes: Sequence[Tape]) -> None:
        super().__init__()
        self.tapes = nn.ModuleList(tapes)

    def forward(self, **inputs: Tensor) -> Tensors:
        out: Tensors = {}
        for k, tape in enumerate(self.tapes):
            assert isinstance(tape, Tape)
            values = tape.run({name: inputs[_of(k, name)] for name in tape.suffix_inputs})
            for name, found in tape.pull_back(values, inputs[_of(k, "gradient")]).items():
                total = _of(k, SUM + tensor_name(name))
                out[NEW + total] = inputs[total] + found
        return out


@dataclass(frozen=True)
class Layers:
    """Layers in one graph, in which each has its own way back."""

    layers: Mapping[str, Layer]
    gate: float = GATE

    @property
    def names(self) -> list[str]:
        return list(self.layers)

    def apart(self) -> list[Layers]:
        """Each in a graph of its own."""
        return [Layers({name: layer}) for name, layer in self.layers.items()]

    def graphs(self, target: str) -> dict[str, Graph]:
        tapes: list[Tape] = []
        inputs: Tensors = {}
        for k, layer in enumerate(self.layers.values()):
            outside = Outside(list(_trained(layer)))
            tapes.append(Tape(layer, torch.zeros(1), outside, LOWERINGS[target]))
            inputs |= _inputs(k, layer, layer(torch.zeros(1)).detach())
        return {"layers": trace(WaysBack(tapes).eval(), inputs)}

    def errors(self, run: Mapping[str, Run]) -> dict[str, Errors]:
        inputs: Tensors = {}
        wanted = []
        for k, layer in enumerate(self.layers.values()):
            other = moved(layer, list(_trained(layer)))
            out = other(torch.zeros(1))
            gradient = noise(out, seed=len(_trained(layer)))
            inputs |= _inputs(k, other, gradient)
            known = _trained(other)
            found = torch.autograd.grad(out, list(known.values()), gradient)
            wanted.append(dict(zip(known, found, strict=True)))
        sums = run["layers"](arrays(inputs))
        return {
            name: errors(sums, NEW + _of(k, SUM), wanted[k]) for k, name in enumerate(self.layers)
        }


def _of(layer: int, name: str) -> str:
    return f"layer_{layer}_{name}"


def _trained(layer: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in layer.named_parameters() if p.requires_grad}


def _inputs(k: int, layer: nn.Module, gradient: Tensor) -> Tensors:
    inputs = {_of(k, "gradient"): gradient}
    for name, value in _trained(layer).items():
        inputs[_of(k, VALUE + tensor_name(name))] = value.detach()
        inputs[_of(k, SUM + tensor_name(name))] = torch.zeros_like(value)
    return inputs
