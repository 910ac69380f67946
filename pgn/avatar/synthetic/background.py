"""Rooms and clothes: textures of the plane behind a person, and of a jersey."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pgn.avatar.synthetic.identity import Colour, Scene
from pgn.avatar.synthetic.seeds import random_stream
from pgn.avatar.synthetic.textures import (
    Field,
    bricks,
    checks,
    dots,
    fractal,
    mix,
    noise,
    shelves,
    smoothstep,
    stripes,
)


def column(colour: Colour) -> Field:
    """A colour as (3, 1), to go with fields of (3, M)."""
    return np.array(colour, np.float32)[:, None]


def room(scene: Scene, seed: int, size: int) -> Field:
    """The wall behind a person, (3, size * size); it does not move with them."""
    places = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = (field.ravel() for field in np.meshgrid(places, places))
    offset, zoom, slope = random_stream(seed, 3).uniform((0, 0.8, -0.5), (90, 1.3, 0.5))
    u, v = (x * np.float32(zoom) + np.float32(offset)), y * np.float32(zoom) + np.float32(offset)
    wall = _WALLS[scene.background](scene, u, v)
    shade = 0.85 + 0.3 * (0.5 - y) + np.float32(slope) * (x - 0.5)
    return wall * np.clip(shade, 0.4, 1.2)


def _plain(scene: Scene, u: Field, v: Field) -> Field:
    plaster = 0.92 + 0.16 * (fractal(u * 30, v * 30, 3) - 0.5)
    return column(scene.wall) * plaster


def _bokeh(scene: Scene, u: Field, v: Field) -> Field:
    dim = mix(column(scene.wall), column(scene.wall_second), fractal(u * 3, v * 3, 2)) * 0.5
    for frequency in (4, 7):
        warm = np.stack([noise(u * frequency + k, v * frequency) for k in (3, 11, 23)]) + 0.2
        dim = dim + 0.5 * warm * dots(u * frequency, v * frequency, 0.6)
    return dim


def _bricks(scene: Scene, u: Field, v: Field) -> Field:
    stone = bricks(u * 6, v * 6)
    rough = 0.85 + 0.3 * fractal(u * 50, v * 50, 2)
    return mix(column(scene.wall_second), column(scene.wall) * stone, smoothstep(0, 0.3, stone)) * (
        rough
    )


def _shelves(scene: Scene, u: Field, v: Field) -> Field:
    hue = shelves(u * 2.5, v * 4)
    back = np.stack([0.55 + 0.45 * np.cos(6.2832 * (hue + shift)) for shift in (0, 0.2, 0.45)])
    board = column(scene.wall) * 0.45
    lettered = 0.75 + 0.25 * noise(u * 20, v * 90)
    return np.where(hue > 0, mix(back, column(scene.wall_second), 0.45) * lettered, board)


def _wood(scene: Scene, u: Field, v: Field) -> Field:
    plank = np.floor(u * 5)
    grain = noise(u * 60 + 4 * noise(u * 4, v * 5 + plank * 9), v * 3 + plank * 17)
    gap = smoothstep(0.02, 0.05, u * 5 - plank)
    tone = 0.8 + 0.2 * noise(plank * 7.3, plank * 3.1) + 0.3 * (grain - 0.5)
    return mix(column(scene.wall), column((0.5, 0.35, 0.2)), 0.5) * tone * (0.4 + 0.6 * gap)


def _stripes(scene: Scene, u: Field, v: Field) -> Field:
    paper = mix(column(scene.wall), column(scene.wall_second), 0.6 * stripes(u * 9))
    return paper * (0.9 + 0.2 * noise(u * 60, v * 60))


_WALLS: dict[str, Callable[[Scene, Field, Field], Field]] = {
    "plain": _plain,
    "bokeh": _bokeh,
    "bricks": _bricks,
    "shelves": _shelves,
    "wood": _wood,
    "stripes": _stripes,
}


def cloth(scene: Scene, x: Field, y: Field) -> Field:
    """A jersey's colours (3, M), at places in head units."""
    weave = 0.85 + 0.3 * noise(x * 40, y * 40)
    first, second = column(scene.cloth), column(scene.cloth_second)
    return mix(first, second, _PATTERNS[scene.pattern](x, y)) * weave


def _no_pattern(x: Field, y: Field) -> Field:
    return 0.15 * fractal(x * 4, y * 4, 2)


def _knit(x: Field, y: Field) -> Field:
    return 0.5 * (0.5 + 0.5 * np.sin(60 * x + 2.5 * np.sin(50 * y)))


_PATTERNS: dict[str, Callable[[Field, Field], Field]] = {
    "plain": _no_pattern,
    "stripes": lambda x, y: stripes(y * 5),
    "checks": lambda x, y: checks(x * 4, y * 4),
    "dots": lambda x, y: dots(x * 7, y * 7, 0.9),
    "knit": _knit,
}
