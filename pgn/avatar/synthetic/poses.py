"""Poses: how a head is turned and what its face does, moving smoothly at random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pgn.avatar.synthetic.seeds import random_stream


@dataclass(frozen=True)
class Pose:
    """One frame. Of the directions, those of the image: x to the right, y down."""

    yaw: float = 0.0  # degrees, towards the right of the image
    pitch: float = 0.0  # degrees, downwards
    roll: float = 0.0  # degrees, clockwise
    x: float = 0.0  # shift of the head, fractions of the image's side
    y: float = 0.0
    scale: float = 1.0
    mouth: float = 0.0  # 0 closed to 1 open
    smile: float = 0.0  # -0.4 sad to 1
    brow: float = 0.0  # -0.5 frown to 1 raised
    blink: float = 0.0  # 0 open to 1 closed
    gaze_x: float = 0.0  # -1 to 1
    gaze_y: float = 0.0  # -1 to 1


RANGES = {  # what `poses` covers
    "yaw": (-35.0, 35.0),
    "pitch": (-20.0, 20.0),
    "roll": (-12.0, 12.0),
    "x": (-0.06, 0.06),
    "y": (-0.04, 0.04),
    "scale": (0.9, 1.1),
    "mouth": (-0.7, 1.0),  # below 0 it is closed
    "smile": (-0.4, 1.0),
    "brow": (-0.5, 1.0),
    "blink": (-2.5, 1.0),  # below 0 the eyes are open
    "gaze_x": (-1.0, 1.0),
    "gaze_y": (-0.8, 0.8),
}
SLOWEST, FASTEST = 24.0, 90.0  # periods in frames


def poses(seed: int, count: int) -> list[Pose]:
    """A smooth random trajectory of `count` frames at 25 a second.

    Ten seconds cover most of the ranges: `poses(seed, 256)[::16]` are 16 plainly different poses.
    """
    random = random_stream(seed, 2)
    paths = {name: _path(random, low, high, count) for name, (low, high) in RANGES.items()}
    for name in ("mouth", "blink"):
        paths[name] = np.maximum(paths[name], 0)
    return [Pose(**{name: float(path[k]) for name, path in paths.items()}) for k in range(count)]


def _path(random: np.random.Generator, low: float, high: float, count: int) -> NDArray[np.float64]:
    """Between `low` and `high`, (count,): the mean of three sines, stretched to fill the range."""
    periods = random.uniform(SLOWEST, FASTEST, (3, 1))
    phases = random.uniform(0, 2 * np.pi, (3, 1))
    sines = np.sin(2 * np.pi * np.arange(count) / periods + phases).mean(axis=0)
    share: NDArray[np.float64] = 0.5 + 0.5 * np.clip(1.4 * sines, -1, 1)
    return low + (high - low) * share
