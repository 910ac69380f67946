"""Peak memory of a loss, whose gradient a process of its own computes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from pgn import PgnError, command, memory
from pgn.avatar.guidance import Guidance


def peak_memory(build: Callable[[], Guidance], frames: int, size: int) -> int | None:
    """Bytes that guidance takes above its weights, for `frames` images of size x size pixels.

    Features of the target that it keeps are among them. None where it cannot be measured: the
    reason is told on stderr.
    """
    try:
        return memory.peak_memory(partial(_ready, build, frames, size))
    except PgnError as error:
        command.stderr.print(error, soft_wrap=True, markup=False)
        return None


def _ready(build: Callable[[], Guidance], frames: int, size: int) -> memory.Work:
    guidance = build()
    generated, target = torch.rand(2, frames, 3, size, size)

    def work() -> None:
        for _ in range(2):  # the second with what is kept
            guidance(generated, target)

    return work
