"""Any function loss(generated, target) -> (N,) of pixels (N, 3, H, W) as a teacher."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pgn.errors import PgnError
from pgn.plugins import blame, import_callable
from pgn.teachers.teacher import Features, exact_gradient, features_of_target

Loss = Callable[[Tensor, Tensor], Tensor]

CHECKED_SIZE = 64  # pixels of the images on which a function is tried
TOLERANCE = 1e-3  # relative, between an image's loss alone and in a batch
CONTRACT = (
    "Expected loss(generated, target) -> float tensor (N,), one loss an image, differentiable, "
    "for pixels (N, 3, H, W)."
)


class CallableLoss(nn.Module):
    """`loss`, a function of pixels or a module, under the name `source`."""

    def __init__(self, loss: Loss, source: str) -> None:
        super().__init__()
        self.loss = loss
        self.source = source
        self.requires_grad_(False)
        self.eval()

    def features(self, image: Tensor) -> Features:
        """The pixels themselves."""
        return [image]

    def forward(self, generated: Tensor, target: Tensor | Features) -> Tensor:
        """Loss of each image, (N,); see `Teacher`. What the function raises becomes a PgnError."""
        (image,) = features_of_target(self, generated, target)
        with blame("teacher", self.source, CONTRACT):
            return self.loss(generated, image)

    def gradient(self, generated: Tensor, target: Tensor | Features) -> Tensor:
        """The exact gradient of each image's loss, (N, 3, H, W) per pixel unit."""
        with blame("teacher", self.source, CONTRACT):
            return exact_gradient(self, generated, target)


def load_callable(spec: str) -> CallableLoss:
    """The loss `module:callable`, tried on two small images.

    Raises:
        PgnError: there is no such module or callable; it fails; what it returns is no
            differentiable loss of each image.
    """
    loss = import_callable("teacher", spec)
    teacher = CallableLoss(loss, spec)
    _check(teacher)
    return teacher


def _check(teacher: CallableLoss) -> None:
    """Try the loss on two images that differ in contrast."""
    generator = torch.Generator().manual_seed(0)
    contrast = torch.tensor([1.0, 0.5]).view(2, 1, 1, 1)
    generated, target = (
        contrast * torch.rand(2, 3, CHECKED_SIZE, CHECKED_SIZE, generator=generator)
        for _ in range(2)
    )
    losses = _losses(teacher, generated.requires_grad_(), target)
    if not losses.requires_grad:
        raise _refusal(teacher, "returned a loss without gradient (item, numpy, detach, no_grad?)")
    gradient = teacher.gradient(generated, target)
    if not (losses.isfinite().all() and gradient.isfinite().all()):
        raise _refusal(teacher, "gave NaN or infinity as a loss or in its gradient")
    if not gradient.flatten(1).any(dim=1).all():
        raise _refusal(teacher, "gave a gradient of zeros, from which nothing can be learned")
    alone = torch.cat([_losses(teacher, generated[i : i + 1], target[i : i + 1]) for i in (0, 1)])
    if not torch.allclose(losses, alone, rtol=TOLERANCE):
        raise _refusal(
            teacher,
            f"gave losses {losses.tolist()} to two images together, and {alone.tolist()} to each "
            f"alone: it must not mix images, change its inputs or draw random numbers",
        )


def _losses(teacher: CallableLoss, generated: Tensor, target: Tensor) -> Tensor:
    found: object = teacher(generated, target)
    shape = (len(generated),)
    if not isinstance(found, Tensor) or found.shape != shape or not found.is_floating_point():
        raise _refusal(teacher, f"returned {_described(found)} for {len(generated)} image(s)")
    return found


def _refusal(teacher: CallableLoss, what: str) -> PgnError:
    return PgnError(f"teacher: {teacher.source} {what}. {CONTRACT}")


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
