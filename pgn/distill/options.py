"""Every setting of a distillation, validated: `DistillOptions`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgn import backbones
from pgn.errors import PgnError, unknown_name
from pgn.model import PGNConfig
from pgn.teachers.trunk import VGG_WIDTHS

PRECISIONS = ("bf16", "fp32")
MAX_CROP = 512  # pixels
_FREE = ("data", "output", "workers", "save_every", "licence")  # may change on --resume

# The paper's networks (section 4) and ours, where they differ from the fields' defaults.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "lite": {"head": "direct", "gamma": 1.0, "vgg_weight": 0.0, "l1_weight": 0.0, "degraded": 3},
    "paper": {
        "head": "constrained",
        "gamma": 1.0 / 512.0,
        "vgg_weight": 0.5,
        "l1_weight": 0.2,
        "degraded": 0,
    },
}


@dataclass(frozen=True)
class DistillOptions:
    """One distillation run. Counts are images, sizes pixels, times seconds."""

    data: Path  # folder of photos
    output: Path  # folder of the run: checkpoint, log, training state
    backbone: str = "lite"
    head: str = "direct"
    gamma: float = 1.0  # scale of the predicted residual (Eq. 2, 8)
    teacher: str = "vgg19"
    weights: str | None = None  # of the teacher: oxford, torchvision or a file
    images: int = 42_000  # crops seen in all
    batch: int = 12
    crop: int = 96
    learning_rate: float = 1e-3  # peak; falls to zero along a cosine
    vgg_weight: float = 0.0  # of the proxy's perceptual distance to the target (Eq. 10)
    l1_weight: float = 0.0  # of the proxy's mean absolute distance to the target (Eq. 10)
    patience: int = 3_000  # images without progress after which an autoencoder may be reset
    degraded: int = 3  # of each batch: blur, noise, JPEG in place of an autoencoder's picture
    precision: str = "bf16"  # of the teacher and the autoencoders
    seed: int = 0
    workers: int = 1  # processes that decode photos
    save_every: float = 120.0
    licence: str = ""  # of the resulting weights, for their card

    def __post_init__(self) -> None:
        if self.backbone not in backbones.NAMES:
            raise unknown_name("backbone", self.backbone, backbones.NAMES)
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)
        if self.teacher not in VGG_WIDTHS:
            raise unknown_name("teacher", self.teacher, VGG_WIDTHS)
        if self.backbone == "lite" and self.teacher != "vgg19":
            raise PgnError(
                f"--teacher: got {self.teacher}, but lite has the layers of vgg19 and starts from "
                f"them. Use vgg19, or a backbone of the paper."
            )
        self.config()
        drawn = self.batch - self.degraded
        self._require("batch", drawn >= 3 and drawn % 3 == 0, f"{self.degraded} + a multiple of 3")
        fits = 32 <= self.crop <= MAX_CROP and self.crop % 32 == 0
        self._require("crop", fits, f"a multiple of 32 up to {MAX_CROP}")
        self._require("seed", self.seed >= 0, "0 or more")
        self._require("images", self.images >= self.batch, f"at least one batch ({self.batch})")
        self._require("learning_rate", 0 < self.learning_rate < 1, "a number in (0, 1)")
        self._require("workers", self.workers >= 0, "0 or more")
        self._require("patience", self.patience > 0, "a positive count of images")

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise PgnError(
                f"--{name.replace('_', '-')}: got {getattr(self, name)}, expected {expected}."
            )

    @property
    def steps(self) -> int:
        return self.images // self.batch

    def config(self) -> PGNConfig:
        return PGNConfig(self.backbone, self.head, gamma=self.gamma)

    def identity(self) -> dict[str, Any]:
        """What must be equal for a run to be resumed."""
        return {k: v for k, v in vars(self).items() if k not in _FREE}


def options_for(backbone: str, **settings: Any) -> DistillOptions:
    """Options with the head, the meta-loss weights and the batch's make-up that suit `backbone`."""
    family = "lite" if backbone == "lite" else "paper"
    return DistillOptions(backbone=backbone, **{**_DEFAULTS[family], **settings})
