"""The painted face: skin, beard, brows, eyes and mouth over the plane of the face."""

from __future__ import annotations

import numpy as np

from pgn.avatar.synthetic import features
from pgn.avatar.synthetic.background import column
from pgn.avatar.synthetic.features import IRIS, Brow, Eye, Mouth
from pgn.avatar.synthetic.head import JAW_DROP
from pgn.avatar.synthetic.identity import Face, Hair, Identity, Shape
from pgn.avatar.synthetic.poses import Pose
from pgn.avatar.synthetic.textures import (
    Field,
    Index,
    dots,
    fractal,
    mix,
    noise,
    smoothstep,
    strands,
)

BLACK = (0.05, 0.03, 0.03)
BEARD_FREQUENCY = 30.0  # hairs over a head unit
EDGE = 0.006  # head units over which painted edges are soft


def paint(identity: Identity, pose: Pose, x: Field, y: Field) -> Field:
    """Colours (3, M) of the head's front at places (M,) of its face, before light falls on it."""
    shape, face = identity.shape, identity.face
    mouth = features.mouth(shape, pose)
    resting = y - JAW_DROP * pose.mouth * smoothstep(mouth.y, 1.0, y)  # skin follows the jaw
    colour = _skin(face, shape, x, resting)
    _wrinkles(colour, identity, pose, x, y)
    _beard(colour, identity, x, resting)
    _nostrils(colour, shape, x, y)
    _mouth(colour, mouth, face, x, y)
    for brow in features.brows(shape, pose):
        _brow(colour, brow, face, identity.hair, x, y)
    for eye in features.eyes(shape, pose):
        _eye(colour, eye, face, x, y)
    return colour


def _inside(distance: Field) -> Field:
    """1 where a distance to an edge is positive, 0 outside, soft between."""
    return smoothstep(-EDGE, EDGE, distance)


def _near(x: Field, y: Field, centre: tuple[float, float], reach: tuple[float, float]) -> Index:
    """Indices of the places within a rectangle."""
    return np.flatnonzero(
        (np.abs(x - np.float32(centre[0])) < reach[0])
        & (np.abs(y - np.float32(centre[1])) < reach[1])
    )


def _blob(x: Field, y: Field, centre: tuple[float, float], radii: tuple[float, float]) -> Field:
    """A Gaussian on either side of the middle."""
    u, v = (np.abs(x) - centre[0]) / radii[0], (y - centre[1]) / radii[1]
    return np.exp(-(u * u + v * v))


def _skin(face: Face, shape: Shape, x: Field, y: Field) -> Field:
    skin = column(face.skin)
    ruddy = skin * column((1.02, 0.84, 0.82))
    blush = 0.6 * _blob(x, y, (0.36, 0.3), (0.16, 0.14)) + 0.6 * _blob(
        x, y, (0.0, shape.nose_tip), (0.1, 0.09)
    )
    colour = mix(skin, ruddy, blush) * (0.95 + 0.1 * fractal(x * 6 + 50, y * 6, 2))
    colour *= 0.97 + 0.06 * noise(x * 45, y * 45)
    tired = _blob(x, y, (shape.eye_distance, 0.09), (0.11, 0.04))
    colour *= 1 - column((0.12, 0.16, 0.12)) * tired
    if face.freckles:
        where = _blob(x, y, (0.24, 0.27), (0.3, 0.22)) * face.freckles
        speck = dots(x * 24 + 7, y * 24 + 3, 0.75) * np.minimum(1.4 * where, 1)
        colour = mix(colour, colour * column((0.68, 0.52, 0.42)), speck)
    return colour


def _wrinkles(colour: Field, identity: Identity, pose: Pose, x: Field, y: Field) -> None:
    """Lines over the forehead, where brows are raised, and from the nose to the mouth."""
    shape, age = identity.shape, identity.face.wrinkles
    where = _near(x, y, (0, -0.38), (0.4, 0.16))
    u, v = x[where], y[where]
    lines = np.exp(-((np.sin(38 * (v + 0.06 * u * u) + 1.5 * noise(u * 5, v * 3)) / 0.35) ** 2))
    fade = smoothstep(0.4, 0.2, np.abs(u)) * smoothstep(0.16, 0.08, np.abs(v + 0.38))
    colour[:, where] *= 1 - (0.1 * age + 0.12 * max(pose.brow, 0)) * lines * fade
    where = _near(x, y, (0, 0.55), (0.45, 0.2))
    u, v = np.abs(x[where]), y[where]
    fall = (v - shape.nose_tip) / (shape.mouth_height - shape.nose_tip)
    fold = 0.17 * shape.nose_width + (0.09 + 0.02 * pose.smile) * fall
    line = np.exp(-(((u - fold) / 0.018) ** 2)) * smoothstep(-0.1, 0.2, fall)
    depth = 0.06 + 0.14 * age + 0.16 * max(pose.smile, 0)
    colour[:, where] *= 1 - depth * line * smoothstep(1.15, 0.7, fall)


