"""Exact gradients written out as plain graphs: forward pass, differences, transposed pass.

Nothing is differentiated at run time, so a compiler or a runtime for inference can run them: the
strongest form of the losses that a PGN competes with. The target's features are given.

Shapes: pixels and gradient (N, 3, H, W); features as the loss's own `features` gives them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgn.errors import PgnError
from pgn.teachers import PerceptualLoss
from pgn.teachers.feature_loss import FeatureLoss
from pgn.teachers.lpips import LPIPS

STEEP = 1e30  # turns any number but 0 into one beyond -1 or 1; three times as fast as Sign in ORT
TINY = 1e-20  # where all channels are 0, so is what is divided by their length


def gradient_graph(loss: PerceptualLoss) -> nn.Module:
    """(generated, features of the target) -> gradient of each image's distance, per pixel unit.

    Raises:
        PgnError: a feature loss with another norm than L1, which is not written out.
    """
    network = loss.network
    if isinstance(network, LPIPS):
        return LPIPSGradient(network)
    if network.norm != "l1":
        raise PgnError(f"norm: got {network.norm}, expected l1, whose gradient is written out.")
    return FeatureLossGradient(network)


class FeatureLossGradient(nn.Module):
    """Of the L1 feature loss of a VGG trunk with average pooling."""

    def __init__(self, network: FeatureLoss) -> None:
        super().__init__()
        self.network = network
        self.back = _way_back(network.trunk.convs)

    def forward(self, generated: Tensor, features: Sequence[Tensor]) -> Tensor:
        network, trunk = self.network, self.network.trunk
        targets = dict(zip(network.compared, features, strict=True))
        weights = dict(zip(network.compared, network.layers.values(), strict=True))
        outputs = trunk.preactivations(generated, depth=network.compared[-1] + 1)
        outputs = [torch.relu(each) for each in outputs]
        g = torch.zeros_like(outputs[-1])
        for k in reversed(range(len(outputs))):
            out = outputs[k]
            if k in targets:
                sign = torch.clamp((out - targets[k]) * STEEP, -1.0, 1.0)
                g = g + sign * (network.factor * weights[k] / out[0].numel())
            below = outputs[k - 1] if k else generated
            g = self.back[k](_through_relu(g, out), _pooled_size(below, trunk.pooled[k]))
            if trunk.pooled[k]:
                g = _unpooled(g * 0.25, below)
        g = g * (trunk.scale / trunk.std)
        return g.flip(1) if trunk.bgr else g


class LPIPSGradient(nn.Module):
    """Of LPIPS: normalised features, maximum pooling."""

    def __init__(self, network: LPIPS) -> None:
        super().__init__()
        self.network = network
        self.back = _way_back(network.convs)

    def forward(self, generated: Tensor, features: Sequence[Tensor]) -> Tensor:
        network = self.network
        targets = dict(zip(network.compared, features, strict=True))
        lins = dict(zip(network.compared, network.lins, strict=True))
        entered, outputs = self._outputs(generated)
        g = torch.zeros_like(outputs[-1])
        for k in reversed(range(len(outputs))):
            if k in targets:
                g = g + _push(outputs[k], targets[k], lins[k])
            g = self.back[k](_through_relu(g, outputs[k]), entered[k].shape[2:])
            if k in network.pooled:
                g = _max_unpooled(g, outputs[k - 1], entered[k], network.pool_kernel)
        return g * 2.0 / network.scale

    def _outputs(self, pixels: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """What enters each convolution, and what leaves its ReLU."""
        x = (pixels * 2 - 1 - self.network.shift) / self.network.scale
        entered, outputs = [], []
        for k, conv in enumerate(self.network.convs):
            if k in self.network.pooled:
                x = F.max_pool2d(x, self.network.pool_kernel, stride=2)
            entered.append(x)
            x = torch.relu(conv(x))
            outputs.append(x)
        return entered, outputs


class Transposed(nn.Module):
    """The way back through a convolution of stride s, as one of stride 1 with flipped weights.

    What it gives for every s-th row and column are channels of their own, which a pixel shuffle
    interleaves: LiteRT's converter refuses the transposed convolution of AlexNet's first layer.
    """

    weight: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        stride, padding, kernel = conv.stride[0], int(conv.padding[0]), conv.kernel_size[0]
        taps = -(-kernel // stride)  # of the kernel, in one direction, that a place sees
        spare = stride * taps - kernel
        weight = F.pad(conv.weight.detach(), (0, spare, 0, spare))
        weight = weight.reshape(*weight.shape[:2], taps, stride, taps, stride)
        weight = weight.permute(1, 3, 5, 0, 2, 4).flatten(0, 2)  # (in * s * s, out, taps, taps)
        self.register_buffer("weight", weight.flip(2, 3).contiguous())
        self.stride, self.padding = stride, taps - 1 - padding // stride
        self.first = padding % stride  # row and column that belong to the image

    def forward(self, g: Tensor, size: torch.Size) -> Tensor:
        """`size`: height and width of what entered the convolution."""
        back = F.conv2d(g, self.weight, padding=self.padding)
        if self.stride == 1:
            return back
        rows, columns = (slice(self.first, self.first + side) for side in size)
        return F.pixel_shuffle(back, self.stride)[..., rows, columns]


def _way_back(convs: nn.ModuleList) -> nn.ModuleList:
    return nn.ModuleList(Transposed(conv) for conv in convs if isinstance(conv, nn.Conv2d))


def _through_relu(g: Tensor, out: Tensor) -> Tensor:
    return g * torch.clamp(out * STEEP, 0.0, 1.0)


def _push(out: Tensor, target: Tensor, lin: nn.Module) -> Tensor:
    """d/d out of mean_hw sum_c weight_c (out_c / |out| - target_c)^2, shape of `out`."""
    length = out.square().sum(dim=1, keepdim=True).sqrt().clamp_min(TINY)
    weight = lin.weight
    assert isinstance(weight, Tensor)
    direction = out / length
    g = (direction - target) * weight * (2.0 / (out.shape[2] * out.shape[3]))
    return (g - direction * (g * direction).sum(dim=1, keepdim=True)) / length


def _pooled_size(x: Tensor, pooled: bool) -> torch.Size:
    height, width = x.shape[2:]
    return torch.Size((height // 2, width // 2) if pooled else (height, width))


def _unpooled(g: Tensor, like: Tensor) -> Tensor:
    """Every pixel four times; an odd last row or column, which pooling drops, gets zeros."""
    up = F.interpolate(g, scale_factor=2.0, mode="nearest")
    down, right = (a - b for a, b in zip(like.shape[2:], up.shape[2:], strict=True))
    return F.pad(up, (0, right, 0, down)) if down or right else up


def _max_unpooled(g: Tensor, x: Tensor, out: Tensor, kernel: int) -> Tensor:
    """To the places of x that equal their window's maximum; windows overlap and add up.

    A tie is at 0, where the ReLU before the pooling passes nothing on. Rows and columns of one
    parity come from one set of places in the windows: sums of shifted maps, interleaved. F.fold
    says the same; compiled by inductor 2.13, with two threads, it writes beyond its memory.
    """
    height, width = out.shape[2:]
    spare = (kernel - 1) // 2  # windows that reach beyond the last one's first rows

    def place(i: int, j: int) -> Tensor:
        """What row i and column j of all windows get, at the windows' spacing."""
        seen = x[..., i : i + 2 * height - 1 : 2, j : j + 2 * width - 1 : 2]
        down, right = i // 2, j // 2
        return F.pad((seen == out).to(g.dtype) * g, (right, spare - right, down, spare - down))

    parities = [
        reduce(torch.add, (place(i, j) for i in range(a, kernel, 2) for j in range(b, kernel, 2)))
        for a in (0, 1)
        for b in (0, 1)
    ]
    found = F.pixel_shuffle(torch.stack(parities, dim=2).flatten(1, 2), 2)
    down, right = (a - b for a, b in zip(x.shape[2:], found.shape[2:], strict=True))
    return F.pad(found, (0, right, 0, down))
