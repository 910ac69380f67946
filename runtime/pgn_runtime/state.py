"""What is left of a fit that was stopped, so that it goes on as if nothing had happened."""

from __future__ import annotations

import glob
import hashlib
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pgn_runtime.errors import RuntimeInputError
from pgn_runtime.files import Pixels, exists
from pgn_runtime.tensors import Tensors, read_tensors, write_tensors

FILE = "state.safetensors"
SCHEMA = 2
WAY_OUT = "Choose another -o, or begin anew with --restart (in Python: delete the file)."

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class StateFile:
    """Where a fit is saved, and how often: after a kill at most `every` steps are lost."""

    path: Path  # the file, or the folder that holds FILE
    every: int = 1
    restart: bool = False  # begin anew; what is there is kept until the first save

    def __post_init__(self) -> None:
        if self.every < 1:
            raise RuntimeInputError(f"save-every: got {self.every}, expected 1 step or more.")

    @property
    def file(self) -> Path:
        return self.path if self.path.suffix == Path(FILE).suffix else self.path / FILE

    def sweep(self) -> None:
        """Remove states that a killed run left half-written."""
        for pattern in (f".{glob.escape(self.file.name)}.*", ".tmp??????"):  # safetensors' own
            for left in self.file.parent.glob(pattern):
                with suppress(OSError):  # what stays, does no harm
                    left.unlink()


@dataclass(frozen=True)
class Origin:
    """What a fit is of. Its steps are not in it: a fit may go on for more of them."""

    pack: str  # SHA-256 of its manifest
    photos: str  # SHA-256 of photos and conditions
    backend: str
    threads: int
    learning_rate: float


@dataclass(frozen=True)
class State:
    """A fit after len(mse) steps."""

    origin: Origin
    tensors: Tensors  # values and moments of what is trained, values of what is given
    mse: tuple[float, ...] = ()  # of every step so far
    runtimes: tuple[str, ...] = ()  # that computed them, as `Graphs.runtime`, each once


def digest(batches: Iterable[Mapping[str, Pixels]]) -> str:
    """SHA-256 of named, contiguous arrays, their shapes included."""
    found = hashlib.sha256()
    for batch in batches:
        for name, array in sorted(batch.items()):
            found.update(f"{name} {array.shape}".encode())
            found.update(array.data)
    return found.hexdigest()


def save_state(state: State, file: Path) -> None:
    """Write by rename; the same state gives the same bytes."""
    details = {
        "schema": SCHEMA,
        "step": len(state.mse),
        **asdict(state.origin),
        "runtimes": state.runtimes,
        "mse": state.mse,
    }
    write_tensors(file, state.tensors, details)


def read_state(file: Path, origin: Origin, shapes: Shapes) -> State | None:
    """The state of the fit of `origin`; None where there is none yet.

    Args:
        shapes: of its tensors.

    Raises:
        RuntimeInputError: the state is damaged, or of other photos, another pack, backend, number
            of threads or learning rate.
    """
    if not exists(file):
        return None
    try:
        tensors, details = read_tensors(file)
    except RuntimeInputError as error:
        raise RuntimeInputError(f"state: {error} {WAY_OUT}") from None
    _check_details(file, details, origin)
    mse, runtimes = details.get("mse", ()), details.get("runtimes", ())
    found = {name: array.shape for name, array in tensors.items()}
    if (
        found != shapes
        or not _is_list(mse, float)
        or not _is_list(runtimes, str)
        or details.get("step") != len(mse)
        or not all(map(math.isfinite, mse))
    ):
        raise RuntimeInputError(f"state: {file} is damaged. {WAY_OUT}")
    return State(origin, tensors, tuple(mse), tuple(runtimes))


def _check_details(file: Path, details: Mapping[str, Any], origin: Origin) -> None:
    """Of this version of the format, and of this fit."""
    if (schema := details.get("schema")) != SCHEMA:
        raise RuntimeInputError(
            f"state: {file} is of version {schema!r:.20} of the format, expected {SCHEMA}. "
            f"{WAY_OUT}"
        )
    for part in fields(Origin):
        saved, wanted = details.get(part.name), getattr(origin, part.name)
        if saved != wanted:
            other = (
                f"of other {part.name}"
                if part.name in ("pack", "photos")
                else f"with {part.name} {saved!r:.30}, not {wanted!r:.30}"
            )
            raise RuntimeInputError(f"state: {file} is of a fit {other}. {WAY_OUT}")


def _is_list(value: object, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(part, kind) for part in value)
