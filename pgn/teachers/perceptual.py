"""Perceptual losses by name: VGG feature losses and LPIPS."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from pgn.errors import PgnError, unknown_name
from pgn.teachers.feature_loss import FeatureLoss, load_feature_loss
from pgn.teachers.lpips import LPIPS, load_lpips
from pgn.teachers.teacher import Features, exact_gradient, features_of_target
from pgn.teachers.trunk import VGG_WIDTHS, VGGTrunk

NAMES = (*VGG_WIDTHS, "lpips-vgg", "lpips-alex")
_DEFAULT_WEIGHTS = {"vgg19": "oxford", "lpips-vgg": "lpips", "lpips-alex": "lpips"}


class PerceptualLoss(nn.Module):
    """A fixed network's distance between images; `loss(generated, target)` -> (N,).

    VGG trunks (Nikulin et al. 2020, section 4): sum over all ReLU outputs up to conv5_1 of the
    mean absolute difference, AvgPool for MaxPool. LPIPS: v0.1, the metric.

    Args:
        name: vgg19 | vgg16 | vgg11 | lpips-vgg | lpips-alex.
        weights: VGG: oxford (vgg19's default; extra `teacher`), torchvision (download, hash
            checked; default of the others) or a file. LPIPS: lpips (the package) or a file.
        layers: VGG: the ReLU outputs to compare and the weight of each, as {"relu3_3": 1.0};
            nothing beyond the deepest is computed. Default: all, each with weight 1.
        norm: VGG: l1 | squared-l2, of which each layer's mean is taken.

    Raises:
        PgnError: no such name, layer, norm or file; a weight that is no positive number; a file
            that does not fit; layers or norm for LPIPS.
        MissingExtraError: the weights' package is not installed.
    """

    def __init__(
        self,
        name: str = "vgg19",
        weights: str | Path | None = None,
        *,
        layers: Mapping[str, float] | None = None,
        norm: str = "l1",
    ) -> None:
        super().__init__()
        if name not in NAMES:
            raise unknown_name("perceptual loss", name, NAMES)
        weights = weights or _DEFAULT_WEIGHTS.get(name, "torchvision")
        known = weights in ("oxford", "torchvision", "lpips")
        self.name = name
        self.source = f"{name}-{weights if known else _fingerprint(Path(weights))}"
        self.network: FeatureLoss | LPIPS
        if name in VGG_WIDTHS:
            self.network = load_feature_loss(name, weights, layers, norm)
            self.source += self.network.label
        elif layers is None and norm == "l1":
            self.network = load_lpips(name, weights)
        else:
            raise PgnError(
                f"{name}: got layers={layers!r}, norm={norm!r}, but LPIPS has its own. Leave them "
                f"out, or take one of {', '.join(VGG_WIDTHS)}."
            )
        self.requires_grad_(False)
        self.eval()

    @property
    def is_vgg(self) -> bool:
        """Is it a VGG loss, with a trunk?"""
        return self.name in VGG_WIDTHS

    @property
    def trunk(self) -> VGGTrunk:
        """The convolutions of a VGG loss."""
        assert isinstance(self.network, FeatureLoss), f"{self.name} has no VGG trunk"
        return self.network.trunk

    def features(self, image: Tensor) -> Features:
        """What is compared, of pixels (N, 3, H, W); compute a target's once and pass it again."""
        return self.network.features(image)

    def forward(self, generated: Tensor, target: Tensor | Features) -> Tensor:
        """Distance of each image, (N,), differentiable in `generated`; see `Teacher`."""
        compared = features_of_target(self, generated, target)
        return self.network.distance(self.features(generated), compared)

    def gradient(self, generated: Tensor, target: Tensor | Features) -> Tensor:
        """The exact gradient of each image's distance, (N, 3, H, W) per pixel unit."""
        return exact_gradient(self, generated, target)


def _fingerprint(path: Path) -> str:
    """What tells one file of weights from another in a checkpoint's card."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
    return f"file-{digest[:12]}"
