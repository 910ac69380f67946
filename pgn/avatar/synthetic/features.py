"""Where a face's features lie: curves over the plane of the face, and the landmarks on them.

What is painted (face.py) and the landmarks come from the same curves, so landmarks are exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pgn.avatar import landmarks
from pgn.avatar.synthetic.geometry import project
from pgn.avatar.synthetic.head import Head
from pgn.avatar.synthetic.identity import Identity, Shape
from pgn.avatar.synthetic.poses import Pose
from pgn.avatar.synthetic.textures import Field

IRIS = 0.44  # radius of the iris, in half widths of an eye
INNER_LIPS = 0.88  # where the inner corners of the mouth are, in half widths of it


@dataclass(frozen=True)
class Eye:
    """One eye; `s` runs from -1 at its inner to 1 at its outer corner."""

    side: int  # -1: left in the image
    x: float
    width: float
    tilt: float
    upper: float  # height of the upper lid over the line of the corners
    lower: float
    iris_x: float
    iris_y: float

    def s(self, x: Field) -> Field:
        return self.side * (x - self.x) / self.width

    def lid(self, s: Field, height: float) -> Field:
        """y of a lid that stands `height` over the line of the corners."""
        return -self.tilt * s - height * (1 - s * s)


@dataclass(frozen=True)
class Brow:
    side: int
    x: float
    width: float
    y: float
    arch: float
    frown: float

    def s(self, x: Field) -> Field:
        return self.side * (x - self.x) / self.width

    def line(self, s: Field) -> Field:
        """y of its middle."""
        bow = (s - 0.25) ** 2
        return self.y + self.arch * (bow - 0.6) + self.frown * np.clip(-s, -0.4, 1)


@dataclass(frozen=True)
class Mouth:
    """Lines of the lips over `s`, -1 to 1 from corner to corner."""

    y: float
    width: float
    upper_lip: float
    lower_lip: float
    opening: float
    smile: float

    def s(self, x: Field) -> Field:
        return x / self.width

    def middle(self, s: Field) -> Field:
        return self.y - self.smile * (s * s - 0.3)

    def outer_upper(self, s: Field) -> Field:
        bow: Field = 1 - 0.3 * np.exp(-((s / 0.16) ** 2))  # Cupid's
        return self.middle(s) - (self.upper_lip * bow + 0.2 * self.opening) * (1 - s * s)

    def outer_lower(self, s: Field) -> Field:
        return self.middle(s) + (self.lower_lip + 0.8 * self.opening) * (1 - s * s)

    def inner_upper(self, s: Field) -> Field:
        return self.middle(s) - 0.2 * self.opening * self._within(s)

    def inner_lower(self, s: Field) -> Field:
        return self.middle(s) + 0.8 * self.opening * self._within(s)

    @staticmethod
    def _within(s: Field) -> Field:
        height: Field = np.maximum(1 - (s / INNER_LIPS) ** 2, 0)
        return height


def eyes(shape: Shape, pose: Pose) -> list[Eye]:
    """Left and right in the image."""
    lower = 0.4 * shape.eye_height * (1 + 0.3 * max(pose.smile, 0) - 0.2 * pose.blink)
    upper = shape.eye_height * (1 - pose.blink) * (1 + 0.2 * pose.brow) - lower * pose.blink
    return [
        Eye(
            side=side,
            x=side * shape.eye_distance,
            width=shape.eye_width,
            tilt=shape.eye_tilt,
            upper=upper,
            lower=lower,
            iris_x=side * shape.eye_distance + 0.4 * shape.eye_width * pose.gaze_x,
            iris_y=-0.25 * shape.eye_height + 0.35 * shape.eye_height * pose.gaze_y,
        )
        for side in (-1, 1)
    ]


def brows(shape: Shape, pose: Pose) -> list[Brow]:
    """Left and right in the image."""
    return [
        Brow(
            side=side,
            x=side * shape.eye_distance * 1.06,
            width=1.45 * shape.eye_width,
            y=-shape.brow_height - 0.06 * pose.brow,
            arch=shape.brow_arch,
            frown=0.06 * max(-pose.brow, 0),
        )
        for side in (-1, 1)
    ]


def mouth(shape: Shape, pose: Pose) -> Mouth:
    return Mouth(
        y=shape.mouth_height,
        width=shape.mouth_width * (1 + 0.2 * pose.smile - 0.1 * pose.mouth),
        upper_lip=shape.upper_lip * (1 - 0.25 * max(pose.smile, 0)),
        lower_lip=shape.lower_lip * (1 - 0.2 * max(pose.smile, 0)),
        opening=0.2 * pose.mouth,
        smile=0.05 * pose.smile + 0.006,
    )


def head_landmarks(identity: Identity, pose: Pose) -> Field:
    """The landmarks in the head's frame, (3, L) in head units, in the order of landmarks.POINTS."""
    shape, head = identity.shape, Head(identity.shape, pose)
    left, right = eyes(shape, pose)  # in the image; the person's right and left
    left_brow, right_brow = brows(shape, pose)
    places = {
        "oval": _oval(head),
        "right_brow": _brow_points(left_brow, identity.face.brow_thickness),
        "left_brow": _brow_points(right_brow, identity.face.brow_thickness)[:, ::-1],
        "right_eye": _eye_points(left, (1, 0.5, 0, -0.5, -1)),
        "left_eye": _eye_points(right, (-1, -0.5, 0, 0.5, 1)),
        "right_iris": _iris_points(left),
        "left_iris": _iris_points(right),
        "nose_bridge": np.array([(0, 0, 0, 0), np.array((0.0, 0.4, 0.75, 1)) * shape.nose_tip]),
        "nose_bottom": _nose_bottom(shape),
        "outer_lips": _lip_points(mouth(shape, pose)),
        "inner_lips": _inner_lip_points(mouth(shape, pose)),
    }
    flat = np.concatenate([places[name] for name in landmarks.GROUPS], axis=1)
    return head.lift(*flat.astype(np.float32))


