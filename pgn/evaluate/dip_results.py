"""The folder of a Deep Image Prior study: a file per photo and run, so that work is never lost.

dip.json                    settings, and the summary once all fits are there
<photo>/target.png          what is drawn
<photo>/<run>.json, .png    figures and picture of one fit; the JSON is written last
<photo>/<run>.proxy.png     a PGN's proxy target of that picture, cut to [0, 1]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pgn.errors import PgnError
from pgn.evaluate.dip import Fit, Run, proxy_target
from pgn.evaluate.study import Record, Study, checkpoint_of, file_sha256, is_number
from pgn.files import find_images, read_image
from pgn.images import centre_crop
from pgn.teachers import PerceptualLoss

SUMMARY_NAME = "dip.json"
TARGET = "target"

FIGURES = {"stopped", "steps", "vgg19_at_steps", "vgg19", "mse"}


@dataclass(frozen=True)
class Photo:
    """A photo to draw: (1, 3, size, size) pixels; `seed` is that of the network's start."""

    name: str
    seed: int
    pixels: Tensor
    sha256: str  # of the file


def read_photos(folder: Path, skip: int, count: int, size: int) -> list[Photo]:
    """Central crops of `count` photos below `folder` by name, after the first `skip`.

    Raises:
        PgnError: there are not so many, or one cannot be read.
    """
    paths = find_images(folder)
    if len(paths) < skip + count:
        raise PgnError(
            f"--images: {folder} holds {len(paths)} photos, expected at least --skip + --count = "
            f"{skip + count}. Give more photos, or a lower --count."
        )
    return [
        Photo(
            f"{index:03}-{path.stem}",
            index,
            centre_crop(read_image(path), size)[None],
            file_sha256(path),
        )
        for index, path in list(enumerate(paths))[skip : skip + count]
    ]


class Results:
    """What is known so far in `folder`; every file is written by rename."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Open or begin a study.

        Raises:
            PgnError: the folder holds one with other settings, or cannot be written.
        """
        self.study = Study(folder, SUMMARY_NAME, settings)

    def picture(self, photo: Photo, name: str) -> Path:
        """Where a picture lies: TARGET's, a run's by its name, or one of `proxy_name`."""
        return self.study.picture(photo.name, name)

    def load(self, photo: Photo, run: Run) -> Record | None:
        """A fit's figures, or None where it is still to be made.

        Raises:
            PgnError: the file is damaged, or tells of another checkpoint.
        """
        return self.study.load(photo.name, run.name, _pictures(run), _is_whole, _made_by(run))

    def store(self, photo: Photo, run: Run, fit: Fit) -> Record:
        """Write a fit's picture, its proxy target and its figures."""
        self.study.draw(photo.name, TARGET, photo.pixels[0])
        self.study.draw(photo.name, run.name, fit.image[0])
        if run.net is not None:
            proxy = proxy_target(run.net, fit.image, photo.pixels)
            self.study.draw(photo.name, proxy_name(run), proxy[0])
        record = {
            "made_by": _made_by(run),
            "stopped": fit.stopped,
            "steps": fit.steps,
            "vgg19_at_steps": fit.vgg19,
            "vgg19": fit.vgg19[-1],
            "mse": float((fit.image - photo.pixels).square().mean()),
        }
        self.study.store(photo.name, run.name, record)
        return record

    def measure(self, photo: Photo, run: Run, metrics: Mapping[str, PerceptualLoss]) -> Record:
        """A stored fit's figures with all `metrics` of its picture, as saved, among them."""
        record = self.load(photo, run)
        assert record is not None
        missing = [name for name in metrics if name not in record]
        if missing:
            picture = read_image(self.picture(photo, run.name))[None]
            with torch.no_grad():
                record |= {name: float(metrics[name](picture, photo.pixels)) for name in missing}
            self.study.store(photo.name, run.name, record)
        return record

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the summary beside the settings."""
        self.study.finish(summary)


def proxy_name(run: Run) -> str:
    """What the picture of a PGN's proxy target is called."""
    return f"{run.name}.proxy"


def _pictures(run: Run) -> list[str]:
    return [TARGET, run.name] if run.net is None else [TARGET, run.name, proxy_name(run)]


def _made_by(run: Run) -> Record:
    weight = {} if run.net is None else {"mse_weight": run.mse_weight}
    return {**checkpoint_of(run.net), **weight}


def _is_whole(record: Record) -> bool:
    return (
        record.keys() >= FIGURES
        and all(is_number(record[name]) for name in ("vgg19", "mse"))
        and all(isinstance(record[name], list) for name in ("steps", "vgg19_at_steps"))
        and len(record["steps"]) == len(record["vgg19_at_steps"])
        and all(map(is_number, (*record["steps"], *record["vgg19_at_steps"])))
    )
