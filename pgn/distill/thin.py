"""Initialise `lite` from its teacher: every thin layer imitates chosen channels of the layer.

Layer by layer, channels are chosen greedily by how much they differ between a photo and its
degraded copy, discounted by what those already chosen explain; the thin layer's weights are the
ridge regression of the chosen pre-activations on the thin features below. Then one gain a layer,
by least squares, fits the transposed pass to the teacher's gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgn.backbones import Lite
from pgn.images import normalise
from pgn.model import residual_from_gradient
from pgn.teachers import PerceptualLoss

RIDGE = 1e-3
POSITIONS = 40_000  # pixels sampled for one regression
INITIAL_SOFTNESS = 0.1  # features have root mean square 1


@dataclass(frozen=True)
class LayerFit:
    """How well one thin layer imitates its teacher."""

    layer: int
    r_squared: float


def imitated(student: Sequence[bool], teacher: Sequence[bool]) -> list[int]:
    """Which layer of the teacher each of the student's imitates; none if it has not its blocks.

    A block's last layers are imitated, of the student's deepest block the first ones.

    Args:
        student, teacher: for each layer, whether it is fed by pooled features.
    """
    short, full = _blocks(student), _blocks(teacher)
    if len(short) > len(full) or any(len(a) > len(b) for a, b in zip(short, full, strict=False)):
        return []
    chosen = [b[len(b) - len(a) :] for a, b in zip(short[:-1], full, strict=False)]
    return [*chain(*chosen), *full[len(short) - 1][: len(short[-1])]]


def _blocks(pooled: Sequence[bool]) -> list[list[int]]:
    """Layer numbers, block by block."""
    blocks: list[list[int]] = [[]]
    for k, starts in enumerate(pooled):
        if starts:
            blocks.append([])
        blocks[-1].append(k)
    return blocks


@torch.no_grad()
def initialise(
    student: Lite, teacher: PerceptualLoss, photos: Tensor, degraded: Tensor, alpha: float
) -> list[LayerFit]:
    """Set all of the student's weights, in place; returns the fit of every layer.

    Where the teacher is no VGG, or has not the student's blocks, nothing is set or returned.

    Args:
        photos, degraded: (N, 3, H, W) pixels in [0, 1]; 96 crops are enough.
        alpha: the network's scale (Eq. 5); its residual is CHW/(2 alpha) times the gradient.
    """
    layers = imitated(student.pooled, teacher.trunk.pooled) if teacher.is_vgg else []
    if not layers:
        return []
    both = torch.cat([degraded, photos])
    outputs = teacher.trunk.preactivations(both)
    wanted = [outputs[k] for k in layers]
    thin = normalise(both)
    generator = torch.Generator().manual_seed(0)
    fits = []
    for k, (module, pooled) in enumerate(zip(student.convs, student.pooled, strict=True)):
        assert isinstance(module, nn.Conv2d)
        thin = F.avg_pool2d(thin, 2) if pooled else thin
        chosen = _choose(torch.relu(wanted[k]), module.out_channels)
        r_squared = _regress(module, thin, wanted[k][:, chosen], generator)
        thin = torch.relu(module(thin))
        rms = thin.square().mean(dim=(0, 2, 3)).sqrt().clamp_min(1e-3)
        module.weight /= rms.view(-1, 1, 1, 1)
        assert module.bias is not None
        module.bias /= rms
        thin = thin / rms.view(1, -1, 1, 1)
        if k >= student.first_compared:
            # the chosen channels stand for all: mean over them, in units of the thin features
            share = rms / module.out_channels * 4.0 ** sum(student.pooled[: k + 1])
            student.strength[k - student.first_compared].copy_(share.view(1, -1, 1, 1))
            student.softness[k - student.first_compared].fill_(INITIAL_SOFTNESS)
        fits.append(LayerFit(k, r_squared))
    student.tie()
    _fit_gains(student, teacher, photos, degraded, alpha)
    return fits


def _choose(features: Tensor, count: int) -> list[int]:
    """Greedy choice of `count` channels of (2N, C, H, W): first N degraded, then N photos."""
    half = len(features) // 2
    difference = (features[:half] - features[half:]).transpose(0, 1).flatten(1)  # (C, N*H*W)
    difference = difference[:, :: max(1, difference.shape[1] // POSITIONS)]
    size = difference.abs().mean(dim=1)
    unit = difference / difference.norm(dim=1, keepdim=True).clamp_min(1e-9)
    unexplained = torch.ones_like(size)
    chosen: list[int] = []
    for _ in range(count):
        score = size * unexplained
        score[chosen] = -1.0
        best = int(score.argmax())
        chosen.append(best)
        unexplained = torch.minimum(unexplained, 1.0 - (unit @ unit[best]).square())
    return chosen


def _regress(conv: nn.Conv2d, below: Tensor, wanted: Tensor, generator: torch.Generator) -> float:
    """Ridge regression of `wanted` (2N, C, H, W) on 3x3 patches of `below`; returns R^2."""
    height, width = wanted.shape[-2:]
    padded = F.pad(below, (1, 1, 1, 1))
    image = torch.randint(len(below), (POSITIONS,), generator=generator)
    row = torch.randint(height, (POSITIONS,), generator=generator)
    column = torch.randint(width, (POSITIONS,), generator=generator)
    taps = [padded[image, :, row + i, column + j] for i in range(3) for j in range(3)]
    patches = torch.stack(taps, dim=2).flatten(1).double()  # (positions, channels * 9)
    patches = torch.cat([patches, torch.ones(len(patches), 1, dtype=torch.float64)], dim=1)
    values = wanted[image, :, row, column].double()
    normal = patches.T @ patches
    normal += RIDGE * normal.diagonal().mean() * torch.eye(len(normal), dtype=torch.float64)
    solution = torch.linalg.solve(normal, patches.T @ values)
    conv.weight.copy_(solution[:-1].T.reshape(conv.weight.shape))
    assert conv.bias is not None
    conv.bias.copy_(solution[-1])
    error = (patches @ solution - values).square().sum()
    return 1.0 - float(error / (values - values.mean(dim=0)).square().sum())


def _fit_gains(
    student: Lite, teacher: PerceptualLoss, photos: Tensor, degraded: Tensor, alpha: float
) -> None:
    """Scale each layer's strengths so that the sum of their passes is nearest the truth."""
    wanted = residual_from_gradient(teacher.gradient(degraded, photos), alpha).flatten()
    generated, target = student.features(normalise(degraded)), student.features(normalise(photos))
    strengths = [strength.clone() for strength in student.strength]
    parts = []
    for k in range(len(strengths)):
        for j, strength in enumerate(student.strength):
            strength.copy_(strengths[j] if j == k else torch.zeros_like(strength))
        parts.append(student.residual(generated, target[student.first_compared :]).flatten())
    columns = torch.stack(parts, dim=1)
    gains = torch.linalg.lstsq(columns.double(), wanted.double()[:, None]).solution.flatten()
    for strength, initial, gain in zip(student.strength, strengths, gains, strict=True):
        strength.copy_(initial * gain)
