"""Hair: a shell over the skull that ends at the hairline, a curtain behind the neck, a bun."""

from __future__ import annotations

import numpy as np

from pgn.avatar.synthetic.background import column
from pgn.avatar.synthetic.geometry import Ellipsoid
from pgn.avatar.synthetic.identity import Hair, Shape
from pgn.avatar.synthetic.textures import Field, mix, noise, smoothstep, strands

BACK = -0.5  # height at which short hair ends at the back


def shell(shape: Shape, hair: Hair) -> Ellipsoid:
    """Hair over the skull; taller and deeper than it is wide."""
    thick = hair.volume
    return Ellipsoid(
        (0.0, -0.03, -0.06),
        (shape.width + 0.8 * thick, 1.0 + 0.8 * thick, shape.depth + 0.04 + thick),
    )


def curtain(shape: Shape, hair: Hair) -> Ellipsoid:
    """Long hair, behind the face and down to the shoulders."""
    return Ellipsoid(
        (0.0, 0.1 + 0.5 * hair.length, -0.4),
        (shape.width + 0.1 + hair.volume + 0.1 * hair.curl, 0.75 + 0.6 * hair.length, 0.5),
    )


def bun(hair: Hair) -> Ellipsoid:
    return Ellipsoid((0.0, -1.08 - hair.volume, -0.25), (0.3, 0.27, 0.3))


def cover(hair: Hair, direction: Field, facing: Field) -> Field:
    """How much hair covers the shell (M,) in these directions (3, M) from its middle.

    Where the surface turns away, `facing` (M,) near 0, single hairs stand out.
    """
    x, y, _ = direction
    fringe = strands(x * 22, y * 0, hair.curl) - 0.5  # the tips differ in length
    covered = smoothstep(-0.03, 0.03, within(hair, direction) + (0.12 + 0.1 * hair.curl) * fringe)
    loose = noise(np.arctan2(x, -y) * 45, facing * 3)
    return covered * smoothstep(0.0, 0.25, facing - 0.3 * loose + 0.12)


def within(hair: Hair, direction: Field) -> Field:
    """How far (M,) directions lie within the hairline; negative outside."""
    x, y, z = direction
    temple = smoothstep(0.5, 0.88, np.abs(x) + 0.1 * noise(y * 6 + 40, x * 3))
    swept = hair.front - 0.25 * hair.part * x
    front = mix(swept, np.full_like(x, hair.side), temple)
    back = np.full_like(x, min(BACK, hair.side))
    line = mix(back, front, smoothstep(-0.3, 0.0, z))
    above: Field = -y - line
    return above


def shell_colour(hair: Hair, direction: Field) -> Field:
    """Strands (3, M) that run down from the parting."""
    x, y, z = direction
    around = np.arctan2(x - hair.part * np.maximum(-y, 0), np.abs(z) + 0.25)
    down = np.arccos(np.clip(-y, -1, 1))
    texture = _texture(hair, around * 13, down)
    gloss = np.exp(-(((down - 0.75 - 0.2 * texture) / 0.22) ** 2)) * (z > -0.2)
    return _toned(hair, texture, gloss)


def curtain_colour(hair: Hair, direction: Field) -> Field:
    """Strands (3, M) that hang."""
    x, y, _ = direction
    texture = _texture(hair, x * 14, y)
    shade: Field = 0.85 - 0.1 * y
    return _toned(hair, texture, np.zeros_like(x)) * shade


def _texture(hair: Hair, across: Field, along: Field) -> Field:
    locks = noise(across * 0.45 + 2 * hair.curl * noise(across * 0.2, along * 3), along)
    curls = noise(across * 1.1, along * 9)
    fine = mix(strands(across * 1.6, along * 2, hair.curl), curls, 0.5 * hair.curl)
    return 0.35 * locks + 0.65 * fine


def _toned(hair: Hair, texture: Field, gloss: Field) -> Field:
    colour = column(hair.colour) * (0.35 + 1.3 * texture)
    return colour + gloss * (0.08 + 0.5 * column(hair.colour)) * texture
