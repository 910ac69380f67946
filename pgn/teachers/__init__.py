"""Teachers: the losses whose gradient a PGN learns, and the metrics that judge it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pgn.errors import PgnError, unknown_name
from pgn.teachers import pixelwise
from pgn.teachers.custom import CallableLoss, load_callable
from pgn.teachers.perceptual import NAMES, PerceptualLoss
from pgn.teachers.teacher import Features, Teacher


def load_teacher(
    spec: str,
    weights: str | Path | None = None,
    *,
    layers: Mapping[str, float] | None = None,
    norm: str = "l1",
) -> Teacher:
    """The teacher that `spec` names.

    Args:
        spec: one of NAMES (see PerceptualLoss, also for the other arguments), ssd | ncc | zncc,
            or module:callable, a function loss(generated, target) -> (N,) of pixels
            (N, 3, H, W) in [0, 1]; its module is installed or lies in the current folder.

    Raises:
        PgnError: no such loss; a callable that is no loss of each image; weights, layers or norm
            for a loss that has none; and what PerceptualLoss raises.
    """
    if spec in NAMES:
        return PerceptualLoss(spec, weights, layers=layers, norm=norm)
    if weights is not None or layers is not None or norm != "l1":
        raise PgnError(
            f"teacher {spec}: got weights={weights!r}, layers={layers!r}, norm={norm!r}, but only "
            f"{', '.join(NAMES)} have such. Leave them out."
        )
    if spec in pixelwise.LOSSES:
        return CallableLoss(pixelwise.LOSSES[spec], spec)
    if ":" in spec:
        return load_callable(spec)
    raise unknown_name("teacher", spec, (*NAMES, *pixelwise.LOSSES, "module:callable"))


__all__ = ["NAMES", "Features", "PerceptualLoss", "Teacher", "load_teacher"]
