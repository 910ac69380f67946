"""Whose gradient a generator follows: that of MSE, an exact perceptual loss's, or a PGN's.

Guidance is all that fitting needs to know of a loss: (generated, target) -> gradient of each
image's loss with respect to `generated`, all (N, 3, H, W), pixels in [0, 1]. Each image has a loss
of its own, so its gradient does not depend on N. Reference: Nikulin et al., arXiv 2105.01957,
section 3.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from pgn.errors import PgnError
from pgn.model import PGN, closed_form
from pgn.teachers import Teacher

Guidance = Callable[[Tensor, Tensor], Tensor]


def mean_squared() -> Guidance:
    """Of the mean squared difference of an image's pixels."""
    return lambda generated, target: (generated - target) * (2.0 / generated[0].numel())


def exact(teacher: Teacher, mse_weight: float) -> Guidance:
    """A loss's own gradient, by autograd, and an MSE term of the same weight as in `predicted`.

    A target's features are computed once, as long as the same tensor comes again, unchanged.

    Raises:
        PgnError: a weight that is negative or not finite.
    """
    _check_weight(mse_weight)
    cached = WeakTensorKeyDictionary()

    def guidance(generated: Tensor, target: Tensor) -> Tensor:
        if target not in cached:
            with torch.no_grad():
                cached[target] = teacher.features(target)
        mse_term = closed_form(generated, target, target, 0.0, mse_weight)
        return teacher.gradient(generated, cached[target]) + mse_term

    return guidance


def predicted(net: PGN, mse_weight: float) -> Guidance:
    """What a PGN predicts, and `mse_weight` (lambda) times that of MSE in normalised units.

    Raises:
        PgnError: a weight that is negative or not finite.
    """
    _check_weight(mse_weight)
    return lambda generated, target: net.gradient(generated, target, mse_weight)


def _check_weight(mse_weight: float) -> None:
    if not 0 <= mse_weight < float("inf"):
        raise PgnError(f"mse_weight: got {mse_weight}, expected a number of at least 0.")
