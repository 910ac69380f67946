"""Every setting of the avatar's meta-training, validated. A recipe is a TOML file of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pgn.avatar.generator import CONFIGS, GeneratorConfig
from pgn.avatar.objectives import ADVERSARIAL
from pgn.avatar.rendered import HELD_OUT
from pgn.distill.options import RunOptions
from pgn.errors import PgnError
from pgn.images import MIN_SIZE

SYNTHETIC = "synthetic"  # among the sources: rendered people
NO_GAME = "none"
PENALISED = "wgan-gp"  # the game wgan, with a gradient penalty
GAMES = (NO_GAME, *ADVERSARIAL, PENALISED)


@dataclass(frozen=True)
class AvatarOptions(RunOptions):
    """One meta-training on `data`: synthetic, a source of read_people, or several with commas."""

    images: int = 40_000  # drawn in all, over all processes
    batch: int = 8  # persons of a step; of each, one image is drawn
    # whom
    shots: int = 4  # frames that show who a person is, beside the one to draw
    holdout: list[str] = field(default_factory=list)  # names never trained on
    identities: int = 600  # synthetic people
    poses: int = 12  # frames of each of them
    # the networks
    size: int = 128  # pixels
    widths: list[int] = field(default_factory=list)  # of the generator; empty: its own
    blocks: int = 4  # of the generator, at the coarsest resolution
    # what they are trained for, each a mean over the batch
    perceptual: str = "pgn-lite"  # a PGN by name or file, or a loss as vgg19, lpips-vgg, ...
    perceptual_weight: float = 1.0  # of it, and of the MSE that goes with it
    mse_weight: float = 2.0  # of that MSE, in normalised units, beside the perceptual loss's 1
    adversarial: str = NO_GAME  # none leaves the discriminator out
    adversarial_weight: float = 1.0
    matching_weight: float = 10.0  # of the discriminator's features
    embedding_weight: float = 80.0  # of identities and the discriminator's people
    discriminator_rate: float = 2e-4  # its Adam's

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("data", not self.data or all(self.sources), "sources between the commas")
        self._one_of("adversarial", GAMES)
        self._require("shots", self.shots >= 1, "1 or more")
        known = 1 <= self.identities <= HELD_OUT
        self._require("identities", known, f"1 to {HELD_OUT}: those behind are kept for judging")
        self._require("poses", self.poses > self.shots, f"more than shots, {self.shots}")
        self._require("size", self.size >= MIN_SIZE, f"{MIN_SIZE} pixels or more")
        self._require("discriminator_rate", 0 < self.discriminator_rate < 1, "a number in (0, 1)")
        for name in vars(self):
            if name.endswith("_weight"):
                self._require(name, 0 <= getattr(self, name) < float("inf"), "0 or more")
        self.generator()

    @property
    def sources(self) -> list[str]:
        return [source.strip() for source in self.data.split(",")]

    @property
    def source_names(self) -> list[str]:
        """What a checkpoint tells of the sources: no paths, which are nobody's business."""
        return [Path(source).resolve().name for source in self.sources]

    @property
    def plays(self) -> bool:
        """Is there a discriminator?"""
        return self.adversarial != NO_GAME

    def generator(self) -> GeneratorConfig:
        """Of which shape the generator is.

        Raises:
            PgnError: no generator has this size, or these widths.
        """
        if self.widths:
            return GeneratorConfig(self.size, self.widths, self.blocks)
        if self.size not in CONFIGS:
            raise PgnError(
                f"size: got {self.size}, expected one of {', '.join(map(str, CONFIGS))}, or "
                f"the generator's channels too: --set widths=[16,32,64,128]."
            )
        return GeneratorConfig(self.size, CONFIGS[self.size].widths, self.blocks)
