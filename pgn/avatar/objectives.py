"""What the networks of a talking head are trained for, as pure functions.

A loss is a scalar, to be minimised. Scores are what a discriminator gives, (N,), higher where more
real and without a sigmoid; a batch's loss is the mean over its images.

References: Goodfellow et al., arXiv 1406.2661 (minimax and non-saturating); Mao et al., arXiv
1611.04076 (least squares); Lim and Ye, arXiv 1705.02894, and Miyato et al., arXiv 1802.05957
(hinge); Arjovsky et al., arXiv 1701.07875 (WGAN); Gulrajani et al., arXiv 1704.00028 (gradient
penalty); Wang et al., arXiv 1711.11585 (feature matching); Zakharov et al., arXiv 1905.08233
(embedding match); Nikulin et al., arXiv 2105.01957 (a predicted gradient as a loss).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pgn.errors import unknown_name

PENALTY_WEIGHT = 10.0  # lambda of WGAN-GP


class Adversarial(NamedTuple):
    """The losses of both players: discriminator(real, generated) and generator(generated)."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


def adversarial(name: str) -> Adversarial:
    """The game `name`: minimax | non-saturating | least-squares | hinge | wgan.

    Raises:
        PgnError: no such game.
    """
    if name not in ADVERSARIAL:
        raise unknown_name("adversarial", name, ADVERSARIAL)
    return ADVERSARIAL[name]


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, generated: Tensor) -> Tensor:
    """lambda * mean((|gradient of the critic| - 1)^2), a point between each pair of images.

    Args:
        critic: scores (N,) of images, each by its own image alone.
        real, generated: (N, C, H, W); no gradient flows into them.

    Returns:
        a scalar whose gradient reaches the critic's parameters.
    """
    share = torch.rand(len(real), 1, 1, 1, dtype=real.dtype, device=real.device)
    between = torch.lerp(generated.detach(), real.detach(), share).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    penalty: Tensor = PENALTY_WEIGHT * ((gradient.flatten(1).norm(dim=1) - 1.0) ** 2).mean()
    return penalty


def feature_matching(generated: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Mean absolute difference of a discriminator's features, summed over layers.

    Args:
        generated, real: the same layers' features of generated and of real images; no gradient
            flows into `real`.
    """
    pairs = zip(generated, real, strict=True)
    return torch.stack([F.l1_loss(drawn, target.detach()) for drawn, target in pairs]).sum()


def embedding_match(identity: Tensor, person: Tensor) -> Tensor:
    """Mean absolute difference of embedded identities and the discriminator's people, (N, E)."""
    return F.l1_loss(identity, person)


def proxy_surrogate(generated: Tensor, gradient: Tensor) -> Tensor:
    """A loss whose gradient with respect to `generated` is `gradient`; its value means nothing.

    With a PGN's gradient (N, C, H, W) it trains whatever drew `generated`, beside other losses.
    """
    return (generated * gradient.detach()).sum()


def _minimax_discriminator(real: Tensor, generated: Tensor) -> Tensor:
    """-log s(real) - log(1 - s(generated)), s the sigmoid."""
    return F.softplus(-real).mean() + F.softplus(generated).mean()


def _minimax_generator(generated: Tensor) -> Tensor:
    """log(1 - s(generated)): without force where the discriminator is sure."""
    return -F.softplus(generated).mean()


def _non_saturating_generator(generated: Tensor) -> Tensor:
    """-log s(generated)."""
    return F.softplus(-generated).mean()


def _least_squares_discriminator(real: Tensor, generated: Tensor) -> Tensor:
    """Mao's a = 0 and b = 1: scores of 1 for real images, of 0 for generated ones."""
    return ((real - 1.0) ** 2).mean() / 2.0 + (generated**2).mean() / 2.0


def _least_squares_generator(generated: Tensor) -> Tensor:
    """Mao's c = 1."""
    return ((generated - 1.0) ** 2).mean() / 2.0


def _hinge_discriminator(real: Tensor, generated: Tensor) -> Tensor:
    """A margin of 1 on either side."""
    return torch.relu(1.0 - real).mean() + torch.relu(1.0 + generated).mean()


def _wasserstein_discriminator(real: Tensor, generated: Tensor) -> Tensor:
    """The critic's difference; it needs a gradient penalty, or spectral norm."""
    return generated.mean() - real.mean()


def _raise_score(generated: Tensor) -> Tensor:
    return -generated.mean()


ADVERSARIAL = {
    "minimax": Adversarial(_minimax_discriminator, _minimax_generator),
    "non-saturating": Adversarial(_minimax_discriminator, _non_saturating_generator),
    "least-squares": Adversarial(_least_squares_discriminator, _least_squares_generator),
    "hinge": Adversarial(_hinge_discriminator, _raise_score),
    "wgan": Adversarial(_wasserstein_discriminator, _raise_score),
}
