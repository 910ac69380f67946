"""What is tried in every runtime: each layer, a small avatar's step, and where its steps lead.

The reference knows nothing of our rules: PyTorch goes back through the network itself, in float64.
Graphs are run with other values than they were traced with, so that one that became a constant is
seen.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pgn import PGN, PGNConfig
from pgn.avatar import Generator, GeneratorConfig, personalise, trainable
from pgn.avatar.generator import TRAINABLE
from pgn_export.fitting import selftest
from pgn_export.fitting.graphs import LOWERINGS, Fitting, adam_numbers, build
from pgn_export.fitting.layers import Layer, families
from pgn_export.fitting.names import MEAN, NEW, SQUARE, SUM, VALUE, tensor_name
from pgn_export.fitting.subject import Subject
from pgn_export.fitting.tape import Outside, Tape
from pgn_export.graph import Graph, Tensors, trace
from pgn_export.proof import Run

LAYER_GATE, STEP_GATE, TRAJECTORY_GATE = 1e-5, 1e-4, 1e-3
SIZE = (20, 28)  # of images, height and width in pixels
PHOTOS, MICROBATCHES = 3, (1, 3)
LEARNING_RATE = 1e-3

Arrays = Mapping[str, NDArray[np.float32]]
Errors = dict[str, float]  # by parameter: its worst element, relative to the largest
Module = TypeVar("Module", bound=nn.Module)


class Case(Protocol):
    """Graphs, and how wrong they are when they run."""

    @property
    def names(self) -> Sequence[str]:
        """Of what it tries."""

    @property
    def gate(self) -> float:
        """The largest error that is none."""

    def graphs(self, target: str) -> dict[str, Graph]:
        """By name; raises ConversionError where the way back lacks an operation."""

    def errors(self, run: Mapping[str, Run]) -> dict[str, Errors]:
        """For each of `names`. A `run` takes what its graph needs of the arrays it is given."""


def cases() -> list[Case]:
    """All of the suite."""
    steps = [Step(preset, count) for preset in TRAINABLE for count in MICROBATCHES]
    return [*map(Layers, families()), *steps, Trajectory(Step("decoder", PHOTOS))]


# --- layers


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
    gate: float = LAYER_GATE

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
            gradient = _noise(out)
            inputs |= _inputs(k, other, gradient)
            known = _trained(other)
            found = torch.autograd.grad(out, list(known.values()), gradient)
            wanted.append(dict(zip(known, found, strict=True)))
        sums = run["layers"](_arrays(inputs))
        return {
            name: _errors(sums, NEW + _of(k, SUM), wanted[k]) for k, name in enumerate(self.layers)
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


# --- an avatar


@dataclass(frozen=True)
class Step:
    """The gradients of all photos, `microbatch` at a time, summed."""

    preset: str
    microbatch: int
    gate: float = STEP_GATE

    @property
    def names(self) -> list[str]:
        return [f"step: {self.preset}, photos at a time: {self.microbatch}"]

    @cached_property
    def fitting(self) -> Fitting:
        """Of an avatar that has every kind of block of the real one."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            drawing = Generator(GeneratorConfig(32, (3, 4, 6), 2))
            generator = personalise(drawing, 0.3 * torch.randn(drawing.style_size))
            net = PGN(PGNConfig("lite", options={"widths": ((4,), (6,), (8,))}))
        names = trainable(generator, self.preset)
        return Fitting(generator, net, names, SIZE, microbatch=self.microbatch)

    def graphs(self, target: str) -> dict[str, Graph]:
        graphs = build(self.fitting, target)
        return {name: graphs[name] for name in graphs if name not in ("update", "render")}

    def errors(self, run: Mapping[str, Run]) -> dict[str, Errors]:
        other = moved(self.fitting.generator, self.fitting.trainable)
        sums = self.sums(run, self.values(other))
        return {self.names[0]: _errors(sums, NEW + SUM, self.wanted(other))}

    def values(self, generator: nn.Module) -> Arrays:
        """Its trained parameters, as the graphs take them."""
        names = self.fitting.trainable
        return _arrays({VALUE + tensor_name(n): generator.get_parameter(n) for n in names})

    def sums(self, run: Mapping[str, Run], values: Arrays) -> Arrays:
        """What the graphs give for these values, as new_sum_of_*."""
        condition, photo = (image.numpy() for image in _images())
        pool = {NEW + SUM + n.removeprefix(VALUE): np.zeros_like(v) for n, v in values.items()}
        names = list(pool)
        for k in range(0, PHOTOS, self.microbatch):
            shown = slice(k, k + self.microbatch)
            pool = {name.removeprefix(NEW): pool[name] for name in names}
            pool |= {**values, "condition": condition[shown], "photo": photo[shown]}
            pool |= {"target": photo[shown]}
            for graph in ("prefix", "target_features", "gradient"):
                pool |= run[graph](pool) if graph in run else {}
        return {name: pool[name] for name in names}

    def wanted(self, generator: nn.Module) -> Tensors:
        """The same by autograd, by the parameters' names."""
        subject = Subject("avatar", generator, SIZE, "image")
        condition, photo = _images()
        found = selftest.reference(subject, self.fitting, photo, condition)
        return {name: found[NEW + SUM + tensor_name(name)] for name in self.fitting.trainable}


