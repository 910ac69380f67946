"""The graphs of a pack on one runtime, each fed by name from a pool of arrays."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module

from pgn_runtime import backends
from pgn_runtime.backends import Session
from pgn_runtime.errors import RuntimeInputError
from pgn_runtime.files import Pixels
from pgn_runtime.pack import MEAN, MODULES, SQUARE, VALUE, Pack
from pgn_runtime.tensors import Tensors


@dataclass
class Graphs:
    """Each graph is opened when it is first asked for, and stays open until it is closed."""

    pack: Pack
    backend: str
    threads: int
    _sessions: dict[str, Session] = field(default_factory=dict, repr=False)

    @property
    def runtime(self) -> str:
        """What computes, with its version: another one may round differently."""
        if self.backend == "coreml":  # it comes with the system
            return f"Core ML of macOS {platform.mac_ver()[0]}"
        module = import_module(MODULES[self.backend])
        return f"{self.backend} {module.__version__}"

    def shared(self, count: int) -> list[Graphs]:
        """The same pack `count` times, to be run at the same time: the threads are shared out."""
        return [replace(self, threads=self.threads // count, _sessions={}) for _ in range(count)]

    def open(self, name: str) -> Session:
        """A graph of the pack.

        Raises:
            RuntimeInputError: its file is missing or was changed; the runtime refuses it.
            MissingBackendError: the runtime is not installed.
        """
        if name not in self._sessions:
            path = self.pack.graph(name, self.backend)
            self._sessions[name] = backends.load(path, self.threads)
        return self._sessions[name]

    def close(self, *names: str) -> None:
        """Give back the memory of graphs that are not needed any more, opened or not."""
        for name in names:
            self._sessions.pop(name, None)

    def run(self, name: str, pool: Mapping[str, Pixels], outputs: Tensors | None = None) -> Tensors:
        """Run a graph on those arrays of `pool` that it takes.

        Args:
            outputs: what the runtime writes into: contiguous, of the right shapes, and none of
                them an input of the same call.

        Raises:
            RuntimeInputError: an array is missing or of another shape; the runtime fails.
        """
        session = self.open(name)
        for taken, shape in session.inputs.items():
            if taken not in pool or pool[taken].shape != shape:
                found = pool[taken].shape if taken in pool else "none"
                raise RuntimeInputError(
                    f"pack: {name} of {self.pack.folder} takes {taken:.80} of shape {shape}, but "
                    f"there is {found}. Export it again."
                )
        inputs = {taken: pool[taken] for taken in session.inputs}
        try:
            return session.run(inputs, outputs)
        except Exception as error:  # the runtimes' exceptions share no base class of their own
            raise RuntimeInputError(
                f"pack: {self.backend} cannot run {name} of {self.pack.folder} ({error!s:.500}). "
                f"Export it again."
            ) from None

    def value_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all that makes a person: trained and given values.

        Raises:
            RuntimeInputError: the graphs take other parameters than the manifest says.
        """
        return self._shapes("render", [VALUE + n for n in (*self.pack.trained, *self.pack.given)])

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all that a fit keeps: those values, and the moments of the trained ones.

        Raises:
            RuntimeInputError: as `value_shapes`.
        """
        kept = [kind + name for kind in (VALUE, MEAN, SQUARE) for name in self.pack.trained]
        return {**self.value_shapes(), **self._shapes("update", kept)}

    def _shapes(self, graph: str, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
        inputs = self.open(graph).inputs
        found = {name for name in inputs if name.startswith((VALUE, MEAN, SQUARE))}
        if found != {*names}:
            raise RuntimeInputError(
                f"pack: {graph} of {self.pack.folder} takes other parameters than its manifest "
                f"says ({', '.join(sorted(found ^ {*names})):.200}). Export it again."
            )
        return {name: tuple(side or 0 for side in inputs[name]) for name in names}
