"""The avatar becomes a person's: 8 frames, the fitting step as plain graphs, no torch in the fit.

The person is rendered, from a seed that no training saw, so that the demo needs no data.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from pgn.avatar.synthetic import identity, poses, render
from pgn.degrade import to_pil
from pgn.pages import embed_png

SEED = 1_000_003  # kept from training
FRAMES = 8
SIZE = 256  # pixels of the frames; the fit scales them
PACK = "avatar.pgnpack"

Run = Callable[..., str]  # (module, arguments) -> its stdout


@dataclass(frozen=True)
class Person:
    """What the page shows: strips of frames above what was drawn for them, as data URIs."""

    frames: int
    strips: dict[str, str]
    steps: int
    seconds: float
    megabytes: float
    mse_first: float
    mse_last: float


def fit_person(output: Path, run: Run) -> Person:
    """Export the pack, fit it to the frames, draw new poses; each by its command."""
    shown = poses(SEED, 256)[:: 256 // (2 * FRAMES)]
    images, landmarks = render(identity(SEED), shown, SIZE)
    photos, unseen = output / "photos", output / "unseen"
    _save(photos, images[::2], landmarks[::2])
    _save(unseen, images[1::2], landmarks[1::2])
    run("pgn_export.cli", "avatar", "--target", "onnx", "-o", output / PACK)
    fitted, drawn = output / "person", output / "drawn"
    report = json.loads(
        run("pgn_runtime.fit_cli", output / PACK, photos, "-o", fitted, "--restart", "--json")
    )
    run("pgn_runtime.fit_cli", "render", fitted, unseen, "-o", drawn)
    strips = {
        "the frames, and the avatar before the fit": embed_png(fitted / "before.png"),
        "the same after it": embed_png(fitted / "after.png"),
        "poses that the fit did not see, and what it draws for them": _strip(unseen, drawn),
    }
    return Person(
        frames=FRAMES,
        strips=strips,
        steps=len(report["mse"]),
        seconds=sum(report["seconds"]),
        megabytes=report["peak_bytes"] / 1e6,
        mse_first=report["mse"][0],
        mse_last=report["mse"][-1],
    )


def _strip(photos: Path, drawn: Path) -> str:
    """Photos above drawings, each pair as small as the drawing."""
    pairs = [
        [Image.open(path) for path in sorted(folder.glob("*.png"))] for folder in (photos, drawn)
    ]
    side = pairs[1][0].width
    strip = Image.new("RGB", (side * len(pairs[0]), 2 * side))
    for row, pictures in enumerate(pairs):
        for column, picture in enumerate(pictures):
            strip.paste(picture.resize((side, side)), (side * column, side * row))
    return embed_png(strip)


def _save(folder: Path, images: Tensor, landmarks: Tensor) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for k, image in enumerate(images):
        to_pil(image / 255.0).save(folder / f"{k:03}.png")
    np.savez(folder / "landmarks.npz", landmarks=landmarks.numpy())
