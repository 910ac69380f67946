"""Fine-tuning a talking head to one person: a few photos, a few steps of Adam, any loss.

The step that a device takes is tested against this one, so it is plain: float32, nothing random,
all photos in every step. References: Zakharov et al., arXiv 1905.08233, section 3.3; Nikulin et
al., arXiv 2105.01957, section 4 (8 photos, 50 steps, the discriminator off).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pgn.avatar.generator import TRAINABLE, PersonalGenerator, trainable
from pgn.avatar.guidance import Guidance
from pgn.errors import PgnError, unknown_name

Batch = tuple[Tensor, Tensor]  # conditions and photos, (N, 3, H, W) each


class DivergedError(PgnError):
    """What the generator draws is no image any more."""


@dataclass(frozen=True)
class FineTuneOptions:
    """How a generator is fine-tuned; `trainable` is a preset of `generator.trainable`."""

    steps: int = 50
    learning_rate: float = 5e-5  # of Adam
    trainable: str = "all"
    microbatch: int | None = None  # photos at a time, to save memory; the result is the same

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise PgnError(f"steps: got {self.steps}, expected 1 or more.")
        if not 0 < self.learning_rate < 1:
            raise PgnError(f"learning_rate: got {self.learning_rate}, expected a number in (0, 1).")
        if self.trainable not in TRAINABLE:
            raise unknown_name("trainable", self.trainable, TRAINABLE)
        if self.microbatch is not None and self.microbatch < 1:
            raise PgnError(f"microbatch: got {self.microbatch}, expected 1 photo or more.")


@dataclass
class FineTuneReport:
    """How a fine-tuning went, an entry a step.

    Progress is told as MSE, whatever the loss: a predicted gradient has no value.
    """

    mse: list[float] = field(default_factory=list)  # mean over the photos, before the step
    seconds: list[float] = field(default_factory=list)
    guidance_seconds: list[float] = field(default_factory=list)  # the loss's part of them


def fine_tune(
    generator: PersonalGenerator,
    conditions: Tensor,
    photos: Tensor,
    guidance: Guidance,
    options: FineTuneOptions,
    on_step: Callable[[int, float], None] = lambda step, mse: None,
) -> FineTuneReport:
    """Fit `generator`, in place, to K photos of its person; the loss is the mean over photos.

    Args:
        conditions: (K, 3, H, W), the drawn landmarks of each photo.
        photos: (K, 3, H, W) in [0, 1].
        guidance: the loss, as the gradient of each image.
        on_step: called after each step with its number, from 1, and the MSE before it.

    Raises:
        PgnError: photos and conditions that are no pairs, and what the guidance raises.
        DivergedError: the images hold NaN; the generator is of no use then.
    """
    names = trainable(generator, options.trainable)
    parameters = [generator.get_parameter(name).requires_grad_() for name in names]
    _check_photos(conditions, photos, parameters[0].dtype)
    optimiser = torch.optim.Adam(parameters, lr=options.learning_rate)
    optimiser.zero_grad()  # what an earlier backward pass left
    size = options.microbatch or len(photos)
    batches = list(zip(torch.split(conditions, size), torch.split(photos, size), strict=True))
    report = FineTuneReport()
    for step in range(1, options.steps + 1):
        start = time.perf_counter()
        mse, guidance_seconds = _accumulate(generator, parameters, batches, guidance)
        if not math.isfinite(mse):
            raise DivergedError(
                f"fine-tuning: at step {step} the images hold NaN or infinite values. Lower the "
                f"learning rate, {options.learning_rate:g}, and begin again."
            )
        optimiser.step()
        optimiser.zero_grad()
        report.mse.append(mse)
        report.seconds.append(time.perf_counter() - start)
        report.guidance_seconds.append(guidance_seconds)
        on_step(step, mse)
    return report


def _accumulate(
    generator: PersonalGenerator,
    parameters: Sequence[Tensor],
    batches: Sequence[Batch],
    guidance: Guidance,
) -> tuple[float, float]:
    """Add the gradient of the mean over all photos to that of `parameters`, batch by batch.

    Returns:
        the MSE of what was drawn, and the seconds spent in `guidance`. Where the MSE is not
        finite, nothing more was added.
    """
    photo_count = sum(len(photos) for _, photos in batches)
    total, seconds = 0.0, 0.0
    for conditions, photos in batches:
        generated = generator(conditions)
        image = generated.detach()
        total += float((image - photos).square().mean()) * len(photos)
        if not math.isfinite(total):
            break
        start = time.perf_counter()
        gradient = guidance(image, photos)
        seconds += time.perf_counter() - start
        torch.autograd.backward(generated, gradient / photo_count, inputs=parameters)
    return total / photo_count, seconds


def _check_photos(conditions: Tensor, photos: Tensor, dtype: torch.dtype) -> None:
    shape = tuple(photos.shape)
    if len(shape) != 4 or shape[0] == 0 or shape[1] != 3 or conditions.shape != photos.shape:
        raise PgnError(
            f"photos: got shape {shape} and conditions of shape {tuple(conditions.shape)}, "
            f"expected (K, 3, H, W) of both, K at least 1. Draw the landmarks of every photo with "
            f"pgn.avatar.landmarks.draw."
        )
    for name, images in (("photos", photos), ("conditions", conditions)):
        if images.dtype != dtype:
            raise PgnError(
                f"{name}: got {images.dtype}, expected {dtype}, that of the generator, in [0, 1]. "
                f"Divide 8-bit pixels by 255."
            )
