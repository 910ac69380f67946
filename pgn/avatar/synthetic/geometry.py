"""Solids in head units, and the rays of the image's pixels that meet them.

Two frames of coordinates, both with x to the right, y down and z towards the viewer: the camera's,
in which rays run along z, and a solid's own. A head's own is that of a face looking straight at us,
with its eyes at y = 0 and its chin at y = 1. The projection is orthographic.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pgn.avatar.synthetic.poses import Pose
from pgn.avatar.synthetic.textures import Field, Index, Mask

SCALE = 0.36  # of the image's side, for a head unit
CENTRE = (0.5, 0.47)  # of the image, where a head at rest has its origin
PIVOT = np.array([0.0, 0.8, -0.35], np.float32)[:, None]  # in the neck: what a head turns about


@dataclass(frozen=True)
class Rays:
    """Of M pixels in a solid's own frame; all of them run in one direction."""

    origin: Field  # (3, M), where z of the camera is 0
    towards: Field  # (3, 1), unit vector to the viewer

    def at(self, depth: Field | float) -> Field:
        """The points (3, M) at these depths (M,)."""
        return self.origin + depth * self.towards

    def __getitem__(self, chosen: Index | Mask) -> Rays:
        return Rays(self.origin[:, chosen], self.towards)


def rotation(pose: Pose) -> Field:
    """(3, 3), from the head's frame to the camera's: roll, then pitch, then yaw."""
    yaw, pitch, roll = np.deg2rad((pose.yaw, pose.pitch, pose.roll))
    turn = [[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]]
    nod = [[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]]
    tilt = [[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]]
    return (np.array(turn) @ np.array(nod) @ np.array(tilt)).astype(np.float32)


def project(points: Field, pose: Pose) -> Field:
    """Points (3, M) of the head's frame on the image, (2, M) in fractions of its side."""
    camera = rotation(pose) @ (points - PIVOT) + PIVOT
    centre = np.array([[CENTRE[0] + pose.x], [CENTRE[1] + pose.y]], np.float32)
    return centre + SCALE * pose.scale * camera[:2]


def camera_rays(pose: Pose, size: int) -> Rays:
    """Those of all pixels, (3, size * size) row by row, in the camera's frame about the head."""
    places = (np.arange(size, dtype=np.float32) + 0.5) / size
    x = (places - CENTRE[0] - pose.x) / (SCALE * pose.scale)
    y = (places - CENTRE[1] - pose.y) / (SCALE * pose.scale)
    columns, rows = np.meshgrid(x.astype(np.float32), y.astype(np.float32))
    flat = np.stack([columns.ravel(), rows.ravel(), np.zeros(size * size, np.float32)])
    return Rays(flat, np.array([[0], [0], [1]], np.float32))


def head_rays(rays: Rays, pose: Pose) -> Rays:
    """The camera's rays in the head's frame."""
    back = rotation(pose).T
    return Rays(back @ (rays.origin - PIVOT) + PIVOT, back @ rays.towards)


@dataclass(frozen=True)
class Ellipsoid:
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]

    def hit(self, rays: Rays) -> tuple[Mask, Field]:
        """Which rays meet it, (M,) bool, and at what depth those do that do."""
        radii = np.array(self.radii, np.float32)[:, None]
        origin = (rays.origin - np.array(self.centre, np.float32)[:, None]) / radii
        towards = rays.towards / radii
        a, b = dot(towards, towards), dot(origin, towards)
        discriminant = b * b - a * (dot(origin, origin) - 1)
        met = discriminant > 0
        return met, (np.sqrt(discriminant[met]) - b[met]) / a

    def normal(self, points: Field) -> Field:
        """Unit normals (3, M) at points of its surface."""
        radii = np.array(self.radii, np.float32)[:, None]
        return unit((points - np.array(self.centre, np.float32)[:, None]) / radii**2)

    def direction(self, points: Field) -> Field:
        """Points (3, M) of its surface on the unit sphere."""
        radii = np.array(self.radii, np.float32)[:, None]
        return (points - np.array(self.centre, np.float32)[:, None]) / radii


def dot(a: Field, b: Field) -> Field:
    """Inner products (M,) of vectors (3, M)."""
    products: Field = a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
    return products


def unit(vectors: Field) -> Field:
    """(3, M) of length 1."""
    return vectors / np.sqrt(dot(vectors, vectors))
