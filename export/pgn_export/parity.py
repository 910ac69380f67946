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

Proxy = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Gate:
    """The limits of one precision; a cosine does not see a wrong scale, so length counts too."""

    min_cosine: float
    max_relative_l2: float
    max_scale_error: float  # of the norm ratio from 1


GATES = {
    "fp32": Gate(0.999, 0.01, 0.01),
    "fp16": Gate(0.999, 0.05, 0.01),
    "int8": Gate(0.99, 0.15, 0.05),
}


@dataclass(frozen=True)
class Figures:
    """Residual of an artifact against the network's at one distance; each the worst photo's."""

    runtime: str
    distance: str
    cosine: float
    relative_l2: float
    norm_ratio: float  # artifact / network

    def __str__(self) -> str:
        return (
            f"cosine {self.cosine:.6f}, relative L2 {self.relative_l2:.4f}, norm ratio "
            f"{self.norm_ratio:.4f} ({self.distance}, in {self.runtime})"
        )

    def passes(self, gate: Gate) -> bool:
        """Whether the gate holds; NaN fails."""
        return (
            self.cosine >= gate.min_cosine
            and self.relative_l2 <= gate.max_relative_l2
            and abs(self.norm_ratio - 1.0) <= gate.max_scale_error
        )


@dataclass(frozen=True)
class Case:
    """8-bit images (N, 3, H, W), and the proxy that the network gives there in float64.

    The generated image lies `share` of the way from the target to its blur. The proxy may be
    known at every `stride`-th pixel of both axes only, as in test vectors.
    """

    distance: str
    share: float
    target: Tensor  # uint8
    blurred: Tensor  # uint8
    proxy: Tensor  # (N, 3, H/stride, W/stride) pixels
    stride: int = 1

    def inputs(self) -> tuple[Tensor, Tensor]:
        """generated and target, float32 pixels in [0, 1]."""
        return generated_and_target(self.share, self.target, self.blurred)

    def residuals(self, found: Tensor) -> tuple[Tensor, Tensor]:
        """generated - proxy of an artifact's proxy (N, 3, H, W) and of the network's."""
        thin = (..., slice(None, None, self.stride), slice(None, None, self.stride))
        generated = self.inputs()[0][thin].double()
        return generated - found[thin].double(), generated - self.proxy.double()


def generated_and_target(share: float, target: Tensor, blurred: Tensor) -> tuple[Tensor, Tensor]:
    """Float32 pixels from 8-bit images (N, 3, H, W)."""
    start, end = target.float() / 255.0, blurred.float() / 255.0
    return torch.lerp(start, end, share), start


def cases(net: PGN, size: Size, batch: int = 1) -> list[Case]:
    """What `net` gives in float64 for the bundled photos, at every distance."""
    reference = copy.deepcopy(net).eval().cpu().double()
    shown = photos(size)
    found = []
    for distance, share in DISTANCES.items():
        for k in range(len(shown)):
            target = torch.cat([shown[(k + i) % len(shown)] for i in range(batch)])
            eight_bits, blurred = _eight_bits(target), _blurred(target)
            inputs = generated_and_target(share, eight_bits, blurred)
            proxy = reference.proxy(*(image.double() for image in inputs))
            found.append(Case(distance, share, eight_bits, blurred, proxy))
    return found


def _blurred(target: Tensor) -> Tensor:
    return torch.stack([_eight_bits(blur(photo, BLUR)) for photo in target])


def measure(runtime: str, proxy: Proxy, wanted: list[Case]) -> list[Figures]:
    """Compare `proxy` with the network at every distance.

    Raises:
        RuntimeError: `proxy` gives another shape.
    """
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for case in wanted:
        generated, target = case.inputs()
        found = torch.from_numpy(np.array(proxy(generated.numpy(), target.numpy())))
        if found.shape != generated.shape:
            raise RuntimeError(
                f"proxy: got {tuple(found.shape)}, expected {tuple(generated.shape)}"
            )
        rows.setdefault(case.distance, []).append(compare(*case.residuals(found)))
    return [_worst(runtime, name, np.array(found)) for name, found in rows.items()]


def compare(found: Tensor, wanted: Tensor) -> tuple[float, float, float]:
    """Cosine, relative L2 and norm ratio of two residuals, float64."""
    a, b = found.flatten(), wanted.flatten()
    cosine = (a @ b) / (a.norm() * b.norm())
    return float(cosine), float((a - b).norm() / b.norm()), float(a.norm() / b.norm())


def _worst(runtime: str, distance: str, rows: NDArray[np.float64]) -> Figures:
    """Each figure of its own worst photo; numpy's min and max let a NaN through, and it fails."""
    cosines, errors, ratios = rows.T
    ratio = ratios[np.argmax(np.abs(ratios - 1.0))]
    return Figures(runtime, distance, float(cosines.min()), float(errors.max()), float(ratio))


@cache
def photos(size: Size) -> tuple[Tensor, ...]:
    """The bundled photos at `size`, each (1, 3, H, W) pixels in [0, 1], in steps of 1/255."""
    folder = Path(str(resources.files("pgn_export") / "photos"))
    height, width = size
    crops = (centre_crop(read_image(path), max(size)) for path in find_images(folder))
    return tuple(_eight_bits(crop[None, :, :height, :width]).float() / 255.0 for crop in crops)


def _eight_bits(image: Tensor) -> Tensor:
    return (image * 255.0).round().to(torch.uint8)
