"""What a pack's first step must give, computed without any of our graphs: by autograd, in float64.

The same photos travel with the pack, so that every device can try itself.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pgn import PGN
from pgn.avatar.landmarks import draw
from pgn.avatar.synthetic import identity, poses, render
from pgn_export.fitting.graphs import Fitting
from pgn_export.fitting.names import MEAN, NEW, SQUARE, SUM, VALUE, tensor_name
from pgn_export.fitting.subject import Subject
from pgn_export.graph import Tensors
from pgn_export.parity import photos as real_photos
from pgn_export.proof import Run
from pgn_runtime.selftest import KEPT

SEED = 1_000_000  # of a rendered person that no training saw

Arrays = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Agreement:
    """A runtime's first step against the reference, over all trained parameters."""

    runtime: str
    cosine: float  # of the gradients
    relative_l2: float
    image_error: float  # the worst pixel of what the generator draws
    update_error: float  # of a parameter's step, in learning rates, for the runtime's own gradient

    @property
    def passes(self) -> bool:
        """Whether it is the same step; NaN fails."""
        return (
            self.cosine >= 0.999
            and self.relative_l2 <= 0.02
            and self.image_error <= 1e-3
            and self.update_error <= 1e-2
        )


def examples(subject: Subject, count: int) -> tuple[Tensor, Tensor]:
    """Photos and conditions to try a pack with, (count, 3, H, W) each."""
    if subject.condition == "landmarks":
        side = subject.size[0]
        shown = poses(SEED, 256)[:: 256 // count][:count]
        images, landmarks = render(identity(SEED), shown, side)
        return images / 255.0, draw(landmarks, side)
    photo = torch.cat(list(real_photos(subject.size)))
    photo = photo[torch.arange(count) % len(photo)]
    return photo, photo.mean(1, keepdim=True).expand_as(photo).clone()


def reference(subject: Subject, fitting: Fitting, photo: Tensor, condition: Tensor) -> Tensors:
    """All that the first call of the gradient graph gives, (float64).

    Args:
        photo, condition: (M, 3, H, W) in [0, 1].
    """
    photo, condition = photo.double(), condition.double()
    generator = copy.deepcopy(subject.generator).double().requires_grad_()
    if subject.start:
        values = copy.deepcopy(subject.start).double()(photo, condition)
        for name in subject.personal:
            generator.get_parameter(name).data = values[VALUE + tensor_name(name)].detach()
    generated = generator(condition)
    image = generated.detach()
    net: PGN = copy.deepcopy(fitting.net).double().eval()
    gradient = net.gradient(image, photo, fitting.mse_weight)
    parameters = [generator.get_parameter(name) for name in fitting.trainable]
    pulled = torch.autograd.grad(generated, parameters, gradient * image[0].numel() / 2)
    sums = {NEW + SUM + tensor_name(n): g for n, g in zip(fitting.trainable, pulled, strict=True)}
    return {"generated": image, "mse": (image - photo).square().mean((1, 2, 3)), **sums}


def first_step(
    graphs: Mapping[str, tuple[Run, Iterable[str]]], begin: Arrays, numbers: Mapping[str, float]
) -> Arrays:
    """Everything that goes into the graphs and comes out of them in a fit's first step.

    Args:
        graphs: how to run each, and the names of its inputs, in the order to run them in.
        begin: photo, condition, target and weights.
        numbers: of `adam_numbers`.
    """
    pool: dict[str, Any] = {name: np.full(1, n, np.float32) for name, n in numbers.items()}
    pool |= begin
    for name, (run, inputs) in graphs.items():
        if name == "gradient":
            pool |= {k: _zeros(pool, k) for k in inputs if k.startswith(SUM)}
        if name == "update":
            pool |= {k: pool[NEW + k] for k in inputs if k.startswith(SUM)}
            pool |= {k: _zeros(pool, k) for k in inputs if k.startswith((MEAN, SQUARE))}
        pool |= run({k: pool[k] for k in inputs})
    return pool


def agreement(runtime: str, found: Arrays, wanted: Tensors, learning_rate: float) -> Agreement:
    """Compare what a first step gave with the reference."""
    names = [name.removeprefix(NEW + SUM) for name in wanted if name.startswith(NEW + SUM)]
    sums = [NEW + SUM + name for name in names]
    ours = np.concatenate([found[name].ravel() for name in sums]).astype(np.float64)
    theirs = np.concatenate([wanted[name].numpy().ravel() for name in sums])
    lengths = np.linalg.norm(ours), np.linalg.norm(theirs)
    image = np.abs(found["generated"] - wanted["generated"].numpy()).max()
    # Adam's first step is the rate times g / (|g| + epsilon), whatever the size of the gradient
    epsilon = float(found["epsilon"][0])
    steps = np.concatenate([(found[VALUE + n] - found[NEW + VALUE + n]).ravel() for n in names])
    update = np.abs(steps - learning_rate * ours / (np.abs(ours) + epsilon)).max() / learning_rate
    return Agreement(
        runtime=runtime,
        cosine=float(ours @ theirs / (lengths[0] * lengths[1])),
        relative_l2=float(np.linalg.norm(ours - theirs) / lengths[1]),
        image_error=float(image),
        update_error=float(update),
    )


def thinned(wanted: Tensors) -> Tensors:
    """What of the reference travels: images, and evenly spaced elements of the gradients."""
    return {
        name: (_thin(value) if name.startswith(NEW) else value).float().contiguous()
        for name, value in wanted.items()
    }


def _zeros(pool: Arrays, name: str) -> NDArray[np.float32]:
    """Zeros for a sum or a moment, in the shape of its value."""
    return np.zeros_like(pool[VALUE + name.split("_of_", 1)[1]])


def _thin(value: Tensor) -> Tensor:
    flat = value.flatten()
    return flat[:: max(1, len(flat) // KEPT)][:KEPT]
