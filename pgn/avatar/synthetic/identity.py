"""Identities: the parameters of a person, their clothes and their room, sampled from a seed.

Lengths are in head units: 1 from the eyes down to the chin. Colours are RGB in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pgn.avatar.synthetic.seeds import random_stream

PATTERNS = ("plain", "stripes", "checks", "dots", "knit")  # of clothes
BACKGROUNDS = ("plain", "bokeh", "bricks", "shelves", "wood", "stripes")

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Shape:
    """The head's form and where its features lie."""

    width: float  # half of it
    depth: float
    jaw: float  # -0.1 pointed to 0.4 square
    chin: float
    cheeks: float
    nose_width: float
    nose_height: float
    nose_tip: float  # below the eyes
    eye_distance: float  # from the middle to an eye's centre
    eye_width: float  # half of it
    eye_height: float
    eye_tilt: float
    brow_height: float  # above the eyes
    brow_arch: float
    mouth_height: float  # below the eyes
    mouth_width: float  # half of it
    upper_lip: float
    lower_lip: float
    ears: float


@dataclass(frozen=True)
class Face:
    """What is painted on the head."""

    skin: Colour
    lips: Colour
    iris: Colour
    brow_thickness: float
    freckles: float  # 0 to 1
    wrinkles: float  # 0 to 1
    beard: float  # density, 0 to 1
    moustache: float  # density, 0 to 1
    shadow: float  # of make-up on the lids, 0 to 1


@dataclass(frozen=True)
class Hair:
    colour: Colour
    volume: float  # thickness over the skull; 0: bald
    front: float  # height of the hairline over the forehead, 0.7 high to 0.15 a fringe
    side: float  # height at which the sides end; -0.3 over the ears
    length: float  # below the ears behind the neck; 0: none
    part: float  # where the parting is, -0.5 to 0.5
    curl: float  # 0 straight to 1
    bun: bool


@dataclass(frozen=True)
class Glasses:
    colour: Colour
    width: float  # half, of a glass
    height: float
    roundness: float  # 0 square to 1 round
    thickness: float


@dataclass(frozen=True)
class Scene:
    """Clothes, light and room: what stays the same in all photos of a person."""

    cloth: Colour
    cloth_second: Colour
    pattern: str  # one of PATTERNS
    neckline: float  # depth of the opening
    shoulders: float  # half width
    light: tuple[float, float]  # x and y of the direction to it
    ambient: float
    tint: Colour
    background: str  # one of BACKGROUNDS
    wall: Colour
    wall_second: Colour


@dataclass(frozen=True)
class Identity:
    """A person; the same seed gives the same."""

    seed: int
    shape: Shape
    face: Face
    hair: Hair
    glasses: Glasses | None
    scene: Scene


SKINS = ("eabd9f", "e2ae8a", "d99d75", "c9895d", "ab7047", "915b3b", "73482c", "5b3928", "e0b083")
DARK_HAIRS = ("14100e", "241812", "3d2617", "8d8984")
HAIRS = (*DARK_HAIRS, "5d3b20", "80562d", "b08748", "d8b878", "8c3f1d")
IRISES = ("3a2414", "5a3a1c", "77562c", "5f6f3a", "4f7a86", "5d83b5", "76858f")
CLOTHS = (
    "20242c", "e9e6e0", "7b1e28", "1f4e79", "2f6b4a", "d7a13b", "6c4a7d", "c9543f", "8fa7b8",
    "44546a", "b98fa0", "3b3b3b",
)  # fmt: skip
WALLS = (
    "c9cdd0", "8c99a5", "e3d9c6", "4d6a62", "7f5a45", "b7a58a", "36454f", "a9bfae", "d6b3a0",
    "56617d", "efeae2", "6d3f3a",
)  # fmt: skip
DARK_SKIN = 0.65  # red of the skin below which hair is dark
BEARDED_SHARE = 0.45
LONG_HAIR_SHARE = 0.8  # of the others
GLASSES_SHARE = 0.3


def identity(seed: int) -> Identity:
    """The person of this seed; any two seeds give plainly different ones."""
    random = random_stream(seed, 1)
    bearded = bool(random.random() < BEARDED_SHARE)
    face = _face(random, bearded)
    return Identity(
        seed=seed,
        shape=_shape(random),
        face=face,
        hair=_hair(random, face.skin, not bearded and random.random() < LONG_HAIR_SHARE),
        glasses=_glasses(random) if random.random() < GLASSES_SHARE else None,
        scene=_scene(random),
    )


