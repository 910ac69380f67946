"""A generator that becomes a person's: fitted to a few photos with a pack, then drawing them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pgn_runtime import memory
from pgn_runtime.errors import RuntimeInputError
from pgn_runtime.files import Pixels
from pgn_runtime.fitting import Batch, Fitter, begin, fresh, prepared
from pgn_runtime.graphs import Graphs
from pgn_runtime.pack import read_pack
from pgn_runtime.selftest import self_test
from pgn_runtime.state import Origin, State, StateFile, digest, read_state, save_state
from pgn_runtime.tensors import Tensors, read_tensors, write_tensors

MAX_VALUE = 4.0  # of a pixel in [0, 1]; 8-bit ones leave it by more


@dataclass
class PersonalReport:
    """How a fit went."""

    mse: list[float]  # mean over the photos, before each step, also those of an earlier run
    seconds: list[float] = field(default_factory=list)  # of each step of this run
    peak_bytes: int | None = None  # `Personalizer.peak_bytes` at the end
    runtimes: tuple[str, ...] = ()  # all that computed the steps; several: not bit for bit

    @property
    def step(self) -> int:
        """The step that was reached."""
        return len(self.mse)


class Personalizer:
    """Fits and draws one person.

    Images are (N, 3, H, W) float32 RGB pixels in [0, 1], of the pack's size; a condition is what
    the generator draws from: landmarks as drawn by `pgn_runtime.landmarks.draw`, or a picture.
    """

    def __init__(self, graphs: Graphs) -> None:
        """Use `load`."""
        self.pack = graphs.pack
        self.backend = graphs.backend
        self.threads = graphs.threads
        self._graphs = graphs
        self._values: Tensors | None = None  # of all parameters, once there is a person
        self._idle_bytes = memory.resident_bytes()

    @staticmethod
    def load(
        pack: str | Path,
        backend: str | None = None,
        threads: int = 2,
        weights: str | Path | None = None,
    ) -> Personalizer:
        """Open a pack.

        Args:
            backend: onnxruntime | litert | coreml; without it, the first of the pack's that is
                installed.
            weights: a person's, as `save` wrote them.

        Raises:
            RuntimeInputError: no pack, a damaged or changed one; no graphs for this backend;
                weights of another pack.
            MissingBackendError: the runtime is not installed.
        """
        opened = read_pack(pack)
        graphs = Graphs(opened, opened.backend(backend), threads)
        me = Personalizer(graphs)
        graphs.tensor_shapes()  # opens graphs: what is wrong with them is told now
        if weights is not None:
            me._values = _read_person(Path(weights), graphs)
        return me

    def begin(self, conditions: Pixels, photos: Pixels) -> None:
        """Become the person whom the photos show, without a fit; arguments and errors as `fit`."""
        self._values = begin(self._graphs, self._batches(conditions, photos))

    def fit(
        self,
        conditions: Pixels,
        photos: Pixels,
        steps: int | None = None,
        learning_rate: float | None = None,
        on_step: Callable[[int, float], object] = lambda step, mse: None,
        state: str | Path | StateFile | None = None,
    ) -> PersonalReport:
        """Fit to K photos of a person, K a multiple of the pack's micro-batch, from the start.

        The same pack, photos, backend and threads give the same bits, on one machine, in one
        version of the runtime.

        Args:
            conditions, photos: (K, 3, H, W) each.
            steps, learning_rate: of Adam; the pack's where they are None.
            on_step: called after each step with its number, from 1, and the MSE before it.
            state: a folder, or a file, from which the fit goes on if it was stopped there, and
                which is written after every step; of one process at a time (`locking.locked`).

        Raises:
            RuntimeInputError: what are no photos; a state of another fit; what is wrong with the
                pack; this runtime fails its self-test.
            DivergedError: NaN or infinity; the last good state is kept.
        """
        last = self.pack.steps if steps is None else steps
        rate = self.pack.learning_rate if learning_rate is None else learning_rate
        _check_options(last, rate)
        batches = self._batches(conditions, photos)
        origin = Origin(
            pack=self.pack.digest,
            photos=digest(batches),
            backend=self.backend,
            threads=self.threads,
            learning_rate=rate,
        )
        file = StateFile(Path(state)) if isinstance(state, str | Path) else state
        current = self._begun(origin, batches, file)
        report = PersonalReport(list(current.mse), runtimes=current.runtimes)
        if report.step > last:
            raise RuntimeInputError(
                f"steps: got {last}, but {report.step} are done already. Ask for as many or more, "
                f"or begin anew."
            )
        fitter = self._fitter(batches, current.tensors)
        if report.step < last:
            report.runtimes = tuple(dict.fromkeys([*current.runtimes, self._graphs.runtime]))
        for step in range(report.step + 1, last + 1):
            start = time.perf_counter()
            report.mse.append(fitter.step(step, rate))
            report.seconds.append(time.perf_counter() - start)
            self._values = fitter.values
            on_step(step, report.mse[-1])
            if file and (step % file.every == 0 or step == last):
                reached = State(origin, fitter.tensors, tuple(report.mse), report.runtimes)
                save_state(reached, file.file)
        report.peak_bytes = self.peak_bytes()
        return report

    def render(self, condition: Pixels) -> Pixels:
        """Draw the person, (N, 3, H, W); N is free.

        Raises:
            RuntimeInputError: there is no person yet; a condition of another shape.
        """
        if self._values is None:
            raise RuntimeInputError(
                "render: no person yet. Fit one, or load weights: Personalizer.load(pack, "
                "weights=...)."
            )
        self._check("condition", condition)
        count, batch = len(condition), self.pack.microbatch
        padded = np.concatenate([condition, condition[-1:].repeat(-count % batch, 0)])
        images = np.empty((len(padded), 3, *self.pack.size), np.float32)
        for place in range(0, count, batch):
            shown = slice(place, place + batch)
            pool = {**self._values, "condition": _contiguous(padded[shown])}
            self._graphs.run("render", pool, {"generated": images[shown]})
        return images[:count]

    def save(self, path: str | Path) -> None:
        """Write the person's weights, for `load`.

        Raises:
            RuntimeInputError: there is no person yet; the file cannot be written.
        """
        if self._values is None:
            raise RuntimeInputError("save: no person yet. Fit one first.")
        details = {"kind": "person", "pack": self.pack.digest, "name": self.pack.name}
        write_tensors(Path(path), self._values, details)

    def peak_bytes(self) -> int | None:
        """The most that the process took so far, above what it took when the pack was opened."""
        peak = memory.peak_bytes()
        return None if peak is None or self._idle_bytes is None else peak - self._idle_bytes

    def _begun(self, origin: Origin, batches: Sequence[Batch], file: StateFile | None) -> State:
        """The saved state, or that before the first step."""
        saved = None
        if file:
            file.sweep()
        if file and not file.restart:
            saved = read_state(file.file, origin, self._graphs.tensor_shapes())
        self_test(self._graphs)
        return saved or State(origin, fresh(self._graphs, begin(self._graphs, batches)))

    def _fitter(self, batches: Sequence[Batch], tensors: Tensors) -> Fitter:
        fitter = Fitter(self._graphs, prepared(self._graphs, batches, tensors), tensors)
        self._graphs.close("start", "prefix", "target_features")
        self._values = fitter.values
        return fitter

    def _batches(self, conditions: Pixels, photos: Pixels) -> list[Batch]:
        """Photos and conditions, M at a time."""
        size = self.pack.microbatch
        self._check("conditions", conditions)
        self._check("photos", photos)
        if len(photos) != len(conditions) or len(photos) % size:
            raise RuntimeInputError(
                f"photos: got {len(photos)} and {len(conditions)} conditions, expected as many of "
                f"both, and a multiple of {size}, the pack's micro-batch. Leave some out, or "
                f"export the pack with --microbatch 1."
            )
        conditions, photos = _contiguous(conditions), _contiguous(photos)
        return [
            {"condition": conditions[place : place + size], "photo": photos[place : place + size]}
            for place in range(0, len(photos), size)
        ]

    def _check(self, name: str, images: Pixels) -> None:
        shape, wanted = images.shape, (3, *self.pack.size)
        if len(shape) != 4 or shape[0] == 0 or shape[1:] != wanted:
            raise RuntimeInputError(
                f"{name}: got shape {shape}, expected (N, {wanted[0]}, {wanted[1]}, {wanted[2]}) "
                f"with N at least 1. Resize the pictures; `read_photos` does."
            )
        low, high = float(images.min()), float(images.max())
        if not -MAX_VALUE <= low <= high <= MAX_VALUE:  # NaN as well
            raise RuntimeInputError(
                f"{name}: got values from {low:.3g} to {high:.3g}, expected pixels in [0, 1]. "
                f"Divide 8-bit pixels by 255."
            )


def _read_person(file: Path, graphs: Graphs) -> Tensors:
    values, details = read_tensors(file)
    if details.get("pack") != graphs.pack.digest:
        raise RuntimeInputError(
            f"weights: {file} were not fitted with {graphs.pack.folder}. Give the pack that they "
            f"were fitted with, or fit again."
        )
    shapes = graphs.value_shapes()
    if {name: array.shape for name, array in values.items()} != shapes:
        raise RuntimeInputError(f"weights: {file} is damaged. Fit again.")
    return values


def _contiguous(images: Pixels) -> Pixels:
    return np.ascontiguousarray(images, dtype=np.float32)


def _check_options(steps: int, learning_rate: float) -> None:
    if steps < 1:
        raise RuntimeInputError(f"steps: got {steps}, expected 1 or more.")
    if not 0 < learning_rate < float("inf"):
        raise RuntimeInputError(f"learning-rate: got {learning_rate}, expected a positive number.")
