"""Every case, in all runtimes that can run a target here."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from pgn import ConversionError
from pgn.avatar.generator import TRAINABLE
from pgn_export.chatter import failures
from pgn_export.exporting import CONVERTERS
from pgn_export.fitting.conformance.avatar import PHOTOS, Step, Trajectory
from pgn_export.fitting.conformance.comparing import Arrays, Errors
from pgn_export.fitting.conformance.layers import families
from pgn_export.fitting.conformance.ways_back import Layers
from pgn_export.graph import Conversion, Graph
from pgn_export.proof import Run, runtimes
from pgn_runtime.files import Pixels


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
    steps = [Step(preset, microbatch) for preset in TRAINABLE for microbatch in (1, PHOTOS)]
    return [*map(Layers, families()), *steps, Trajectory(Step("decoder", PHOTOS))]


@dataclass(frozen=True)
class Finding:
    """What one runtime gave for a layer, a step or a trajectory."""

    name: str
    runtime: str
    gate: float
    errors: Errors = field(default_factory=dict)
    problem: str = ""  # why there are none: the target lacks it

    @property
    def worst(self) -> float:
        """The largest error; NaN if one is, or if there are none."""
        return float(np.max([*self.errors.values()] or [math.nan]))

    @property
    def passes(self) -> bool:
        """Whether the gate holds, as it does not for NaN; what a target lacks is not wrong."""
        return bool(self.problem) or self.worst <= self.gate


def measure(case: Case, target: str) -> list[Finding]:
    """A case in every runtime of a target that is here.

    Raises:
        MissingExtraError: the converter or the runtime is not installed.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            return list(_measure(case, target, Path(folder)))
    except ConversionError as error:
        if isinstance(case, Layers) and len(case.layers) > 1:  # which of them is it?
            return [finding for part in case.apart() for finding in measure(part, target)]
        problem = str(error).partition(" The converter's words")[0]  # they went with the folder
        return [
            Finding(name, runtime, case.gate, problem=problem)
            for runtime in runtimes(target)
            for name in case.names
        ]


def convert(graphs: Mapping[str, Graph], target: str, folder: Path) -> dict[str, Path]:
    """Files of the graphs in a folder, by name; raises what the converter does."""
    converter = CONVERTERS[target]
    paths = {name: folder / f"{name}{converter.SUFFIX}" for name in graphs}
    for name, graph in graphs.items():
        converter.export(Conversion(graph), paths[name])
    return paths


def _measure(case: Case, target: str, folder: Path) -> Iterator[Finding]:
    guarded = partial(failures, target, folder)
    with guarded():
        graphs = case.graphs(target)
        paths = convert(graphs, target, folder)
    for runtime, load in runtimes(target).items():
        with guarded():
            loaded = {name: load(path) for name, path in paths.items()}
        run = {name: _picking(loaded[name], graph, guarded) for name, graph in graphs.items()}
        for name, errors in case.errors(run).items():
            yield Finding(name, runtime, case.gate, errors)


def _picking(run: Run, graph: Graph, guarded: Callable[[], AbstractContextManager[None]]) -> Run:
    """Runs the graph on those of more arrays that it takes."""

    def picking(pool: Arrays) -> dict[str, Pixels]:
        with guarded():
            return run({name: pool[name] for name in graph.inputs})

    return picking
