"""Fit an image's pixels along a PGN's gradient: the smallest use of an exported network."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pgn_runtime.adam import Adam
from pgn_runtime.artifact import Artifact
from pgn_runtime.errors import RuntimeInputError
from pgn_runtime.files import Pixels
from pgn_runtime.gradient import closed_form, mean_squared


@dataclass(frozen=True)
class FitOptions:
    """`mse_weight` is lambda of the closed form; `keep_every` steps an image is kept."""

    steps: int = 100
    learning_rate: float = 0.01  # in pixels of [0, 1]
    mse_weight: float = 2.0
    keep_every: int = 10

    def __post_init__(self) -> None:
        for name in ("steps", "learning_rate", "keep_every"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise RuntimeInputError(f"{name}: got {value}, expected a positive number.")
        if not 0 <= self.mse_weight < float("inf"):
            raise RuntimeInputError(f"mse_weight: got {self.mse_weight}, expected 0 or more.")


@dataclass
class FitReport:
    """The fitted image, and how it came about; kept images are (step, pixels), start included.

    Progress is told as MSE: alpha * MSE(generated, P) is no loss that falls, since P moves with
    the image, and an L1 teacher pulls as hard near its target as far from it.
    """

    image: Pixels  # (N, 3, H, W)
    proxy: Pixels  # of the start
    mse: list[float] = field(default_factory=list)  # to the target, before each step
    kept: list[tuple[int, Pixels]] = field(default_factory=list)
    seconds: float = 0.0


def fit_pixels(
    artifact: Artifact,
    generated: Pixels,
    target: Pixels,
    options: FitOptions | None = None,
    on_step: Callable[[int, float], None] = lambda step, mse: None,
) -> FitReport:
    """Adam on the pixels of `generated` towards `target`, (N, 3, H, W) in [0, 1].

    Args:
        on_step: called with the step's number, from 1, and the MSE before it.

    Raises:
        RuntimeInputError: as `Artifact.proxy`.
    """
    options = options or FitOptions()
    image = generated.copy()
    optimiser = Adam(image.shape, options.learning_rate)
    report = FitReport(image=image, proxy=artifact.proxy(image, target))
    report.kept.append((0, image.copy()))
    start = time.perf_counter()
    for step in range(1, options.steps + 1):
        proxy = artifact.proxy(image, target)
        report.mse.append(mean_squared(image, target))
        gradient = closed_form(image, target, proxy, artifact.alpha, options.mse_weight)
        optimiser.step(image, gradient)
        if step % options.keep_every == 0 or step == options.steps:
            report.kept.append((step, image.copy()))
        on_step(step, report.mse[-1])
    report.seconds = time.perf_counter() - start
    return report