@dataclass(frozen=True)
class Trajectory:
    """Where Adam's steps lead: errors are relative to the largest change of a parameter."""

    step: Step
    steps: int = 50
    gate: float = TRAJECTORY_GATE

    @property
    def names(self) -> list[str]:
        return [f"{self.steps} steps: {self.step.preset}"]

    def graphs(self, target: str) -> dict[str, Graph]:
        return {**self.step.graphs(target), "update": build(self.step.fitting, target)["update"]}

    def errors(self, run: Mapping[str, Run]) -> dict[str, Errors]:
        start = moved(self.step.fitting.generator, self.step.fitting.trainable)
        begin = self.step.values(start)
        changes = {name: array - begin[name] for name, array in self._fitted(run, begin).items()}
        return {self.names[0]: _errors(changes, VALUE, self._wanted(start))}

    def _fitted(self, run: Mapping[str, Run], begin: Arrays) -> Arrays:
        state = dict(begin)
        for kind in (MEAN, SQUARE):
            state |= {name.replace(VALUE, kind, 1): np.zeros_like(v) for name, v in begin.items()}
        for step in range(1, self.steps + 1):
            numbers = adam_numbers(LEARNING_RATE, step, PHOTOS, SIZE)
            pool = {name: np.full(1, number, np.float32) for name, number in numbers.items()}
            sums = self.step.sums(run, {name: state[name] for name in begin})
            pool |= {name.removeprefix(NEW): array for name, array in sums.items()}
            out = run["update"]({**state, **pool})
            state = {name: out[NEW + name] for name in state}
        return {name: state[name] for name in begin}

    def _wanted(self, start: nn.Module) -> Tensors:
        """The changes of the parameters, by PyTorch's Adam."""
        fitted = copy.deepcopy(start)
        parameters = {name: fitted.get_parameter(name) for name in self.step.fitting.trainable}
        optimiser = torch.optim.Adam(parameters.values(), LEARNING_RATE)
        for _ in range(self.steps):
            for name, total in self.step.wanted(fitted).items():
                parameters[name].grad = total / (PHOTOS * 3 * SIZE[0] * SIZE[1] / 2)
            optimiser.step()
        with torch.no_grad():
            return {name: p - start.get_parameter(name) for name, p in parameters.items()}


def _images() -> tuple[Tensor, Tensor]:
    """Conditions and photos, (PHOTOS, 3, *SIZE) each."""
    generator = torch.Generator().manual_seed(1)
    condition, photo = torch.rand(2, PHOTOS, 3, *SIZE, generator=generator)
    return condition, photo


# --- references


def moved(module: Module, names: Iterable[str]) -> Module:
    """A copy in float64 with other numbers in these parameters, all of which float32 has."""
    copied = copy.deepcopy(module).double().eval()
    for name in names:
        parameter = copied.get_parameter(name)
        parameter.data = (parameter.data + 0.1 * _noise(parameter)).float().double()
    return copied


def _noise(like: Tensor) -> Tensor:
    """Of the shape of `like`; float64 that float32 has."""
    generator = torch.Generator().manual_seed(like.numel())
    return torch.randn(like.shape, generator=generator).double()


def _arrays(tensors: Tensors) -> dict[str, NDArray[np.float32]]:
    return {name: tensor.detach().float().numpy() for name, tensor in tensors.items()}


def _errors(found: Arrays, prefix: str, wanted: Tensors) -> Errors:
    """Of what is called `prefix` and a parameter's tensor_name in `found`."""
    return {
        name: _worst(found[prefix + tensor_name(name)], value) for name, value in wanted.items()
    }


def _worst(found: NDArray[np.float32], wanted: Tensor) -> float:
    """The largest difference over the largest wanted value; infinite where all should be zero."""
    difference = np.abs(found.astype(np.float64) - wanted.detach().numpy())
    return float(difference.max() / wanted.abs().max())
