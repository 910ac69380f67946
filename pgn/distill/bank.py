"""The bank: teacher gradients already paid for, kept on disk to be learnt again.

Three memory-mapped arrays of N images and their number. A run replays its own bank while it fills
it; another network can be trained on a finished bank without asking the teacher at all.

Shapes: targets (N, 3, crop, crop) uint8 pixels; generated and residuals the same in float16,
normalised units (residual: CHW/(2 alpha) times the teacher's gradient, `residual_from_gradient`).
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pgn.errors import PgnError
from pgn.files import atomic_path, check_folder, first_line
from pgn.images import denormalise, normalise

_CARD = "bank.json"
_DTYPES = {"targets": np.uint8, "generated": np.float16, "residuals": np.float16}
_RESERVE = 2**30  # bytes of the disk that are left free


class Lesson(NamedTuple):
    """What one batch teaches: normalised images and the true residual, (B, 3, H, W) each."""

    u_generated: Tensor
    u_target: Tensor
    residual: Tensor


@dataclass
class Bank:
    """Lessons on disk, the first `size` of them valid."""

    folder: Path
    arrays: dict[str, np.memmap]
    card: dict[str, Any]
    size: int = 0

    @property
    def capacity(self) -> int:
        return len(self.arrays["targets"])

    def append(self, lesson: Lesson) -> None:
        """Keep a lesson, as far as there is room."""
        room = min(len(lesson.u_target), self.capacity - self.size)
        end = self.size + room
        for name, values in (
            ("targets", (denormalise(lesson.u_target) * 255).round().byte()),
            ("generated", lesson.u_generated.half()),
            ("residuals", lesson.residual.half()),
        ):
            self.arrays[name][self.size : end] = values[:room].cpu().numpy()
        self.size = end

    def lesson(self, indices: Tensor, device: torch.device | None = None) -> Lesson:
        """The images `indices` (B,) of the bank."""
        rows = indices.numpy()
        targets, generated, residuals = (
            torch.from_numpy(self.arrays[name][rows]).to(device).float() for name in _DTYPES
        )
        return Lesson(generated, normalise(targets / 255), residuals)

    def flush(self) -> None:
        """Write what is only in memory, and how much of it is valid."""
        for array in self.arrays.values():
            array.flush()
        with atomic_path(self.folder / _CARD) as temporary:
            temporary.write_text(json.dumps({**self.card, "size": self.size}), encoding="utf-8")


def create(folder: Path, capacity: int, crop: int, card: dict[str, Any]) -> Bank:
    """An empty bank; `card` says what the gradients are: teacher, alpha.

    Raises:
        PgnError: the folder cannot be written, or the disk has no room.
    """
    check_folder(folder)
    wanted = capacity * 3 * crop**2 * sum(np.dtype(kind).itemsize for kind in _DTYPES.values())
    free = shutil.disk_usage(folder).free - _RESERVE
    if wanted > free:
        raise PgnError(
            f"bank: {capacity} images of {crop}x{crop} need {wanted / 2**30:.1f} GiB, {folder} has "
            f"{max(free, 0) / 2**30:.1f}. Give --set bank=N with a smaller N."
        )
    arrays = {
        name: np.lib.format.open_memmap(
            folder / f"{name}.npy", "w+", dtype=kind, shape=(capacity, 3, crop, crop)
        )
        for name, kind in _DTYPES.items()
    }
    bank = Bank(folder, arrays, card)
    bank.flush()
    return bank


def is_bank(folder: str | Path) -> bool:
    """Does `folder` hold a bank?"""
    return (Path(folder) / _CARD).is_file()


def load(folder: str | Path, *, writable: bool = False) -> Bank:
    """Open a bank for reading, or for a resumed run that goes on filling it.

    Raises:
        PgnError: it is damaged.
    """
    root = Path(folder)
    try:
        card = json.loads((root / _CARD).read_text(encoding="utf-8"))
        size = int(card.pop("size"))
        mode: Literal["r+", "r"] = "r+" if writable else "r"
        arrays = {name: np.lib.format.open_memmap(root / f"{name}.npy", mode) for name in _DTYPES}
        shapes = {array.shape for array in arrays.values()}
        if len(shapes) != 1 or not 0 <= size <= len(arrays["targets"]):
            raise ValueError(f"{size} images, arrays of {shapes}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PgnError(f"bank: {root} is damaged ({first_line(error)}).") from None
    return Bank(root, arrays, card, size)
