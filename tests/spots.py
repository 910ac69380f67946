"""Frames and videos of a bright spot that moves, and landmarks that say where it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pgn.avatar.landmarks import MESH_POINTS

SPOT = 4.0  # pixels: standard deviation


def spot(width: int, height: int, x: float, y: float) -> NDArray[np.uint8]:
    """A bright spot on black at fractions (x, y) of the sides, (height, width, 3)."""
    across = np.arange(width) + 0.5 - x * width
    down = np.arange(height)[:, None] + 0.5 - y * height
    bright = 255 * np.exp(-(across**2 + down**2) / (2 * SPOT**2))
    return np.repeat(bright.round().astype(np.uint8)[..., None], 3, 2)


def spot_centres(images: Tensor) -> Tensor:
    """Where the spots are in (K, 3, S, S), by their centre of mass: (K, 2), fractions."""
    mass = images.double().mean(1)
    place = (torch.arange(images.shape[-1]) + 0.5) / images.shape[-1]
    x, y = (mass.sum(dim) @ place.double() for dim in (1, 2))
    return torch.stack([x, y], 1) / mass.sum((1, 2))[:, None]


def mesh(centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """A face that is a point, (K, 478, 2)."""
    return np.repeat(centres[:, None], MESH_POINTS, 1)


def write_frames(folder: Path, frames: int, landmarks: NDArray[Any] | None = None) -> Path:
    """Frames with a spot that moves, and the landmarks that say where it is."""
    folder.mkdir(parents=True, exist_ok=True)
    centres = np.linspace((0.4, 0.6), (0.6, 0.45), frames)
    for index, (x, y) in enumerate(centres):
        Image.fromarray(spot(64, 48, x, y)).save(folder / f"{index:03}.png")
    np.savez(folder / "landmarks.npz", landmarks=mesh(centres) if landmarks is None else landmarks)
    return folder


def write_video(path: Path, frames: int) -> Path:
    """The same as a video, with its landmarks beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    centres = np.linspace((0.4, 0.6), (0.6, 0.45), frames)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.bit_rate = 2_000_000
        for x, y in centres:
            frame = av.VideoFrame.from_ndarray(spot(64, 48, x, y), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    np.savez(path.with_suffix(".npz"), landmarks=mesh(centres))
    return path


def cut(file: Path, length: int = 60) -> None:
    """Leave only the beginning of a file, as a download that broke off does."""
    file.write_bytes(file.read_bytes()[:length])
