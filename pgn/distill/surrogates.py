"""Surrogate generators under training: they follow the predicted gradient, and are replaced when
they stop learning, so that the PGN keeps seeing all stages of a generator's life.

Reference: Nikulin et al., arXiv 2105.01957, section 4 (a third of the batch each; reset when the
L1 distance has not improved for `patience` images).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pgn.distill.autoencoders import DEPTHS, Autoencoder

CLIP_FACTOR = 5.0  # gradient norms are clipped at this multiple of their running mean
NORM_MOMENTUM = 0.99
RESET_PROBABILITY = 0.01  # a batch, once patience is over
DIVERGED_L1 = 1000.0


class RunningNormClip:
    """Clips gradients at CLIP_FACTOR times the running mean of their norm."""

    def __init__(self) -> None:
        self.mean: float | None = None

    def __call__(self, parameters: Iterable[nn.Parameter]) -> float:
        """Clip in place; returns the norm before. A norm that is not finite changes no mean."""
        limit = CLIP_FACTOR * self.mean if self.mean else float("inf")
        norm = float(nn.utils.clip_grad_norm_(list(parameters), limit))
        if math.isfinite(norm):
            seen = min(norm, limit)
            previous = self.mean or seen
            self.mean = NORM_MOMENTUM * previous + (1 - NORM_MOMENTUM) * seen
        return norm


class Surrogate:
    """One autoencoder with its optimiser, clipping and plateau counter."""

    def __init__(self, depth: int, patience: int, device: torch.device | None = None) -> None:
        self.depth = depth
        self.patience = patience
        self.device = device
        self._start()

    def _start(self) -> None:
        self.net = Autoencoder(self.depth).to(self.device)
        self.optimiser = torch.optim.Adam(self.net.parameters())
        self.clip = RunningNormClip()
        self.best_l1 = float("inf")
        self.stale_images = 0

    def draw(self, u_target: Tensor) -> Tensor:
        """Its picture of `u_target`, (N, 3, H, W) normalised; starts again if it is not finite."""
        picture: Tensor = self.net(u_target).float()
        if not torch.isfinite(picture).all():
            self._start()
            picture = self.net(u_target).float()
        return picture

    def follow(self, generated: Tensor, gradient: Tensor, target: Tensor) -> float:
        """One Adam step along `gradient` (N, 3, H, W); returns the L1 distance to the target."""
        self.optimiser.zero_grad(set_to_none=True)
        generated.backward(gradient)  # type: ignore[no-untyped-call]
        self.clip(self.net.parameters())
        self.optimiser.step()
        l1 = float((generated.detach() - target).abs().mean())
        self._watch(l1, len(target))
        return l1

    def _watch(self, l1: float, images: int) -> None:
        improved = l1 < self.best_l1
        self.best_l1 = min(l1, self.best_l1)
        self.stale_images = 0 if improved else self.stale_images + images
        stuck = self.stale_images > self.patience and float(torch.rand(())) < RESET_PROBABILITY
        if stuck or not l1 < DIVERGED_L1:  # NaN is divergence too
            self._start()

    def state_dict(self) -> dict[str, Any]:
        return {
            "net": self.net.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "clip": self.clip.mean,
            "best_l1": self.best_l1,
            "stale_images": self.stale_images,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.clip.mean = state["clip"]
        self.best_l1 = state["best_l1"]
        self.stale_images = state["stale_images"]


def surrogates(patience: int, device: torch.device | None = None) -> list[Surrogate]:
    """One of each depth."""
    return [Surrogate(depth, patience, device) for depth in DEPTHS]
