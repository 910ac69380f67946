"""The state of a run on disk: one file for all processes, written by rename."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from lightning.fabric import Fabric

from pgn.distill.options import RunOptions
from pgn.errors import PgnError
from pgn.files import atomic_path, first_line, read_torch


class Learner(Protocol):
    """What a run trains: all that must be kept for it to go on as if it had not been killed."""

    done: int  # steps
    seconds: float  # of training, over all runs

    @property
    def options(self) -> RunOptions: ...

    @property
    def fabric(self) -> Fabric: ...

    def state_dict(self) -> dict[str, Any]:
        """What all processes share."""

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def own_state_dict(self) -> dict[str, Any]:
        """What is this process's alone."""

    def load_own_state_dict(self, state: dict[str, Any]) -> None: ...


def store(learner: Learner, path: Path) -> None:
    """Write the state of all processes; every process must call it."""
    fabric = learner.fabric
    own = learner.own_state_dict()
    owned: list[Any] = [own]
    if fabric.world_size > 1:
        owned = [None] * fabric.world_size
        dist.all_gather_object(owned, own)
    if fabric.is_global_zero:
        state = {
            "identity": learner.options.identity(),
            "shared": learner.state_dict(),
            "owned": owned,
        }
        with atomic_path(path) as temporary:
            torch.save(state, temporary)
    fabric.barrier()


def restore(learner: Learner, path: Path) -> None:
    """Bring a learner to the state in `path`.

    Raises:
        PgnError: it is damaged, or of a run with other options.
    """
    state = read_torch(path)
    try:
        before = dict(state["identity"])
        wanted = learner.options.identity()
        changed = [key for key, value in wanted.items() if before.get(key) != value]
        if not changed:
            learner.load_state_dict(state["shared"])
            learner.load_own_state_dict(state["owned"][learner.fabric.global_rank])
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise PgnError(
            f"--resume: {path} is damaged ({first_line(error)}). Begin again in another folder."
        ) from None
    if changed:
        was = ", ".join(f"{key}={before.get(key)}" for key in changed)
        raise PgnError(f"--resume: the run in {path.parent} began with {was}. Use the same.")
