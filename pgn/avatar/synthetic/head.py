"""The head: an egg on which nose, brows, cheeks, lips and chin stand out towards the front.

Its surface is the zero of q(x, y, z) = (x/width)^2 + profile(y) + ((z - relief(x, y))/depth)^2 - 1.
The relief is a height over the plane of the face, and hardly anywhere steeper than the most oblique
view, so that a ray meets the front once, and Newton's method finds where.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pgn.avatar.synthetic.geometry import Ellipsoid, Rays, dot, unit
from pgn.avatar.synthetic.identity import Shape
from pgn.avatar.synthetic.poses import Pose
from pgn.avatar.synthetic.textures import Field, Mask

JAW_DROP = 0.13  # of the chin, when the mouth is open
CROWN = 0.95  # height of the skull over the eyes
NEWTON_STEPS = 9
LONGEST_STEP = 0.15  # so that no ray passes through a nose
TOLERANCE = 0.02  # of q, at which a ray is said to have met the head
LEAN = 0.25  # how far the chin lies in front of the skull's middle


@dataclass(frozen=True)
class Bump:
    """A Gaussian height; away from the middle there is one on either side."""

    height: float
    x: float
    y: float
    width: float
    length: float


class Head:
    """The surface of one face in one expression, in head units."""

    def __init__(self, shape: Shape, pose: Pose) -> None:
        self.width = shape.width
        self.depth = shape.depth
        self.jaw = shape.jaw
        self.chin = 1 + JAW_DROP * pose.mouth
        self.bumps = _bumps(shape, pose, self.chin)
        self.bound = Ellipsoid(
            (0.0, 0.05, 0.2), (1.12 * shape.width, 1.07 * self.chin, shape.depth + 0.25)
        )

    def outline(self, y: Field) -> Field:
        """Half the width (M,) that the head has at height `y`."""
        return self.width * np.sqrt(np.maximum(1 - self._profile(y)[0], 0))

    def lift(self, x: Field, y: Field) -> Field:
        """The points (3, M) of the front at these places of the face."""
        inside = 1 - (x / self.width) ** 2 - self._profile(y)[0]
        z = self._relief(x, y)[0] + self.depth * np.sqrt(np.maximum(inside, 0))
        return np.stack([x, y, z])

    def hit(self, rays: Rays) -> tuple[Mask, Field]:
        """Which rays meet it, (M,) bool, and at what depth those do that do."""
        met, depth = self.bound.hit(rays)
        near = np.flatnonzero(met)
        rays = rays[near]
        for _ in range(NEWTON_STEPS):
            value, gradient = self._quadric(rays.at(depth))
            slope = dot(gradient, rays.towards)
            depth = depth - np.clip(value / np.maximum(slope, 0.1), -LONGEST_STEP, LONGEST_STEP)
        found = self._quadric(rays.at(depth))[0] < TOLERANCE
        met[near] = found
        return met, depth[found]

    def normal(self, points: Field) -> Field:
        """Unit normals (3, M) at points of its surface."""
        return unit(self._quadric(points)[1])

    def _quadric(self, points: Field) -> tuple[Field, Field]:
        """q (M,) and its gradient (3, M)."""
        x, y, z = points
        profile, profile_y = self._profile(y)
        relief, relief_x, relief_y = self._relief(x, y)
        w = (z - relief) / self.depth
        by_z = 2 * w / self.depth
        across = x / self.width
        value = across * across + profile + w * w - 1
        by_x, by_y = 2 * across / self.width - by_z * relief_x, profile_y - by_z * relief_y
        return value, np.stack([by_x, by_y, by_z])

    def _profile(self, y: Field) -> tuple[Field, Field]:
        """What height adds to q, and its derivative: 1 at the crown and at the chin."""
        height = np.where(y > 0, self.chin, CROWN).astype(np.float32)
        square = np.where(y > 0, self.jaw, 0.25).astype(np.float32)
        t = (y / height) ** 2
        return t + square * (t - 1) * t, (1 - square + 2 * square * t) * 2 * y / height**2

    def _relief(self, x: Field, y: Field) -> tuple[Field, Field, Field]:
        """Height over the egg and its derivatives by x and y."""
        below = np.maximum(y, 0)
        height, by_x, by_y = LEAN * below * below, np.zeros_like(x), 2 * LEAN * below
        distance, side = np.abs(x), np.sign(x)
        for bump in self.bumps:
            u, v = (distance - bump.x) / bump.width, (y - bump.y) / bump.length
            value = bump.height * np.exp(-0.5 * (u * u + v * v))
            height = height + value
            by_x = by_x - value * u * side / bump.width
            by_y = by_y - value * v / bump.length
        return height, by_x, by_y


def _bumps(shape: Shape, pose: Pose, chin: float) -> list[Bump]:
    nose, wide, tip = shape.nose_height, shape.nose_width, shape.nose_tip
    eye, mouth = shape.eye_distance, shape.mouth_height
    return [
        Bump(0.09 * nose, 0.0, tip - 0.25, 0.06, 0.15),
        Bump(0.20 * nose, 0.0, tip - 0.03, 0.085 * wide, 0.11),
        Bump(0.07 * nose, 0.1 * wide, tip + 0.02, 0.05, 0.05),
        Bump(0.05, eye * 0.9, -0.9 * shape.brow_height - 0.05 * pose.brow, 0.2, 0.07),
        Bump(-0.06, eye, -0.03, 0.12, 0.08),
        Bump(shape.cheeks + 0.03 * pose.smile, 0.38, 0.3, 0.15, 0.13),
        Bump(0.05, 0.0, mouth + 0.3 * (chin - 1), 0.17, 0.09),
        Bump(shape.chin, 0.0, chin - 0.12, 0.16, 0.1),
    ]
