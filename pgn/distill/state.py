"""The state of a run on disk: one file for all processes, written by rename."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric import Fabric

from pgn.distill.distiller import Distiller
from pgn.errors import PgnError
from pgn.files import atomic_path, first_line, read_torch


def store(distiller: Distiller, fabric: Fabric, path: Path) -> None:
    """Write the state of all processes; every process must call it."""
    if distiller.bank and distiller.options.bank:
        distiller.bank.flush()
    own = distiller.own_state_dict()
    owned: list[Any] = [own]
    if fabric.world_size > 1:
        owned = [None] * fabric.world_size
        dist.all_gather_object(owned, own)
    if fabric.is_global_zero:
        state = {
            "identity": distiller.options.identity(),
            "shared": distiller.state_dict(),
            "owned": owned,
        }
        with atomic_path(path) as temporary:
            torch.save(state, temporary)
    fabric.barrier()


def restore(distiller: Distiller, path: Path) -> None:
    """Bring a distiller to the state in `path`.

    Raises:
        PgnError: it is damaged, or of a run with other options.
    """
    state = read_torch(path)
    try:
        before = dict(state["identity"])
        wanted = distiller.options.identity()
        changed = [key for key, value in wanted.items() if before.get(key) != value]
        if not changed:
            distiller.load_state_dict(state["shared"])
            distiller.load_own_state_dict(state["owned"][distiller.fabric.global_rank])
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise PgnError(
            f"--resume: {path} is damaged ({first_line(error)}). Begin again in another folder."
        ) from None
    if changed:
        was = ", ".join(f"{key}={before.get(key)}" for key in changed)
        raise PgnError(f"--resume: the run in {path.parent} began with {was}. Use the same.")
