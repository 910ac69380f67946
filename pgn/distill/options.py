"""Every setting of a training run, validated: `RunOptions` for all, `DistillOptions` add theirs.

A recipe is a TOML file of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pgn import backbones
from pgn.errors import PgnError, unknown_name
from pgn.model import PGNConfig

PRECISIONS = ("auto", "bf16", "fp32")
OPTIMISERS = ("adam", "muon")
SCHEDULES = ("cosine", "constant")
MAX_CROP = 512  # pixels
MAX_SEED = 2**62  # torch takes 63 bits, and a process adds its rank
SURROGATES = 3  # autoencoders that share what `degraded` leaves of a batch
_FREE = ("data", "output", "save_every", "licence")  # may change on --resume


@dataclass(frozen=True)
class RunOptions:
    """Any training. Counts are images of one process, times seconds."""

    data: str  # what is learnt from
    output: Path  # folder of the run: checkpoint, log, state
    images: int  # seen in all, over all processes
    batch: int
    # learning
    optimiser: str = "adam"  # or muon
    learning_rate: float = 1e-3  # peak
    schedule: str = "cosine"  # to zero; or constant
    averaging: float = 0.0  # decay of the moving average of the weights; 0: none
    # the machine
    precision: str = "auto"  # bf16 on GPUs and on CPUs that compute in it, else fp32
    devices: int = 1  # processes of each node
    nodes: int = 1
    workers: int = 1  # processes that read data, for each device
    seed: int = 0
    save_every: float = 120.0
    licence: str = ""  # of the resulting weights, for their card

    def __post_init__(self) -> None:
        self._one_of("precision", PRECISIONS)
        self._one_of("optimiser", OPTIMISERS)
        self._one_of("schedule", SCHEDULES)
        self._require("learning_rate", 0 < self.learning_rate < 1, "a number in (0, 1)")
        self._require("averaging", 0 <= self.averaging < 1, "a number in [0, 1)")
        self._require("batch", self.batch >= 1, "1 or more")
        for name in ("devices", "nodes"):
            self._require(name, getattr(self, name) >= 1, "1 or more")
        self._require("workers", self.workers >= 0, "0 or more")
        self._require("seed", 0 <= self.seed < MAX_SEED, "0 or more, below 2^62")
        self._require("save_every", self.save_every >= 0, "0 seconds or more")
        self._require("images", self.images >= self.world_batch, f"at least {self.world_batch}")

    def _one_of(self, name: str, known: Collection[str]) -> None:
        if getattr(self, name) not in known:
            raise unknown_name(name, getattr(self, name), known)

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise PgnError(f"{name}: got {getattr(self, name)}, expected {expected}.")

    @property
    def world_batch(self) -> int:
        """Images of one step, over all processes."""
        return self.batch * self.devices * self.nodes

    @property
    def steps(self) -> int:
        return self.images // self.world_batch

    def identity(self) -> Mapping[str, Any]:
        """What must be equal for a run to be resumed, and what a checkpoint records."""
        return {k: v for k, v in vars(self).items() if k not in _FREE}


@dataclass(frozen=True)
class DistillOptions(RunOptions):
    """One distillation from a folder of photos, tar shards, or the bank of another run."""

    images: int = 42_000  # new crops seen in all, over all processes
    batch: int = 12
    # the network
    backbone: str = "lite"
    widths: list[list[int]] = field(default_factory=list)  # of lite's blocks; empty: its own
    head: str = "direct"
    alpha: float = 40.0  # Eq. 5; 0: found so that residuals have a root mean square of 0.2
    gamma: float = 1.0  # scale of the predicted residual (Eq. 2, 8)
    # the teacher
    teacher: str = "vgg19"
    weights: str | None = None  # oxford, torchvision or a file
    layers: dict[str, float] = field(default_factory=dict)  # {relu3_4: weight}; empty: all
    norm: str = "l1"  # of feature differences: l1 or squared-l2
    # the pictures
    crop: int = 96
    canvas: int = 256  # photos are scaled to this short side before they are cropped
    scales: list[float] = field(default_factory=lambda: [0.75, 2.0])  # crop's side / `crop`
    degraded: int = 3  # of each batch: blur, noise, JPEG, colour in place of an autoencoder's
    patience: int = 3_000  # images without progress after which an autoencoder may be reset
    replay: int = 0  # batches of old gradients learnt again after each new one
    bank: int = 0  # how many images' gradients are kept for that, on disk
    # learning
    vgg_weight: float = 0.0  # of the proxy's perceptual distance to the target (Eq. 10)
    l1_weight: float = 0.0  # of the proxy's mean absolute distance to the target (Eq. 10)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._one_of("backbone", backbones.NAMES)
        self.config()
        self._check_pictures()
        for name in ("vgg_weight", "l1_weight"):
            self._require(name, 0 <= getattr(self, name) < float("inf"), "0 or more")

    def _check_pictures(self) -> None:
        thin = self.backbone in backbones.THIN
        self._require("widths", thin or not self.widths, f"none: {self.backbone} has its own")
        drawn = self.batch - self.degraded
        shares = drawn >= SURROGATES and drawn % SURROGATES == 0 and self.degraded >= 0
        self._require("batch", shares, f"{self.degraded} + a multiple of {SURROGATES}")
        fits = 32 <= self.crop <= MAX_CROP and self.crop % 32 == 0
        self._require("crop", fits, f"a multiple of 32 up to {MAX_CROP}")
        self._require("canvas", self.canvas >= self.crop, f"at least the crop's {self.crop}")
        low, high = self.scales if len(self.scales) == 2 else (0.0, 0.0)
        self._require("scales", 0 < low <= high, "[smallest, largest], both positive")
        self._require("patience", self.patience > 0, "a positive count of images")
        self._require("replay", self.replay >= 0, "0 or more batches")
        kept = self.bank >= self.batch if self.replay else self.bank >= 0
        self._require("bank", kept, f"at least {self.batch}, since replay = {self.replay}")

    def config(self) -> PGNConfig:
        """The network's, as its checkpoint records it."""
        options = {"widths": self.widths} if self.widths else {}
        alpha = self.alpha or 1.0  # until it is found
        return PGNConfig(self.backbone, self.head, alpha, gamma=self.gamma, options=options)
