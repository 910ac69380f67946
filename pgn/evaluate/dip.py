"""Deep Image Prior: a network without any training is fitted to one photo, by one loss.

What a gradient is worth shows here, where a generator follows it for hundreds of steps and every
error of its own comes back. References: Ulyanov et al., arXiv 1711.10925; Nikulin et al., arXiv
2105.01957, section 4 and Table 5 (Adam 0.01, the same first weights for every loss).

Shapes: one photo, (1, 3, H, W) pixels in [0, 1]; what a network draws may leave that range.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pgn.errors import PgnError
from pgn.evaluate.peers import Pull, Towards, exact, mse
from pgn.evaluate.skip_network import SkipNetwork
from pgn.images import denormalise, normalise
from pgn.model import PGN, closed_form
from pgn.teachers import PerceptualLoss

MSE = "mse"
EXACT = "vgg19"
LEARNING_RATE = 0.01
CHECK_EVERY = 25  # steps; a check is a teacher's forward pass, which takes longer than a PGN's step
DIVERGED = "diverged"
STAGNATED = "stagnated"
DIVERGENCE = 2.0  # times the first loss
PATIENCE = 2_000  # steps without a better loss

Judge = Callable[[Tensor], float]  # (1, 3, H, W) -> VGG-19 loss


@dataclass(frozen=True)
class Run:
    """One loss to fit with. A PGN's has the network and the weight of its MSE term."""

    name: str
    towards: Towards
    net: PGN | None = None
    mse_weight: float = 0.0


@dataclass(frozen=True)
class Fit:
    """What a fit came to: its last picture with a finite VGG-19 loss, and the losses at `steps`.

    `stopped` says why it ended before its last step: diverged, stagnated, or nothing.
    """

    image: Tensor
    steps: list[int]
    vgg19: list[float]
    stopped: str


def baselines(teacher: PerceptualLoss) -> list[Run]:
    """MSE and the exact gradient, between which a PGN is judged."""
    return [Run(MSE, mse), Run(EXACT, exact(teacher))]


def pgn_run(name: str, net: PGN, mse_weight: float) -> Run:
    """The gradient of PGN.gradient: the network's, and `mse_weight` times that of MSE.

    Raises:
        PgnError: a weight that is negative or not finite.
    """
    if not 0 <= mse_weight < float("inf"):
        raise PgnError(f"--mse-weight: got {mse_weight}, expected a number of at least 0.")

    def towards(target: Tensor) -> Pull:
        def pull(generated: Tensor) -> Tensor:
            proxy = proxy_target(net, generated, target)
            return closed_form(generated, target, proxy, net.config.alpha, mse_weight)

        return pull

    return Run(f"{name}+{mse_weight:g}mse" if mse_weight else name, towards, net, mse_weight)


@torch.no_grad()
def proxy_target(net: PGN, generated: Tensor, target: Tensor) -> Tensor:
    """PGN.proxy without its checks: an untrained generator may begin outside of their range."""
    return denormalise(net(normalise(generated), normalise(target)))


@torch.no_grad()
def judge(teacher: PerceptualLoss, target: Tensor) -> Judge:
    """Measures the VGG-19 loss of pictures of `target`, whose features are computed once."""
    features = teacher.features(target)
    return torch.no_grad()(lambda image: float(teacher(image, features)))


def fit(
    pull: Pull,
    judged: Judge,
    start: tuple[SkipNetwork, Tensor],
    steps: int,
    advance: Callable[[], None] = lambda: None,
) -> Fit:
    """Fit the network by `steps` steps of Adam along `pull`, until it diverges or stagnates.

    Args:
        judged: measures the loss every CHECK_EVERY steps and after the last.
        start: a network, which changes, and its noise.
        advance: called after each step.
    """
    checked: list[int] = []
    losses: list[float] = []
    for step, drawn in _descend(pull, start, steps, advance):
        loss = judged(drawn)
        if not math.isfinite(loss):
            stopped = DIVERGED
            break
        image = drawn
        checked.append(step)
        losses.append(loss)
        stopped = verdict(checked, losses)
        if stopped:
            break
    return Fit(image, checked, losses, stopped)


def _descend(
    pull: Pull, start: tuple[SkipNetwork, Tensor], steps: int, advance: Callable[[], None]
) -> Iterator[tuple[int, Tensor]]:
    """Take the steps; at each that is to be judged: its number, and what the network draws."""
    net, noise = start
    optimiser = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
    for step in range(steps + 1):
        generated = net(noise)
        if step % CHECK_EVERY == 0 or step == steps:
            yield step, generated.detach()
        if step < steps:
            optimiser.zero_grad()
            generated.backward(pull(generated.detach()))
            optimiser.step()
            advance()


def verdict(steps: Sequence[int], losses: Sequence[float]) -> str:
    """Table 5's criteria on the losses measured at `steps`: diverged, stagnated, or nothing."""
    if losses[-1] > DIVERGENCE * losses[0]:
        return DIVERGED
    best = min(range(len(losses)), key=losses.__getitem__)
    return STAGNATED if steps[-1] - steps[best] >= PATIENCE else ""
