"""Crops of the photos in a folder. Crop number i depends on (seed, i) alone, so a resumed run
sees what an undisturbed one would have seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from pgn.degrade import random_degradation
from pgn.errors import PgnError
from pgn.files import UNREADABLE, find_images, open_rgb

SCALES = (0.75, 2.0)  # side of a crop in the photo, in multiples of its side in training
ATTEMPTS = 20  # unreadable photos in a row after which the folder is called broken


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """Random square crops, scaled and flipped: item i -> a crop and a degraded copy of it,
    both (3, size, size) pixels in [0, 1].

    Unreadable photos are skipped; `find_images` raises for an empty folder.
    """

    def __init__(self, folder: str | Path, size: int, count: int, seed: int) -> None:
        self.paths = find_images(folder)
        self.size = size
        self.count = count
        self.seed = seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        random = np.random.default_rng((self.seed, index))
        for _ in range(ATTEMPTS):
            path = self.paths[int(random.integers(len(self.paths)))]
            try:
                photo = open_rgb(path)
            except UNREADABLE:
                continue
            crop = _random_crop(photo, self.size, random)
            return crop, random_degradation(crop, random)
        raise PgnError(f"images: {ATTEMPTS} files in a row could not be read; {path} was the last.")


def _random_crop(photo: Image.Image, size: int, random: np.random.Generator) -> Tensor:
    width, height = photo.size
    side = min(width, height, size * float(np.exp(random.uniform(*np.log(SCALES)))))
    left, top = random.uniform(0, width - side), random.uniform(0, height - side)
    box = (left, top, left + side, top + side)
    crop = photo.resize((size, size), Image.Resampling.BICUBIC, box=box)
    array = np.asarray(crop, dtype=np.float32) / 255.0
    if random.random() < 0.5:
        array = array[:, ::-1]
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))
