"""The avatar: an embedder and a generator that were trained together, for everybody.

Reference: Zakharov et al., arXiv 1905.08233.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from pgn.avatar.embedder import Embedder
from pgn.avatar.generator import (
    CONFIGS,
    Generator,
    GeneratorConfig,
    PersonalGenerator,
    personalise,
)
from pgn.errors import PgnError

EMBEDDER_WIDTHS = (24, 48, 96, 128)


class Avatar(nn.Module):
    """Draws anybody of whom there are a few photos.

    `info` is free metadata that travels with a checkpoint: training, measured quality, licence.
    """

    def __init__(
        self,
        config: GeneratorConfig = CONFIGS[128],
        embedder_widths: Sequence[int] = EMBEDDER_WIDTHS,
        info: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.embedder_widths = tuple(embedder_widths)
        self.info = dict(info or {})
        self.generator = Generator(config)
        self.embedder = Embedder(self.generator.style_size, self.embedder_widths)

    def forward(
        self, images: Tensor, conditions: Tensor, condition: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Persons in a new pose, (N, 3, H, W), and their identities (N, E).

        Args:
            images, conditions: (N, K, 3, H, W) in [0, 1]: K photos of each person, and their
                drawn landmarks.
            condition: (N, 3, H, W), the landmarks to draw the persons with.
        """
        shots = self.embedder(images.flatten(0, 1), conditions.flatten(0, 1))
        identity = shots.unflatten(0, images.shape[:2]).mean(1)
        drawn: Tensor = self.generator(condition, self.embedder.style(identity))
        return drawn, identity

    @torch.no_grad()
    def person(self, images: Tensor, conditions: Tensor) -> PersonalGenerator:
        """The generator of one person, to be fitted to its photos.

        Args:
            images, conditions: (K, 3, H, W) in [0, 1]: photos, and their drawn landmarks.

        Raises:
            PgnError: no photos, or not as many drawings of the same size.
        """
        shape = tuple(images.shape)
        if len(shape) != 4 or shape[0] == 0 or shape[1] != 3 or images.shape != conditions.shape:
            raise PgnError(
                f"person: got images of shape {shape} and conditions of shape "
                f"{tuple(conditions.shape)}, expected (K, 3, H, W) of both, K at least 1. Draw "
                f"the landmarks of every photo with pgn.avatar.landmarks.draw."
            )
        identity = self.embedder(images, conditions).mean(0)
        return personalise(self.generator, self.embedder.style(identity))

    def metadata(self) -> dict[str, Any]:
        """Configuration and info as one JSON-ready dictionary."""
        embedder = {"widths": list(self.embedder_widths)}
        return {**self.info, "generator": asdict(self.config), "embedder": embedder}
