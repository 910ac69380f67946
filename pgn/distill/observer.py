"""Where lessons come from: surrogate generators draw, the teacher gives its gradient there.

Reference: Nikulin et al., arXiv 2105.01957, section 4.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor

from pgn.distill.augment import crop_and_flip, degrade
from pgn.distill.bank import Lesson
from pgn.distill.options import DistillOptions
from pgn.distill.surrogates import surrogates
from pgn.images import denormalise, normalise
from pgn.model import PGN, residual_from_gradient
from pgn.teachers import Features, Teacher


class Observer:
    """Turns photos to lessons; its autoencoders follow the gradient that the network predicts."""

    def __init__(self, options: DistillOptions, teacher: Teacher, net: PGN, fabric: Fabric) -> None:
        self.options = options
        self.teacher = teacher
        self.net = net
        self.fabric = fabric
        self.surrogates = surrogates(options.patience, fabric.device)
        self.features: Features = []  # of the last targets

    def crops(self, images: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Photos (N, 3, canvas, canvas) uint8 -> crops and degraded copies, (N, 3, H, W) pixels."""
        low, high = self.options.scales
        sequence = np.random.SeedSequence((self.options.seed, self.fabric.global_rank, step))
        seed = int(sequence.generate_state(1, np.uint64)[0])
        crops = crop_and_flip(images, self.options.crop, (low, high), seed)
        crops = (crops * 255).round() / 255  # as the bank keeps them
        return crops, degrade(crops, seed)

    def observe(self, images: Tensor, step: int) -> Lesson:
        """The lesson of one batch of photos, (N, 3, canvas, canvas) uint8 on the device."""
        given = self.options.degraded
        crops, degraded = self.crops(images, step)
        u_target = normalise(crops)
        self.parts = u_target[given:].chunk(len(self.surrogates))
        with self.fabric.autocast():
            together = zip(self.surrogates, self.parts, strict=True)
            self.drawn = [s.draw(part) for s, part in together]
        u_generated = torch.cat([normalise(degraded[:given]), *self.drawn]).detach()
        return Lesson(u_generated, u_target, self.true_residual(u_generated, crops))

    def follow(self, residual: Tensor) -> list[float]:
        """Move the autoencoders along the predicted residual (N, 3, H, W); returns their L1."""
        gradient = residual * (2 * self.net.config.alpha / residual[0].numel())
        shares = gradient[self.options.degraded :].chunk(len(self.drawn))
        together = zip(self.surrogates, self.drawn, shares, self.parts, strict=True)
        return [s.follow(image, share, part) for s, image, share, part in together]

    def true_residual(self, u_generated: Tensor, target: Tensor) -> Tensor:
        """CHW/(2 alpha) times the teacher's gradient, (N, 3, H, W)."""
        pixels = target.contiguous(memory_format=torch.channels_last)
        generated = denormalise(u_generated).contiguous(memory_format=torch.channels_last)
        with self.fabric.autocast():
            with torch.no_grad():
                self.features = self.teacher.features(pixels)
            gradient = self.teacher.gradient(generated, self.features)
        return residual_from_gradient(gradient.float(), self.net.config.alpha)

    def state_dict(self) -> list[dict[str, Any]]:
        return [s.state_dict() for s in self.surrogates]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        for surrogate, saved in zip(self.surrogates, state, strict=True):
            surrogate.load_state_dict(saved)
