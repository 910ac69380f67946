"""Losses that compare pixels, without a network: SSD, NCC and zero-mean NCC.

Each is loss(generated, target) -> (N,) of pixels (N, 3, H, W). Like the other teachers they do not
grow with the size of an image, so that one alpha suits every size. An image counts as one vector
of CHW values.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

GREY_LEVEL = 1.0 / 255.0  # an image that varies by less (root mean square) counts as constant


def ssd(generated: Tensor, target: Tensor) -> Tensor:
    """Squared differences: their mean, not their sum, which would grow with the image."""
    return (generated - target).square().mean(dim=(1, 2, 3))


def ncc(generated: Tensor, target: Tensor) -> Tensor:
    """1 - normalised cross-correlation, 0..2: blind to a factor on either image."""
    # of unit vectors, |a - b|^2 / 2 = 1 - a.b, and it does not cancel where they are nearly equal
    return (_unit(generated) - _unit(target)).square().sum(dim=1) / 2


def zncc(generated: Tensor, target: Tensor) -> Tensor:
    """1 - zero-mean normalised cross-correlation, 0..2: blind to brightness and contrast."""
    return ncc(_centred(generated), _centred(target))


def _centred(image: Tensor) -> Tensor:
    return image - image.mean(dim=(1, 2, 3), keepdim=True)


def _unit(image: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, CHW) of length 1; a constant image stays shorter, its gradient small."""
    vector = image.flatten(1)
    return F.normalize(vector, dim=1, eps=GREY_LEVEL * vector.shape[1] ** 0.5)


LOSSES = {"ssd": ssd, "ncc": ncc, "zncc": zncc}
