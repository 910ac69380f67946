"""What a teacher is to the rest of the project, and how each of them gives its gradient."""

from __future__ import annotations

from typing import Protocol, Self

import torch
from torch import Tensor

from pgn.images import check_pair

Features = list[Tensor]


class Teacher(Protocol):
    """A distance between images whose gradient a PGN learns."""

    source: str  # which loss, with which weights: recorded in checkpoints

    def features(self, image: Tensor) -> Features:
        """What is compared, of pixels (N, 3, H, W); compute a target's once and pass it again."""

    def __call__(self, generated: Tensor, target: Tensor | Features) -> Tensor:
        """Distance of each image, (N,), differentiable in `generated`.

        Args:
            generated: (N, 3, H, W) pixels in [0, 1].
            target: pixels of the same shape, or `features(target)`; with features nothing is
                checked, for loops that know what they pass.

        Raises:
            PgnError: the two are no pair of pixel images.
        """

    def gradient(self, generated: Tensor, target: Tensor | Features) -> Tensor:
        """The exact gradient of each image's distance, (N, 3, H, W) per pixel unit."""

    def to(self, device: torch.device | str) -> Self:
        """Move it, as nn.Module does."""


def features_of_target(teacher: Teacher, generated: Tensor, target: Tensor | Features) -> Features:
    """`target` as features; pixels are first checked to pair with `generated`."""
    if isinstance(target, Tensor):
        check_pair(generated, target)
        return teacher.features(target)
    return target


def exact_gradient(teacher: Teacher, generated: Tensor, target: Tensor | Features) -> Tensor:
    """`Teacher.gradient`, by autograd."""
    with torch.enable_grad():
        variable = generated.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(teacher(variable, target).sum(), variable)
    return gradient