def _shape(random: np.random.Generator) -> Shape:
    return Shape(
        width=random.uniform(0.64, 0.73),
        depth=random.uniform(0.85, 0.95),
        jaw=random.uniform(-0.1, 0.35),
        chin=random.uniform(0.04, 0.14),
        cheeks=random.uniform(0.0, 0.09),
        nose_width=random.uniform(0.8, 1.3),
        nose_height=random.uniform(0.7, 1.15),
        nose_tip=random.uniform(0.33, 0.42),
        eye_distance=random.uniform(0.25, 0.285),
        eye_width=random.uniform(0.12, 0.155),
        eye_height=random.uniform(0.05, 0.085),
        eye_tilt=random.uniform(-0.015, 0.03),
        brow_height=random.uniform(0.17, 0.23),
        brow_arch=random.uniform(0.01, 0.06),
        mouth_height=random.uniform(0.61, 0.67),
        mouth_width=random.uniform(0.18, 0.25),
        upper_lip=random.uniform(0.025, 0.06),
        lower_lip=random.uniform(0.04, 0.08),
        ears=random.uniform(0.8, 1.25),
    )


def _face(random: np.random.Generator, bearded: bool) -> Face:
    skin = _varied(random, SKINS, 0.03)
    red = random.uniform(0.25, 0.8)
    red_of_lips = (0.72 * skin[0] + 0.1, 0.38 * skin[1], 0.42 * skin[2])
    return Face(
        skin=skin,
        lips=_blend(skin, red_of_lips, 0.6 if bearded else 0.5 + 0.5 * red),
        iris=_varied(random, IRISES, 0.04),
        brow_thickness=random.uniform(0.018, 0.034) + (0.012 if bearded else 0.0),
        freckles=max(0.0, random.uniform(-0.8, 1.0)),
        wrinkles=max(0.0, random.uniform(-0.5, 1.0)),
        beard=max(0.0, random.uniform(-0.4, 1.0)) if bearded else 0.0,
        moustache=max(0.0, random.uniform(-0.3, 1.0)) if bearded else 0.0,
        shadow=0.0 if bearded else max(0.0, random.uniform(-0.5, 0.8)),
    )


def _hair(random: np.random.Generator, skin: Colour, long: bool) -> Hair:
    curly, fringe = random.random() < 0.4, random.random() < 0.35
    bald = not long and random.random() < 0.12
    return Hair(
        colour=_varied(random, DARK_HAIRS if skin[0] < DARK_SKIN else HAIRS, 0.03),
        volume=0.0 if bald else random.uniform(0.04, 0.1) + (0.1 * curly * random.random()),
        front=random.uniform(0.15, 0.3) if fringe else random.uniform(0.45, 0.68),
        side=random.uniform(-0.45, -0.2) if long else random.uniform(-0.15, 0.1),
        length=random.uniform(0.2, 1.2) if long else 0.0,
        part=random.uniform(-0.5, 0.5),
        curl=random.uniform(0.4, 1.0) if curly else random.uniform(0.0, 0.2),
        bun=bool(random.random() < 0.15),
    )


def _glasses(random: np.random.Generator) -> Glasses:
    dark = random.uniform(0.05, 0.2)
    metal = random.random() < 0.4
    return Glasses(
        colour=(0.72, 0.66, 0.5) if metal else _blend(_hex("6b1f1f"), (dark, dark, dark), 0.8),
        width=random.uniform(0.165, 0.2),
        height=random.uniform(0.11, 0.17),
        roundness=random.uniform(0.3, 1.0),
        thickness=random.uniform(0.008, 0.012) if metal else random.uniform(0.015, 0.028),
    )


def _scene(random: np.random.Generator) -> Scene:
    warm = random.uniform(-0.05, 0.05)
    return Scene(
        cloth=_varied(random, CLOTHS, 0.05),
        cloth_second=_varied(random, CLOTHS, 0.05),
        pattern=str(random.choice(PATTERNS)),
        neckline=random.uniform(0.05, 0.35),
        shoulders=random.uniform(1.5, 1.9),
        light=(random.uniform(-0.8, 0.8), random.uniform(-0.7, -0.1)),
        ambient=random.uniform(0.35, 0.55),
        tint=(1 + warm, 1.0, 1 - warm),
        background=str(random.choice(BACKGROUNDS)),
        wall=_varied(random, WALLS, 0.05),
        wall_second=_varied(random, WALLS, 0.05),
    )


def _varied(random: np.random.Generator, colours: tuple[str, ...], spread: float) -> Colour:
    red, green, blue = _hex(str(random.choice(colours)))
    shade = random.uniform(-spread, spread)
    return red + shade, green + shade, blue + shade * random.uniform(0.5, 1.5)


def _hex(colour: str) -> Colour:
    red, green, blue = bytes.fromhex(colour)
    return red / 255, green / 255, blue / 255


def _blend(a: Colour, b: Colour, weight: float) -> Colour:
    red, green, blue = (x + (y - x) * weight for x, y in zip(a, b, strict=True))
    return red, green, blue
