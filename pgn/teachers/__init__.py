"""Perceptual losses: the teachers of a PGN and the metrics that judge it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from pgn.errors import PgnError, unknown_name
from pgn.images import check_pair
from pgn.teachers.lpips import load_lpips
from pgn.teachers.trunk import OXFORD, VGG_WIDTHS, VGGTrunk
from pgn.teachers.weights import read_vgg

NAMES = (*VGG_WIDTHS, "lpips-vgg", "lpips-alex")
_DEFAULT_WEIGHTS = {"vgg19": "oxford", "lpips-vgg": "lpips", "lpips-alex": "lpips"}
OXFORD_SCALE = 1.0 / 300.0  # brings sums over 0..255 features to the range of the paper's tables

Features = list[Tensor]


class PerceptualLoss(nn.Module):
    """A fixed network's distance between images; `loss(generated, target)` -> (N,).

    VGG trunks (Nikulin et al. 2020, section 4): sum over all ReLU outputs up to conv5_1 of the
    mean absolute difference, AvgPool for MaxPool. LPIPS: v0.1, the metric.

    Args:
        name: vgg19 | vgg16 | vgg11 | lpips-vgg | lpips-alex.
        weights: VGG: oxford (vgg19's default; extra `teacher`), torchvision (download, hash
            checked; default of the others) or a file. LPIPS: lpips (the package) or a file.

    Raises:
        PgnError: no such name or file, or one that does not fit.
        MissingExtraError: the weights' package is not installed.
    """

    def __init__(self, name: str = "vgg19", weights: str | Path | None = None) -> None:
        super().__init__()
        if name not in NAMES:
            raise unknown_name("perceptual loss", name, NAMES)
        weights = weights or _DEFAULT_WEIGHTS.get(name, "torchvision")
        self.name = name
        known = weights in ("oxford", "torchvision", "lpips")
        self.source = f"{name}-{weights if known else _fingerprint(Path(weights))}"
        self.scale = 1.0
        if name.startswith("lpips"):
            self.lpips = load_lpips(name, weights)
        else:
            state, preprocessing = read_vgg(name, weights)
            self.trunk = VGGTrunk(name, preprocessing)
            try:
                self.trunk.convs.load_state_dict({k[6:]: v for k, v in state.items()})
            except RuntimeError as error:
                reason = str(error).splitlines()[1].strip()
                raise PgnError(f"weights: {weights} does not fit {name}: {reason}") from None
            self.scale = OXFORD_SCALE if preprocessing is OXFORD else 1.0
        self.requires_grad_(False)
        self.eval()

    def features(self, image: Tensor) -> Features:
        """What is compared, of pixels (N, 3, H, W); compute a target's once and pass it again."""
        out: Features = self.lpips.features(image) if self._is_lpips else self.trunk(image)
        return out

    def forward(self, generated: Tensor, target: Tensor | Features) -> Tensor:
        """Distance of each image, (N,), differentiable in `generated`.

        Args:
            generated: (N, 3, H, W) pixels in [0, 1].
            target: pixels of the same shape, or `features(target)`; with features nothing is
                checked, for loops that know what they pass.

        Raises:
            PgnError: the two are no pair of pixel images.
        """
        if isinstance(target, Tensor):
            check_pair(generated, target)
            target = self.features(target)
        found = self.features(generated)
        if self._is_lpips:
            return self.lpips.distance(found, target)
        terms = [
            (a - b).abs().mean(dim=(1, 2, 3), dtype=torch.promote_types(a.dtype, torch.float32))
            for a, b in zip(found, target, strict=True)
        ]
        return torch.stack(terms).sum(dim=0) * self.scale

    def gradient(self, generated: Tensor, target: Tensor | Features) -> Tensor:
        """The exact gradient of each image's distance, (N, 3, H, W) per pixel unit."""
        with torch.enable_grad():
            variable = generated.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self(variable, target).sum(), variable)
        return gradient

    @property
    def _is_lpips(self) -> bool:
        return self.name.startswith("lpips")


def _fingerprint(path: Path) -> str:
    """What tells one file of weights from another in a checkpoint's card."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
    return f"file-{digest[:12]}"


__all__ = ["NAMES", "Features", "PerceptualLoss"]
