"""Facial landmarks on the device: FaceMesh's 478 points drawn as coloured lines, in numpy.

It repeats pgn.avatar.landmarks, with which the avatar was trained: the same table, and the same
float32 operations in the same order, so that both give the same pixels, bit for bit on a CPU.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pgn_runtime.errors import RuntimeInputError
from pgn_runtime.files import Pixels

Colour = tuple[float, float, float]
Points = NDArray[np.float32]


class Group(NamedTuple):
    """One line of the drawing."""

    indices: tuple[int, ...]  # of FaceMesh, in the order of drawing
    closed: bool
    colour: Colour  # RGB, [0, 1]


OVAL = (10, 297, 284, 389, 454, 361, 397, 379, 400, 152, 176, 150, 172, 132, 234, 162, 54, 67)
OUTER_LIPS = (61, 40, 37, 0, 267, 270, 291, 321, 314, 17, 84, 91)

GROUPS = {  # left and right are the person's
    "oval": Group(OVAL, True, (0.0, 0.0, 1.0)),
    "right_brow": Group((70, 63, 105, 66, 107), False, (1.0, 0.5, 0.0)),
    "left_brow": Group((336, 296, 334, 293, 300), False, (1.0, 1.0, 0.0)),
    "right_eye": Group((33, 160, 159, 158, 133, 153, 145, 144), True, (0.0, 1.0, 0.0)),
    "left_eye": Group((362, 385, 386, 387, 263, 373, 374, 380), True, (0.0, 1.0, 0.5)),
    "right_iris": Group((469, 470, 471, 472), True, (1.0, 1.0, 1.0)),
    "left_iris": Group((474, 475, 476, 477), True, (1.0, 1.0, 1.0)),
    "nose_bridge": Group((168, 197, 5, 1), False, (0.0, 1.0, 1.0)),
    "nose_bottom": Group((64, 97, 2, 326, 294), False, (0.0, 0.5, 1.0)),
    "outer_lips": Group(OUTER_LIPS, True, (1.0, 0.0, 0.0)),
    "inner_lips": Group((78, 81, 13, 311, 308, 402, 14, 178), True, (1.0, 0.0, 1.0)),
}
POINTS = tuple(index for group in GROUPS.values() for index in group.indices)
MESH_POINTS = 478  # FaceMesh with irises
HALF_WIDTH = 0.75 / 128  # of a line, as a fraction of the side
MAX_VALUE = 4.0  # fractions of the side; no pose of a face leaves [0, 1] by more, pixels do
TINY = 1e-12  # pixels^2: the length of a segment between equal points


def compact(mesh: NDArray[Any]) -> Points:
    """Our landmarks (N, L, 2), float32, out of FaceMesh's (N, 478, 2); L = len(POINTS).

    Raises:
        RuntimeInputError: another shape, or NaN or infinite values.
    """
    return _checked("mesh", mesh, MESH_POINTS)[:, list(POINTS)]


def draw(landmarks: NDArray[Any], size: int) -> Pixels:
    """Anti-aliased coloured lines, (N, 3, size, size) float32 in [0, 1], on black.

    Args:
        landmarks: (N, L, 2), x then y, fractions of the side; may lie outside of the image.
        size: pixels.

    Raises:
        RuntimeInputError: another number of landmarks, NaN, values that are no fractions, or no
            size.
    """
    if size < 1:
        raise RuntimeInputError(f"size: got {size}, expected 1 pixel or more.")
    pixels = _checked("landmarks", landmarks, len(POINTS)) * size - 0.5  # 0 is a pixel's centre
    image = np.zeros((len(pixels), 3, size, size), np.float32)
    first = 0
    for group in GROUPS.values():
        points = pixels[:, first : first + len(group.indices)]
        first += len(group.indices)
        coverage = _line(points, group.closed, size)
        for channel, intensity in enumerate(group.colour):
            if intensity:
                image[:, channel] = np.maximum(image[:, channel], coverage * intensity)
    return image


def _line(points: Points, closed: bool, size: int) -> Pixels:
    """How much of each pixel a line through `points` (N, P, 2) covers, (N, size, size).

    Each segment is looked at in a window of its own; the windows, of one side, are large enough
    for the longest.
    """
    start, end = points, np.roll(points, -1, 1)
    if not closed:
        start, end = start[:, :-1], end[:, :-1]
    reach = HALF_WIDTH * size + 0.5
    low = np.minimum(start, end) - reach
    extent = np.maximum(start, end) + reach - low
    side = min(size, math.ceil(float(extent.max())) + 1)
    corner = np.floor(low).clip(0, size - side)[..., None]  # (N, S, 2, 1)
    window = corner + np.arange(side, dtype=np.float32)
    columns, rows = window[:, :, 0], window[:, :, 1]  # (N, S, side)
    squared = _squared_distance(columns[:, :, None, :], rows[:, :, :, None], start, end)
    fall = 0.5 / (reach - 0.5)  # so that the edge is a pixel wide
    coverage = ((reach * reach - squared) * fall).clip(0, 1)  # (N, S, side, side)

    image = np.arange(len(points))[:, None, None, None] * size
    place = (image + rows.astype(int)[:, :, :, None]) * size + columns.astype(int)[:, :, None, :]
    canvas = np.zeros(len(points) * size * size, np.float32)
    np.maximum.at(canvas, place.ravel(), coverage.ravel())
    return canvas.reshape(len(points), size, size)


def _squared_distance(x: Points, y: Points, start: Points, end: Points) -> Points:
    """Pixels^2 from (x, y), (N, S, 1, side) and (N, S, side, 1), to the segments (N, S, 2).

    No root is taken: not every library rounds it exactly.
    """
    start_x, start_y = (start[..., axis, None, None] for axis in (0, 1))
    run_x, run_y = ((end - start)[..., axis, None, None] for axis in (0, 1))
    squared = (run_x * run_x + run_y * run_y).clip(min=TINY)
    along = (((x - start_x) * run_x + (y - start_y) * run_y) / squared).clip(0, 1)
    gap_x, gap_y = x - (start_x + along * run_x), y - (start_y + along * run_y)
    squared_gap: Points = gap_x * gap_x + gap_y * gap_y
    return squared_gap


def _checked(name: str, points: NDArray[Any], count: int) -> Points:
    """`points` as float32, where they are (N, count, 2) fractions of the side."""
    shape = points.shape
    if len(shape) != 3 or shape[0] == 0 or shape[1:] != (count, 2):
        known = {MESH_POINTS: "FaceMesh with irises", len(POINTS): "landmarks.compact(mesh)"}
        raise RuntimeInputError(
            f"{name}: got shape {shape}, expected (N, {count}, 2): {known[count]}."
        )
    largest = float(np.abs(points).max())  # NaN where one is
    if not largest <= MAX_VALUE:
        raise RuntimeInputError(
            f"{name}: got NaN or values up to {largest:.3g}, expected fractions of the image's "
            f"side. Divide pixels by the side; leave out frames in which no face was found."
        )
    return points.astype(np.float32)
