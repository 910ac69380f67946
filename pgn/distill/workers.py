"""An endless stream of a training's steps, made by worker processes, resumable at any step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from pgn.errors import PgnError

Step = TypeVar("Step")
Steps = Callable[[int, int], Iterator[Step]]  # endless, from the first step on, every n-th


def stream_steps(steps: Steps[Step], start: int, workers: int) -> Iterator[Step]:
    """Step `start` and all that follow, in order.

    Args:
        steps: must depend on its numbers alone, so that a killed run resumes bit for bit.
        workers: processes that make the steps in turn; 0 makes them in this one.

    Raises:
        PgnError: later: what `steps` raises.
    """
    # its own generator: a loader draws a seed, and a resumed run must not draw once more
    loader = DataLoader(
        _EveryNth(steps, start), batch_size=None, num_workers=workers, generator=torch.Generator()
    )
    return _raise_errors(loader)


class _EveryNth(IterableDataset["Step | PgnError"], Generic[Step]):
    """Every n-th step, for one of n workers (torch gives each a single OpenMP thread)."""

    def __init__(self, steps: Steps[Step], start: int) -> None:
        self.steps = steps
        self.start = start

    def __iter__(self) -> Iterator[Step | PgnError]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        try:
            yield from self.steps(self.start + worker, workers)
        except PgnError as error:  # raised in a worker, it would get a traceback as its message
            yield error


def _raise_errors(loader: DataLoader[Step | PgnError]) -> Iterator[Step]:
    for step in loader:
        if isinstance(step, PgnError):
            raise step
        yield step
