"""How the network's weights move: Muon for convolutions, Adam, learning rate, average of weights.

Muon (Jordan et al. 2024): momentum whose update is made orthogonal, as a matrix of output channels
by everything else. A network as small as ours learns more from half the images than with Adam
(docs/distillation.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

WARM_UP = 100  # steps
_ADAM_RATE = 1e-3  # of what is no matrix, at the peak, beside Muon


class Optimiser:
    """Adam on everything, or Muon on convolutions and Adam on the rest, at one schedule."""

    def __init__(self, net: nn.Module, name: str, learning_rate: float) -> None:
        weights = [p for p in net.parameters() if p.ndim == 4 and p.shape[0] > 1 < p[0].numel()]
        self.filters = [p for p in weights if p.shape[2] > 1] if name == "muon" else []
        chosen = set(map(id, self.filters))
        others = [p for p in net.parameters() if id(p) not in chosen]
        rate = _ADAM_RATE if self.filters else learning_rate
        self.members: list[torch.optim.Optimizer] = [torch.optim.Adam(others, lr=rate)]
        if self.filters:
            # the library's Muon takes matrices: views of the filters, which share their memory
            self.matrices = [nn.Parameter(p.detach().view(len(p), -1)) for p in self.filters]
            self.members.append(
                torch.optim.Muon(
                    self.matrices, lr=learning_rate, weight_decay=0, adjust_lr_fn="match_rms_adamw"
                )
            )
        self.peaks = [group["lr"] for group in self._groups()]

    def step(self, factor: float) -> None:
        """One step at `factor` times the peak learning rate; gradients are used up."""
        for group, peak in zip(self._groups(), self.peaks, strict=True):
            group["lr"] = peak * factor
        for i, weight in enumerate(self.filters):
            assert weight.grad is not None
            self.matrices[i].grad = weight.grad.flatten(1)
        for member in self.members:
            member.step()
            member.zero_grad(set_to_none=True)
        for weight in self.filters:
            weight.grad = None

    def _groups(self) -> list[dict[str, Any]]:
        return [group for member in self.members for group in member.param_groups]

    def state_dict(self) -> list[dict[str, Any]]:
        return [member.state_dict() for member in self.members]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        for member, saved in zip(self.members, state, strict=True):
            member.load_state_dict(saved)


def rate_factor(name: str, step: int, steps: int) -> float:
    """The share of the peak learning rate at `step` of `steps`: warm-up, then `name`."""
    warm = min(1.0, (step + 1) / WARM_UP)
    return warm * (0.5 * (1 + math.cos(math.pi * step / steps)) if name == "cosine" else 1.0)


class Average:
    """Moving average of weights: what a run ends with, where `decay` is not 0."""

    def __init__(self, parameters: Iterable[Tensor], decay: float) -> None:
        self.decay = decay
        self.weights = [p.detach().clone() for p in parameters] if decay else []

    @torch.no_grad()
    def update(self, parameters: Iterable[Tensor], step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))  # short memory at first
        for mean, p in zip(self.weights, parameters, strict=False):
            mean.lerp_(p, 1 - decay)

    @torch.no_grad()
    def copy_to(self, parameters: Iterable[Tensor]) -> None:
        for mean, p in zip(self.weights, parameters, strict=False):
            p.copy_(mean)