def _beard(colour: Field, identity: Identity, x: Field, y: Field) -> None:
    face, shape = identity.face, identity.shape
    if not face.beard and not face.moustache:
        return
    where = _near(x, y, (0, 0.6), (1, 0.7))
    u, v = x[where], y[where]
    rim = 0.72 - 0.5 * smoothstep(0.2, 0.6, np.abs(u)) + 0.1 * noise(u * 14, v * 14)
    jaw = smoothstep(rim, rim + 0.2, v) * face.beard
    lip = shape.mouth_height - 0.06
    across = smoothstep(0.28, 0.2, np.abs(u))
    upper = smoothstep(shape.nose_tip + 0.07, lip - 0.05, v) * smoothstep(lip + 0.12, lip, v)
    density = np.maximum(jaw, upper * across * face.moustache)
    hairs = strands(u * BEARD_FREQUENCY, v * BEARD_FREQUENCY / 4, 0.15)
    cover = np.clip(density * (0.35 + 1.1 * hairs), 0, 0.95)
    hair = column(identity.hair.colour) * (0.6 + 0.6 * hairs)
    colour[:, where] = mix(colour[:, where], hair, cover)


def _nostrils(colour: Field, shape: Shape, x: Field, y: Field) -> None:
    where = _near(x, y, (0, shape.nose_tip + 0.05), (0.25, 0.12))
    u, v = x[where], y[where]
    hole = _blob(u, v, (0.065 * shape.nose_width, shape.nose_tip + 0.055), (0.035, 0.018))
    under = _blob(u, v, (0.0, shape.nose_tip + 0.085), (0.13 * shape.nose_width, 0.03))
    wing = _blob(u, v, (0.155 * shape.nose_width, shape.nose_tip + 0.02), (0.018, 0.045))
    colour[:, where] *= (1 - 0.8 * hole) * (1 - 0.22 * under) * (1 - 0.2 * wing)


def _mouth(colour: Field, mouth: Mouth, face: Face, x: Field, y: Field) -> None:
    reach = (mouth.width * 1.05, 0.2 + mouth.opening)
    where = _near(x, y, (0, mouth.y + 0.4 * mouth.opening), reach)
    u, v = x[where], y[where]
    s = np.clip(mouth.s(u), -1.05, 1.05)
    top, bottom = mouth.outer_upper(s), mouth.outer_lower(s)
    upper, lower = mouth.inner_upper(s), mouth.inner_lower(s)
    creases = 0.86 + 0.28 * noise(u * 60, v * 6)
    shine = np.exp(-(((v - 0.45 * lower - 0.55 * bottom) / 0.014) ** 2)) * (1 - s * s)
    shaded = 0.86 + 0.14 * _inside(v - upper)
    lips = column(face.lips) * creases * shaded + 0.16 * shine
    on_lips = _inside(np.minimum(v - top, bottom - v))
    seam = np.exp(-(((v - upper) / 0.009) ** 2)) * (np.abs(s) < 1)
    painted = mix(colour[:, where], lips, 0.9 * on_lips)
    painted *= 1 - 0.65 * seam
    open_mouth = _inside(np.minimum(v - upper, lower - v) - EDGE)
    colour[:, where] = mix(painted, _within_mouth(mouth, u, v), open_mouth)


def _within_mouth(mouth: Mouth, x: Field, y: Field) -> Field:
    """Teeth, tongue and the dark between."""
    gap = smoothstep(0.08, 0.2, np.abs(x / 0.042 - np.round(x / 0.042)))
    edge = mouth.y - 0.2 * mouth.opening + 0.055
    teeth = smoothstep(edge + EDGE, edge - EDGE, y) * smoothstep(0.2, 0.12, np.abs(x))
    tongue = _blob(x, y, (0.0, mouth.y + 0.75 * mouth.opening), (0.1, 0.05))
    inside = mix(column((0.16, 0.04, 0.04)), column((0.62, 0.27, 0.27)), tongue)
    return mix(inside, column((0.93, 0.9, 0.84)) * (0.8 + 0.2 * gap), teeth)