def image_landmarks(identity: Identity, pose: Pose) -> Field:
    """The landmarks on the image, (L, 2) float32, x then y, fractions of its side."""
    return project(head_landmarks(identity, pose), pose).T.astype(np.float32)


def _oval(head: Head) -> Field:
    """(2, 18), from the forehead clockwise; below the eyes it follows the jaw."""
    y = np.array((-0.465, -0.44, -0.31, -0.1, 0.16, 0.43, 0.7, 0.86, 0.957, 0.985), np.float32)
    y = np.where(y > 0.5, y * head.chin, y)
    part = np.array((0, 0.42, 0.74, 0.87, 0.91, 0.95, 0.96, 0.95, 0.9, 0), np.float32)
    x = part * head.outline(y)
    return np.stack([np.append(x, -x[-2:0:-1]), np.append(y, y[-2:0:-1])])


def _brow_points(brow: Brow, thickness: float) -> Field:
    """(2, 5), on the upper edge from the outer to the inner end, as FaceMesh has them."""
    s = np.array((1.0, 0.5, 0.0, -0.5, -0.95))
    return np.stack([brow.x + brow.side * s * brow.width, brow.line(s) - 0.6 * thickness])


def _eye_points(eye: Eye, order: tuple[float, ...]) -> Field:
    """(2, 8), along the upper lid in this order of s, and back along the lower one."""
    s = np.array(order + order[-2:0:-1])
    height = np.array(5 * [eye.upper] + 3 * [-eye.lower])
    y = -eye.tilt * s - height * (1 - s * s)
    return np.stack([eye.x + eye.side * s * eye.width, y])


def _iris_points(eye: Eye) -> Field:
    """(2, 4): right, top, left, bottom."""
    radius = IRIS * eye.width
    return np.stack(
        [
            eye.iris_x + radius * np.array((1, 0, -1, 0)),
            eye.iris_y + radius * np.array((0, -1, 0, 1)),
        ]
    )


def _nose_bottom(shape: Shape) -> Field:
    x = np.array((-0.15, -0.07, 0, 0.07, 0.15)) * shape.nose_width
    return np.stack([x, shape.nose_tip + np.array((0.03, 0.075, 0.09, 0.075, 0.03))])


def _lip_points(mouth: Mouth) -> Field:
    """(2, 12), from the left corner over the upper lip and back under the lower one."""
    s = np.array((-1, -0.6, -0.25, 0, 0.25, 0.6, 1))
    x = mouth.width * np.append(s, s[-2:0:-1])
    return np.stack([x, np.append(mouth.outer_upper(s), mouth.outer_lower(s[-2:0:-1]))])


def _inner_lip_points(mouth: Mouth) -> Field:
    s = np.array((-INNER_LIPS, -0.4, 0, 0.4, INNER_LIPS))
    x = mouth.width * np.append(s, s[-2:0:-1])
    return np.stack([x, np.append(mouth.inner_upper(s), mouth.inner_lower(s[-2:0:-1]))])
