"""Whose gradient is measured: a PGN's, and the exact gradients of other losses beside it.

A loss is given as `towards(target) -> (generated -> gradient)`, so that what depends on the target
alone is computed once a photo. All images and gradients are (1, 3, H, W), pixels in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from pgn.errors import PgnError, unknown_name
from pgn.model import PGN
from pgn.teachers import PerceptualLoss
from pgn.teachers.weights import is_downloaded

Pull = Callable[[Tensor], Tensor]  # generated -> gradient
Towards = Callable[[Tensor], Pull]  # target -> its pull

MSE = "mse"
HALF = "vgg19-half"
WEIGHED = ("vgg16", "vgg11", "lpips-alex", "lpips-vgg")  # peers that need weights of their own
DEFAULT = {"vgg16": "vgg16", "vgg11": "vgg11", "lpips-alex": "alexnet"}  # peer: its trunk


def predicted(net: PGN) -> Towards:
    """What the network says, in one forward pass."""
    return lambda target: lambda generated: net.gradient(generated, target)


def exact(loss: PerceptualLoss) -> Towards:
    """The loss's own gradient, by autograd."""

    def towards(target: Tensor) -> Pull:
        with torch.no_grad():
            features = loss.features(target)
        return lambda generated: loss.gradient(generated, features)

    return towards


def mse(target: Tensor) -> Pull:
    """Of the mean squared difference of pixels."""
    return lambda generated: (generated - target) * (2.0 / target.numel())


def halved(loss: PerceptualLoss) -> Towards:
    """The loss of both images at half resolution (2 x 2 means): the usual way to make it cheap."""

    def towards(target: Tensor) -> Pull:
        with torch.no_grad():
            features = loss.features(F.avg_pool2d(target, 2))

        def pull(generated: Tensor) -> Tensor:
            variable = generated.detach().requires_grad_()
            with torch.enable_grad():
                total = loss(F.avg_pool2d(variable, 2), features).sum()
            (gradient,) = torch.autograd.grad(total, variable)
            return gradient

        return pull

    return towards


def load_peers(
    teacher: PerceptualLoss, wanted: Mapping[str, str | None]
) -> tuple[dict[str, Towards], dict[str, str]]:
    """`beside` the teacher: `load_losses`; what is returned and raised is as there."""
    losses, left_out = load_losses(wanted)
    return beside(teacher, losses), left_out


def beside(teacher: PerceptualLoss, losses: Mapping[str, PerceptualLoss]) -> dict[str, Towards]:
    """The peers by name: MSE, the teacher at half resolution, and `losses`."""
    exact_ones = {name: exact(loss) for name, loss in losses.items()}
    return {MSE: mse, HALF: halved(teacher), **exact_ones}


def load_losses(
    wanted: Mapping[str, str | None],
) -> tuple[dict[str, PerceptualLoss], dict[str, str]]:
    """The DEFAULT peers whose weights are here, and `wanted`, for which alone some are downloaded.

    Args:
        wanted: {one of WEIGHED: its weights as PerceptualLoss takes them}.

    Returns:
        the losses by name, and {name: why} of the default ones that are left out.

    Raises:
        PgnError: a wanted peer is unknown, or its weights cannot be had.
    """
    found: dict[str, PerceptualLoss] = {}
    left_out = {}
    for name in wanted:
        if name not in WEIGHED:
            raise unknown_name("--peer", name, WEIGHED)
    for name in dict.fromkeys((*DEFAULT, *wanted)):
        if name in wanted:
            found[name] = PerceptualLoss(name, wanted[name])
            continue
        try:
            found[name] = _without_download(name)
        except PgnError as error:
            left_out[name] = str(error)
    return found, left_out


def _without_download(name: str) -> PerceptualLoss:
    """A DEFAULT peer: nobody asked for it, so nobody is to wait for its half a gigabyte."""
    if not is_downloaded(DEFAULT[name]):
        raise PgnError(
            f"its weights are not here. Add --peer {name} to download them, or --peer {name}=FILE."
        )
    return PerceptualLoss(name)