def _brow(colour: Field, brow: Brow, face: Face, hair: Hair, x: Field, y: Field) -> None:
    where = _near(x, y, (brow.x, brow.y), (1.2 * brow.width, 0.14))
    u, v = x[where], y[where]
    s = brow.s(u)
    thickness = face.brow_thickness * (1.15 - 0.35 * smoothstep(0.1, 1, s))
    off = np.abs(v - brow.line(np.clip(s, -1, 1.1))) / thickness
    hairs = strands((v * 1.2 - brow.side * u) * 40 + brow.side * s, s * 1.5, 0.05)
    ends = smoothstep(1.1, 0.8, np.abs(s + 0.03))
    cover = smoothstep(1.5, 0.5, off + 0.9 * (hairs - 0.5)) * ends
    tone = column(hair.colour) * 0.7 * (0.6 + 0.7 * hairs)
    colour[:, where] = mix(colour[:, where], tone, 0.9 * cover)


def _eye(colour: Field, eye: Eye, face: Face, x: Field, y: Field) -> None:
    where = _near(x, y, (eye.x, 0), (1.5 * eye.width, 1.3 * eye.width))
    u, v = x[where], y[where]
    s = eye.s(u)
    top, bottom = eye.lid(s, eye.upper), eye.lid(s, -eye.lower)
    around = colour[:, where]
    lidded = smoothstep(1.25, 0.9, np.abs(s))
    crease = top - 0.028 - 0.02 * max(eye.upper, 0) / eye.width
    around *= 1 - 0.3 * np.exp(-(((v - crease) / 0.009) ** 2)) * lidded
    shadow = smoothstep(-0.11, -0.03, v - top) * (v < top) * lidded
    around = mix(around, around * column((0.6, 0.45, 0.5)), face.shadow * shadow)
    ball = _eyeball(eye, face, u, v) * (0.62 + 0.38 * smoothstep(0.0, 0.035, v - top))
    opening = _inside(np.minimum(v - top, bottom - v)) * (np.abs(s) < 1)
    around = mix(around, ball, opening)
    lashes = _lashes(eye, s, top - v) * (0.75 + 0.25 * face.shadow)
    around = mix(around, column(BLACK), lashes)
    rim = 0.3 * np.exp(-(((v - bottom) / 0.008) ** 2)) * (np.abs(s) < 1)
    colour[:, where] = around * (1 - rim)


def _lashes(eye: Eye, s: Field, above: Field) -> Field:
    """How dark the lash line is, and hairs that stand `above` it, longer outwards."""
    line = np.exp(-((above / 0.011) ** 2)) * (np.abs(s) < 1.02)
    length = 0.035 + 0.02 * s
    hairs = smoothstep(0.45, 0.75, noise(s * 14 - above * eye.side * 60 + 9, above * 0))
    standing = hairs * smoothstep(length, 0.0, above) * (above > 0) * (np.abs(s) < 1.0)
    darkness: Field = np.maximum(line, 0.7 * standing)
    return darkness


def _eyeball(eye: Eye, face: Face, x: Field, y: Field) -> Field:
    radius = IRIS * eye.width
    u, v = (x - eye.iris_x) / radius, (y - eye.iris_y) / radius
    distance = np.sqrt(u * u + v * v)
    white = column((0.93, 0.91, 0.89)) * (1 - 0.2 * np.abs(eye.s(x)) ** 3)
    rays = noise(np.arctan2(v, u) * 7 + 40, distance * 2)
    iris = column(face.iris) * (0.65 + 0.8 * rays) * (0.75 + 0.5 * smoothstep(0.3, 0.7, distance))
    iris = iris * (1 - 0.65 * smoothstep(0.78, 0.98, distance))
    ball = mix(white, iris, smoothstep(1.06, 0.94, distance))
    ball = mix(ball, column(BLACK), smoothstep(0.45, 0.36, distance))
    glint = smoothstep(0.26, 0.12, np.hypot(u + 0.3, v + 0.32))
    return mix(ball, column((1.0, 1.0, 1.0)), glint)
