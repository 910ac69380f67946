"""Rendering: solids by depth, each painted in its own coordinates and lit by one light.

Every pixel's ray is followed to the surfaces, so textures stick to the head as it turns; four rays
a pixel smooth the edges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pgn.avatar.synthetic import face, features, hair
from pgn.avatar.synthetic.background import cloth, column, room
from pgn.avatar.synthetic.geometry import (
    Ellipsoid,
    Rays,
    camera_rays,
    dot,
    head_rays,
    rotation,
    unit,
)
from pgn.avatar.synthetic.head import Head
from pgn.avatar.synthetic.identity import Glasses, Identity, Shape
from pgn.avatar.synthetic.poses import Pose
from pgn.avatar.synthetic.textures import Field, Mask, mix, smoothstep
from pgn.errors import PgnError

RAYS = 2  # a pixel, in either direction
MIN_SIZE = 16
FAR = -1e6
BRIGHTEST = 1.03  # light on a surface that faces it
NECK = Ellipsoid((0.0, 1.25, -0.3), (0.37, 1.0, 0.4))


def render(identity: Identity, poses: Sequence[Pose], size: int = 128) -> tuple[Tensor, Tensor]:
    """Photos of a person, and where their landmarks lie.

    Returns:
        images uint8 (K, 3, size, size), RGB; landmarks float32 (K, L, 2), x then y, fractions of
        the side, in the order of pgn.avatar.landmarks.POINTS. Hidden landmarks are given too.

    Raises:
        PgnError: no pose, or a size below MIN_SIZE.
    """
    if not poses:
        raise PgnError("poses: got none, expected one or more.")
    if size < MIN_SIZE:
        raise PgnError(f"size: got {size}, expected {MIN_SIZE} pixels or more.")
    wall = room(identity.scene, identity.seed, size * RAYS)
    images = [_photo(identity, pose, wall, size) for pose in poses]
    points = [features.image_landmarks(identity, pose) for pose in poses]
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(points))


@dataclass
class _Canvas:
    """What has been seen along each ray so far."""

    colour: Field  # (3, P)
    depth: Field  # (P,)

    def add(self, met: Mask, depth: Field, colour: Field, opacity: Field | float = 1.0) -> None:
        """Colours (3, M) of a surface that the rays `met`, shown where nothing is before it."""
        where = np.flatnonzero(met)
        weight = opacity * (depth > self.depth[where]).astype(np.float32)
        self.colour[:, where] = mix(self.colour[:, where], colour, weight)
        self.depth[where] = np.where(weight > 0.5, depth, self.depth[where])


@dataclass(frozen=True)
class _View:
    """Rays and light in the frame of what they fall on."""

    rays: Rays
    to_light: Field  # (3, 1)
    ambient: float
    tint: Field  # (3, 1)

    def light(self, normal: Field) -> Field:
        """What the colours of a surface with these normals (3, M) are multiplied with."""
        diffuse: Field = np.maximum(0.25 + 0.75 * dot(normal, self.to_light), 0)
        return self.tint * (self.ambient + (BRIGHTEST - self.ambient) * diffuse)

    def gloss(self, normal: Field) -> Field:
        """Highlights (M,) in [0, 1] (Blinn and Phong's)."""
        half = unit(self.to_light + self.rays.towards)
        highlight: Field = np.maximum(dot(normal, half), 0) ** 24
        return highlight


def _photo(identity: Identity, pose: Pose, wall: Field, size: int) -> NDArray[np.uint8]:
    """(3, size, size)."""
    scene, fine = identity.scene, size * RAYS
    canvas = _Canvas(wall.copy(), np.full(fine * fine, FAR, np.float32))
    rays = camera_rays(pose, fine)
    to_light = unit(column((*scene.light, 0.75)))
    still = _View(rays, to_light, scene.ambient, column(scene.tint))
    turned = replace(still, rays=head_rays(rays, pose), to_light=rotation(pose).T @ to_light)
    _draw_body(canvas, identity, still)
    _draw_head(canvas, identity, pose, turned)
    _draw_ears(canvas, identity, turned)
    if identity.hair.volume:
        _draw_hair(canvas, identity, turned)
    if identity.glasses:
        _draw_glasses(canvas, identity.glasses, identity.shape, turned.rays)
    pixels: Field = canvas.colour.reshape(3, size, RAYS, size, RAYS).mean(axis=(2, 4))
    return np.round(pixels.clip(0, 1) * 255).astype(np.uint8)


def _draw_solid(
    canvas: _Canvas, solid: Ellipsoid, view: _View, paint: Callable[[Field], Field]
) -> None:
    """`paint` gives the colours (3, M) at points (3, M) of the surface."""
    met, depth = solid.hit(view.rays)
    points = view.rays[met].at(depth)
    canvas.add(met, depth, paint(points) * view.light(solid.normal(points)))


def _draw_body(canvas: _Canvas, identity: Identity, view: _View) -> None:
    """Neck and shoulders; they move with the head and do not turn."""
    scene, skin = identity.scene, column(identity.face.skin)

    def neck(points: Field) -> Field:
        return skin * (0.55 + 0.45 * smoothstep(0.95, 1.5, points[1]))  # the chin's shadow

    def torso(points: Field) -> Field:
        x, y, _ = points
        opening = scene.neckline + 1.4 - 0.9 * np.abs(x)
        seam = 1 - 0.35 * np.exp(-(((y - opening - 0.05) / 0.015) ** 2))
        chest = skin * (0.8 + 0.2 * smoothstep(1.3, 1.7, y))
        collar = smoothstep(opening - 0.02, opening + 0.02, y)
        return mix(chest, cloth(scene, x, y) * seam, collar)

    _draw_solid(canvas, NECK, view, neck)
    _draw_solid(canvas, Ellipsoid((0.0, 2.38, -0.4), (scene.shoulders, 1.1, 0.7)), view, torso)


def _draw_head(canvas: _Canvas, identity: Identity, pose: Pose, view: _View) -> None:
    head = Head(identity.shape, pose)
    met, depth = head.hit(view.rays)
    points = view.rays[met].at(depth)
    colour = face.paint(identity, pose, points[0], points[1])
    if identity.hair.volume:
        roots = unit(hair.shell(identity.shape, identity.hair).direction(points))
        shadow = smoothstep(-0.12, 0.05, hair.within(identity.hair, roots))
        colour = colour * (1 - 0.25 * shadow)
    normal = head.normal(points)
    canvas.add(met, depth, colour * (view.light(normal) + 0.07 * view.gloss(normal)))


def _draw_ears(canvas: _Canvas, identity: Identity, view: _View) -> None:
    shape, skin = identity.shape, column(identity.face.skin)
    for side in (-1, 1):
        ear = Ellipsoid((side * (shape.width - 0.02), 0.14, -0.12), (0.1, 0.21 * shape.ears, 0.13))

        def paint(points: Field, ear: Ellipsoid = ear) -> Field:
            x, y, _ = ear.direction(points)
            fold: Field = np.exp(-(((np.hypot(x * 1.3, y) - 0.55) / 0.14) ** 2))
            return skin * column((1.0, 0.88, 0.85)) * (1 - 0.4 * fold)

        _draw_solid(canvas, ear, view, paint)


def _draw_hair(canvas: _Canvas, identity: Identity, view: _View) -> None:
    style, shape = identity.hair, identity.shape
    if style.length:
        behind = hair.curtain(shape, style)
        _draw_solid(
            canvas, behind, view, lambda at: hair.curtain_colour(style, behind.direction(at))
        )
    if style.bun:
        knot = hair.bun(style)
        _draw_solid(canvas, knot, view, lambda at: hair.shell_colour(style, knot.direction(at)))
    skull = hair.shell(shape, style)
    met, depth = skull.hit(view.rays)
    points = view.rays[met].at(depth)
    direction, normal = skull.direction(points), skull.normal(points)
    strands = hair.shell_colour(style, direction) * view.light(normal)
    cover = hair.cover(style, direction, dot(normal, view.rays.towards))
    canvas.add(met, depth, strands, cover)


def _draw_glasses(canvas: _Canvas, glasses: Glasses, shape: Shape, rays: Rays) -> None:
    """A flat pair before the eyes, with a streak of light on either glass."""
    plane = shape.depth + 0.1
    depth = (plane - rays.origin[2]) / rays.towards[2]
    x, y, _ = rays.at(depth)
    near = (np.abs(x) < 0.6) & (np.abs(y) < 0.3)
    x, y, depth = np.abs(x[near]), y[near] - 0.02, depth[near]
    corner = glasses.roundness * min(glasses.width, glasses.height)
    u = np.maximum(np.abs(x - shape.eye_distance) - glasses.width + corner, 0)
    v = np.maximum(np.abs(y) - glasses.height + corner, 0)
    edge = np.hypot(u, v) - corner
    frame = smoothstep(glasses.thickness, 0.6 * glasses.thickness, np.abs(edge))
    bridge = (x < shape.eye_distance - glasses.width) & (np.abs(y + 0.04) < glasses.thickness)
    frame = np.maximum(frame, bridge)
    streak = smoothstep(0.03, 0.0, np.abs(x - shape.eye_distance + y))
    pane = (0.05 + 0.12 * streak) * smoothstep(0.005, -0.005, edge)
    colour = mix(column((1.0, 1.0, 1.0)) + 0 * x, column(glasses.colour), frame)
    canvas.add(near, depth, colour, np.maximum(frame, pane))
