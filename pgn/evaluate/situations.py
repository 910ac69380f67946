"""Where gradients are measured: degraded photos, outputs of autoencoders, a fit on its way.

A situation draws the generated images of one photo, {name: (3, H, W)}, from pixels (3, H, W).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pgn.degrade import BESIDE, SUITE
from pgn.distill.autoencoders import DEPTHS, Autoencoder
from pgn.errors import PgnError
from pgn.evaluate.peers import exact
from pgn.evaluate.skip_network import MIN_SIDE, seeded_start
from pgn.files import read_image
from pgn.images import centre_crop, denormalise, normalise
from pgn.teachers import PerceptualLoss

Draw = Callable[[Tensor], Mapping[str, Tensor]]

AUTOENCODER_STEPS = 100
AUTOENCODER_BATCH = 4
AUTOENCODER_MULTIPLE = 8  # pixels
TRAJECTORY_STEPS = 100
TRAJECTORY_PHOTOS = 8  # the first ones: each costs TRAJECTORY_STEPS exact gradients
TRAJECTORY_RATE = 0.01  # of Deep Image Prior
TRAJECTORY_SEED = 1  # its first picture stays within -2 and 2; a PGN refuses what leaves -4 and 4
DEGRADED, AUTOENCODER, TRAJECTORY = NAMES = ("degraded", "autoencoder", "trajectory")


@dataclass(frozen=True)
class Situation:
    """What to draw, at which sizes, and of how many photos (None: all)."""

    draw: Draw
    sizes: tuple[int, ...]
    photos: int | None = None


def prepare(
    names: Sequence[str], teacher: PerceptualLoss, paths: Sequence[Path], sizes: Sequence[int]
) -> list[Situation]:
    """The situations of these NAMES; autoencoders are fitted here, at the smallest size.

    The trajectory is followed at the smallest size too, for the first TRAJECTORY_PHOTOS.

    Raises:
        PgnError: a size under the trajectory's, or a photo that cannot be read.
    """
    every, smallest = tuple(set(sizes)), min(sizes)
    if TRAJECTORY in names and smallest < MIN_SIDE:
        raise PgnError(
            f"--size: got {smallest}, expected at least {MIN_SIDE} pixels for the {TRAJECTORY}. "
            f"Or choose others: --situation {DEGRADED} --situation {AUTOENCODER}."
        )
    found = []
    if DEGRADED in names:
        found.append(Situation(degraded, every))
    if AUTOENCODER in names:
        photos = torch.stack([centre_crop(read_image(path), smallest) for path in paths])
        found.append(Situation(fitted_autoencoders(photos), every))
    if TRAJECTORY in names:
        found.append(Situation(trajectory(teacher), (smallest,), TRAJECTORY_PHOTOS))
    return found


def degraded(photo: Tensor) -> dict[str, Tensor]:
    """SUITE and BESIDE of pgn.degrade."""
    return {name: degrade(photo) for name, degrade in (SUITE | BESIDE).items()}


def fitted_autoencoders(photos: Tensor, steps: int = AUTOENCODER_STEPS) -> Draw:
    """Outputs of the training's three autoencoders, fitted to `photos` (N, 3, H, W) with MSE.

    Each takes `steps` steps of Adam (default rate), from the same seed always, on the same batches
    of AUTOENCODER_BATCH photos. The global random state stays as it is.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        nets = {f"autoencoder {depth}": Autoencoder(depth) for depth in DEPTHS}
        picks = torch.randint(len(photos), (steps, AUTOENCODER_BATCH))
    for net in nets.values():
        optimiser = torch.optim.Adam(net.parameters())
        for pick in picks:
            u = normalise(_padded(photos[pick]))
            loss = F.mse_loss(net(u), u)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        net.eval()

    @torch.no_grad()
    def draw(photo: Tensor) -> dict[str, Tensor]:
        height, width = photo.shape[-2:]
        u = normalise(_padded(photo[None]))
        return {name: denormalise(net(u))[0, :, :height, :width] for name, net in nets.items()}

    return draw


def trajectory(teacher: PerceptualLoss, steps: int = TRAJECTORY_STEPS) -> Draw:
    """Start, middle and end of a fit to the photo that follows the teacher's exact gradient.

    The generator is Deep Image Prior's skip network, fitted by Adam at TRAJECTORY_RATE from the
    same start always.
    """

    def draw(photo: Tensor) -> dict[str, Tensor]:
        pull = exact(teacher)(photo[None])
        net, noise = seeded_start(TRAJECTORY_SEED, *photo.shape[-2:])
        optimiser = torch.optim.Adam(net.parameters(), lr=TRAJECTORY_RATE)
        generated = net(noise)
        states = {0: generated}
        for step in range(1, steps + 1):
            optimiser.zero_grad()
            generated.backward(pull(generated))
            optimiser.step()
            generated = net(noise)
            if step in (steps // 2, steps):
                states[step] = generated
        return {f"fit, step {step}": image.detach()[0] for step, image in states.items()}

    return draw


def _padded(pixels: Tensor) -> Tensor:
    bottom, right = (-side % AUTOENCODER_MULTIPLE for side in pixels.shape[-2:])
    return F.pad(pixels, (0, right, 0, bottom), mode="replicate")
