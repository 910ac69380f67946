"""The steps of a fit: gradients of all photos are summed, then Adam moves the weights.

Photos are dealt out to as many workers as there are threads, each with a session of its own: that
is half as fast again as two threads inside of the small operations of one session.

What a step changes lies in two sets of arrays that change places: the runtime reads one and writes
the other, so nothing is copied, and a step that fails leaves the last good one as it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pgn_runtime.adam import adam_numbers
from pgn_runtime.errors import RuntimeInputError
from pgn_runtime.files import Pixels
from pgn_runtime.graphs import Graphs
from pgn_runtime.pack import NEW, SUM, VALUE, WEIGHTS
from pgn_runtime.tensors import Tensors

Batch = Mapping[str, Pixels]  # photo and condition of M photos, (M, 3, H, W)


class DivergedError(RuntimeInputError):
    """What the generator draws is no image any more."""


def begin(graphs: Graphs, batches: Sequence[Batch]) -> Tensors:
    """Values of all parameters before the first step: of the weights, and of the photos' mean.

    Raises:
        RuntimeInputError: as `Graphs.run`; values are missing.
    """
    values = graphs.pack.tensors(WEIGHTS)
    if "start" in graphs.pack.graphs:
        seen = [graphs.run("start", batch) for batch in batches]
        values |= {name: np.mean([given[name] for given in seen], axis=0) for name in seen[0]}
    shapes = graphs.value_shapes()
    wrong = [n for n, shape in shapes.items() if n not in values or values[n].shape != shape]
    if wrong:
        raise RuntimeInputError(
            f"pack: {graphs.pack.folder} gives no first {wrong[0]:.80} of shape "
            f"{shapes[wrong[0]]}. Export it again."
        )
    return {name: values[name] for name in shapes}


def prepared(graphs: Graphs, batches: Sequence[Batch], values: Tensors) -> list[Batch]:
    """The batches with all that is computed once a photo; errors as `Graphs.run`."""
    known = list(batches)
    for graph in ("prefix", "target_features"):
        if graph in graphs.pack.graphs:
            known = [
                {**batch, **graphs.run(graph, {**values, **batch, "target": batch["photo"]})}
                for batch in known
            ]
    return known


def fresh(graphs: Graphs, values: Tensors) -> Tensors:
    """All that a fit keeps, before its first step: values, and moments of zero."""
    return {
        name: values[name] if name in values else np.zeros(shape, np.float32)
        for name, shape in graphs.tensor_shapes().items()
    }


class Worker:
    """Sums the gradients of some of the photos.

    Attributes:
        sums: of the gradients of the last step.
        generated, mse: (M, 3, H, W) and (M,), what was drawn last, and its error.
    """

    def __init__(self, graphs: Graphs, batches: Sequence[Batch], tensors: Tensors) -> None:
        """Batches as `prepared` gives them; tensors as `fresh` does."""
        self.sums = {
            SUM + name: np.empty_like(tensors[VALUE + name]) for name in graphs.pack.trained
        }
        self.generated = np.empty_like(batches[0]["photo"])
        self.mse = np.empty(len(self.generated), np.float32)
        self._graphs = graphs
        self._batches = batches
        self._next_sums = _empty_like(self.sums)

    def sum_gradients(self, tensors: Tensors) -> float:
        """The sum of its batches' MSE; errors as `Graphs.run`."""
        for array in self.sums.values():
            array.fill(0)
        total = 0.0
        for batch in self._batches:
            inputs = {**tensors, **self.sums, **batch}
            outputs = {"generated": self.generated, "mse": self.mse, **_new(self._next_sums)}
            self._graphs.run("gradient", inputs, outputs)
            self.sums, self._next_sums = self._next_sums, self.sums
            total += float(self.mse.mean(dtype=np.float64))
        return total


class Fitter:
    """A fit under way.

    Attributes:
        tensors: values, means and squares of what is trained, values of what is given; valid until
            the next step.
    """

    def __init__(self, graphs: Graphs, batches: Sequence[Batch], tensors: Tensors) -> None:
        """Batches as `prepared` gives them; tensors as `fresh` does."""
        given = {VALUE + name for name in graphs.pack.given}
        moving = {name: array for name, array in tensors.items() if name not in given}
        self.tensors = tensors
        self._batches = batches
        self._next = {**tensors, **_empty_like(moving)}
        self._moving = tuple(moving)
        count = min(graphs.threads, len(batches))
        shared = graphs.shared(count)
        # threads that wait for the next update by spinning would slow the workers down by a fifth
        self._graphs = shared[0]
        self._workers = [Worker(own, batches[k::count], tensors) for k, own in enumerate(shared)]

    @property
    def first(self) -> Worker:
        """It has the first photos, and after a step the sums of all."""
        return self._workers[0]

    @property
    def values(self) -> Tensors:
        """Of all parameters: all that `render` takes."""
        return {name: array for name, array in self.tensors.items() if name.startswith(VALUE)}

    def step(self, number: int, learning_rate: float) -> float:
        """Take the step of this number, from 1; the MSE of all photos before it.

        Raises:
            DivergedError: images or weights would hold NaN or infinity; nothing was changed.
            RuntimeInputError: as `Graphs.run`.
        """
        pack = self._graphs.pack
        mse = self._sum_gradients()
        photos = len(self._batches) * pack.microbatch
        numbers = adam_numbers(learning_rate, number, photos, pack.size)
        with np.errstate(over="ignore"):  # an infinite rate is told below
            fed = {name: np.full(1, value, np.float32) for name, value in numbers.items()}
        outputs = {name: self._next[name] for name in self._moving}
        self._graphs.run("update", {**self.tensors, **self.first.sums, **fed}, _new(outputs))
        if not (math.isfinite(mse) and all(np.isfinite(a).all() for a in outputs.values())):
            raise DivergedError(
                f"fit: at step {number} the images or the weights hold NaN or infinite values. "
                f"Lower the learning rate, {learning_rate:g}, and begin anew."
            )
        self.tensors, self._next = self._next, self.tensors
        return mse

    def _sum_gradients(self) -> float:
        """Of all photos, into the first worker's sums, always in the same order."""

        def work(worker: Worker) -> float:
            return worker.sum_gradients(self.tensors)

        with ThreadPoolExecutor(len(self._workers)) as pool:
            total = sum(pool.map(work, self._workers))
        for worker in self._workers[1:]:
            for name, array in self.first.sums.items():
                array += worker.sums[name]
        return total / len(self._batches)


def _empty_like(arrays: Tensors) -> Tensors:
    return {name: np.empty_like(array) for name, array in arrays.items()}


def _new(arrays: Tensors) -> Tensors:
    """The same arrays under the names of a graph's outputs."""
    return {NEW + name: array for name, array in arrays.items()}
