"""Procedural textures: functions of coordinates, so that what they paint sticks to the surface.

Values are float32 arrays of any one shape; colours are (3, M) against coordinates (M,).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]
Index = NDArray[np.intp]

_LATTICE = np.random.default_rng(1905).random(256 * 256, dtype=np.float32)  # repeats thereafter


def smoothstep(low: float | Field, high: float | Field, x: Field) -> Field:
    """0 below `low`, 1 above `high`, smooth between."""
    t: Field = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def mix(a: Field, b: Field, weight: float | Field) -> Field:
    """`a` where the weight is 0, `b` where it is 1."""
    return a + (b - a) * weight


def noise(u: Field, v: Field) -> Field:
    """Smooth value noise in [0, 1], one lattice cell a unit (Perlin's interpolation)."""
    column, row = np.floor(u), np.floor(v)
    s, t = u - column, v - row
    s, t = s * s * (3 - 2 * s), t * t * (3 - 2 * t)
    left, top = column.astype(np.int32) & 255, (row.astype(np.int32) & 255) << 8
    right, bottom = (left + 1) & 255, (top + 256) & 65535
    upper = mix(_LATTICE[top + left], _LATTICE[top + right], s)
    lower = mix(_LATTICE[bottom + left], _LATTICE[bottom + right], s)
    return mix(upper, lower, t)


def fractal(u: Field, v: Field, octaves: int) -> Field:
    """Noise of doubling frequency and halving strength, in [0, 1]."""
    total = noise(u, v)
    for octave in range(1, octaves):
        total = total + noise(u * 2**octave + 17, v * 2**octave + 31) / 2**octave
    return total / (2 - 0.5 ** (octaves - 1))


def _cells(column: Field, row: Field) -> Index:
    """A number for every cell of the lattice."""
    return (column.astype(np.intp) & 255) + ((row.astype(np.intp) & 255) << 8)


def _chance(cells: Index, draw: int) -> Field:
    """The cells' random numbers in [0, 1), others for every `draw`."""
    numbers: Field = _LATTICE[(cells + 7919 * draw) & 65535]
    return numbers


def dots(u: Field, v: Field, share: float) -> Field:
    """Soft dots at random places, one in a unit cell or none; `share` of the cells have one."""
    column, row = np.floor(u), np.floor(v)
    cells = _cells(column, row)
    x, y, size = (_chance(cells, draw) for draw in (0, 1, 2))
    off = np.hypot(u - column - 0.3 - 0.4 * x, v - row - 0.3 - 0.4 * y)
    dot = smoothstep(0.0, 0.5, 1 - off / (0.1 + 0.2 * size))
    return np.where(_chance(cells, 3) < share, dot, np.float32(0))


def strands(across: Field, along: Field, curl: float) -> Field:
    """Hair in [0, 1]: lines that change quickly across and slowly along; they wave by `curl`."""
    wave = curl * (noise(across * 0.15, along * 2.0) - 0.5)
    return 0.6 * noise(across + 12 * wave, along * 0.7) + 0.4 * noise(
        across * 2.7 + 20 * wave, along * 1.3 + 50
    )


def shelves(u: Field, v: Field) -> Field:
    """A hue in [0, 1) for every book on shelves, 0 in the gaps; a unit is a shelf."""
    row = np.floor(v)
    slanted = u * 7 + 1.5 * noise(u * 3, row * 5)
    book = np.floor(slanted)
    cells = _cells(book, row)
    tall = v - row > 0.1 + 0.25 * _chance(cells, 1)
    seen = tall & (slanted - book > 0.12) & (v - row < 0.94)
    return np.where(seen, _chance(cells, 0), np.float32(0))


def bricks(u: Field, v: Field) -> Field:
    """Shades of bricks in [0.5, 1], mortar 0; a unit is a brick."""
    row = np.floor(v * 2)
    shifted = u + 0.5 * (row % 2)
    column = np.floor(shifted)
    inside = (shifted - column > 0.06) & (v * 2 - row > 0.12)
    return np.where(inside, 0.5 + 0.5 * _chance(_cells(column, row), 0), np.float32(0))


def checks(u: Field, v: Field) -> Field:
    """A woven check in [0, 1]; a unit is its period."""
    return 0.5 * smoothstep(-0.2, 0.2, np.sin(6.2832 * u)) + 0.5 * smoothstep(
        -0.2, 0.2, np.sin(6.2832 * v)
    )


def stripes(u: Field) -> Field:
    """Soft-edged stripes, 0 and 1; a unit is their period."""
    return smoothstep(-0.25, 0.25, np.sin(6.2832 * u))
