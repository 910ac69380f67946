"""A small avatar's step, and where its steps lead, against autograd and PyTorch's Adam."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from pgn import PGN, PGNConfig
from pgn.avatar import Generator, GeneratorConfig, personalise, trainable
from pgn_export.fitting import selftest
from pgn_export.fitting.conformance.comparing import Arrays, Errors, arrays, errors, moved
from pgn_export.fitting.graphs import Fitting, build
from pgn_export.fitting.names import MEAN, NEW, SQUARE, SUM, VALUE, tensor_name
from pgn_export.fitting.subject import Subject
from pgn_export.graph import Graph, Tensors
from pgn_export.proof import Run
from pgn_runtime.adam import adam_numbers

GATE, TRAJECTORY_GATE = 1e-5, 1e-4
SIZE = (32, 40)  # of images, height and width in pixels
SMALL = GeneratorConfig(32, (3, 4, 6), blocks=2)  # with every kind of block
PHOTOS = 3
LEARNING_RATE = 1e-3
CALLS = ("prefix", "target_features", "gradient")  # graphs of a step, in order


@dataclass(frozen=True)
class Step:
    """The gradients of all photos, `microbatch` at a time, summed."""

    preset: str
    microbatch: int
    config: GeneratorConfig = SMALL
    gate: float = GATE

    @property
    def names(self) -> list[str]:
        return [f"step: {self.preset}, photos at a time: {self.microbatch}"]

    @cached_property
    def fitting(self) -> Fitting:
        """A person and a PGN of random weights."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            drawing = Generator(self.config)
            generator = personalise(drawing, 0.3 * torch.randn(drawing.style_size))
            net = PGN(PGNConfig("lite", options={"widths": ((4,), (6,), (8,))}))
        names = trainable(generator, self.preset)
        return Fitting(generator, net, names, SIZE, microbatch=self.microbatch)

    def graphs(self, target: str) -> dict[str, Graph]:
        return self.built(target, CALLS)

    def built(self, target: str, names: Sequence[str]) -> dict[str, Graph]:
        """Those of the named graphs that the preset has."""
        graphs = build(self.fitting, target)
        return {name: graphs[name] for name in names if name in graphs}

    def errors(self, run: Mapping[str, Run]) -> dict[str, Errors]:
        other = moved(self.fitting.generator, self.fitting.trainable)
        sums = self.sums(run, self.values(other))
        return {self.names[0]: errors(sums, NEW + SUM, self.wanted(other))}

    def values(self, generator: nn.Module) -> Arrays:
        """Its trained parameters, as the graphs take them."""
        names = self.fitting.trainable
        return arrays({VALUE + tensor_name(n): generator.get_parameter(n) for n in names})

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
            for graph in (name for name in CALLS if name in run):
                pool |= run[graph](pool)
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
        return [f"{self.steps} steps: {self.step.preset}, photos at a time: {self.step.microbatch}"]

    def graphs(self, target: str) -> dict[str, Graph]:
        return self.step.built(target, (*CALLS, "update"))

    def errors(self, run: Mapping[str, Run]) -> dict[str, Errors]:
        start = moved(self.step.fitting.generator, self.step.fitting.trainable)
        begin = self.step.values(start)
        changes = {name: array - begin[name] for name, array in self._fitted(run, begin).items()}
        return {self.names[0]: errors(changes, VALUE, self._wanted(start))}

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
