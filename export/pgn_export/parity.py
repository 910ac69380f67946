"""Does the artifact give the same gradient? Judged on the residual generated - proxy, in float64.

An image metric is blind here: close to the target an all-zero gradient scores 40 dB. So the
residual's direction and length are compared at three distances from the target, on photos.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pgn import PGN
from pgn.degrade import blur
from pgn.files import find_images, read_image
from pgn.images import centre_crop
from pgn_export.graph import Size

DISTANCES = {"far": 1.0, "mid": 0.3, "near": 0.05}  # of the way from the photo to its blur
BLUR = 4.0  # pixels
MIN_COSINE = 0.999
MAX_SCALE_ERROR = 0.01  # of the norm ratio from 1; a cosine does not see a wrong scale

Proxy = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Figures:
    """Residual of an artifact against the network's at one distance; each the worst photo's."""

    distance: str
    cosine: float
    relative_l2: float
    norm_ratio: float  # artifact / network

    @property
    def passed(self) -> bool:
        """Whether the gate holds; NaN fails."""
        return self.cosine >= MIN_COSINE and abs(self.norm_ratio - 1.0) <= MAX_SCALE_ERROR


def measure(net: PGN, proxy: Proxy, size: Size) -> list[Figures]:
    """Compare `proxy` with the float64 network on the bundled photos, at every distance."""
    reference = copy.deepcopy(net).eval().cpu().double()
    figures = []
    for name, share in DISTANCES.items():
        rows = []
        for photo in photos(size):
            generated = torch.lerp(photo, blur(photo[0], BLUR)[None], share)
            wanted = reference.proxy(generated.double(), photo.double())
            found = torch.from_numpy(np.array(proxy(generated.numpy(), photo.numpy())))
            rows.append(_compare(generated.double(), found.double(), wanted))
        figures.append(_worst(name, np.array(rows)))
    return figures


def _compare(generated: Tensor, found: Tensor, wanted: Tensor) -> tuple[float, float, float]:
    if found.shape != wanted.shape:
        raise RuntimeError(f"proxy: got {tuple(found.shape)}, expected {tuple(wanted.shape)}")
    a, b = (generated - found).flatten(), (generated - wanted).flatten()
    cosine = (a @ b) / (a.norm() * b.norm())
    return float(cosine), float((a - b).norm() / b.norm()), float(a.norm() / b.norm())


def _worst(name: str, rows: NDArray[np.float64]) -> Figures:
    """Each figure of its own worst photo; numpy's min and max let a NaN through, and it fails."""
    cosines, errors, ratios = rows.T
    ratio = ratios[np.argmax(np.abs(ratios - 1.0))]
    return Figures(name, float(cosines.min()), float(errors.max()), float(ratio))


@cache
def photos(size: Size) -> tuple[Tensor, ...]:
    """The bundled photos at `size`, each (1, 3, H, W) pixels in [0, 1]."""
    folder = Path(str(resources.files("pgn_export") / "photos"))
    height, width = size
    crops = (centre_crop(read_image(path), max(size)) for path in find_images(folder))
    return tuple(crop[None, :, :height, :width].contiguous() for crop in crops)
