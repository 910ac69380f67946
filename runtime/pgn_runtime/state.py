"""What is left of a fit that was stopped, so that it goes on as if nothing had happened."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypeGuard

from pgn_runtime.errors import RuntimeInputError
from pgn_runtime.files import Pixels, exists
from pgn_runtime.tensors import Tensors, read_tensors, write_tensors

FILE = "state.safetensors"
MSE = "mse"
SCHEMA = 1

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class StateFile:
    """Where a fit is saved, and how often: after a kill at most `every` steps are lost."""

    path: Path  # the file, or the folder that holds FILE
    every: int = 1

    def __post_init__(self) -> None:
        if self.every < 1:
            raise RuntimeInputError(f"save-every: got {self.every}, expected 1 step or more.")

    @property
    def file(self) -> Path:
        return self.path if self.path.suffix == Path(FILE).suffix else self.path / FILE

    def sweep(self) -> None:
        """Remove states that a killed run left half-written."""
        for pattern in (f".{self.file.name}.*", ".tmp??????"):  # ours, and safetensors' own
            for left in self.file.parent.glob(pattern):
                left.unlink(missing_ok=True)


@dataclass(frozen=True)
class Origin:
    """What the bits of a fit depend on. Its steps do not: a fit may go on for more of them."""

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
    details = {"schema": SCHEMA, "step": len(state.mse), **asdict(state.origin), MSE: state.mse}
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
    way_out = "Choose another -o, or begin anew with --restart (in Python: delete that file)."
    try:
        tensors, details = read_tensors(file)
    except RuntimeInputError as error:
        raise RuntimeInputError(f"state: {error} {way_out}") from None
    for part in fields(Origin):
        saved, wanted = details.get(part.name), getattr(origin, part.name)
        if saved != wanted:
            other = (
                f"of other {part.name}"
                if part.name in ("pack", "photos")
                else f"with {part.name} {saved!r:.30}, not {wanted!r:.30}"
            )
            raise RuntimeInputError(f"state: {file} is of a fit {other}. {way_out}")
    mse = details.get(MSE)
    found = {name: array.shape for name, array in tensors.items()}
    if found != shapes or not _is_history(mse) or details.get("step") != len(mse):
        raise RuntimeInputError(f"state: {file} is damaged. {way_out}")
    return State(origin, tensors, tuple(mse))


def _is_history(mse: object) -> TypeGuard[list[float]]:
    return isinstance(mse, list) and all(isinstance(value, float) for value in mse)
