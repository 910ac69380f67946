"""The graph that every target gets: pixels in, proxy out, one set of names."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode

from pgn import PGN, PgnError
from pgn.images import MIN_SIZE, denormalise, normalise

INPUTS = ("generated", "target")
OUTPUT = "proxy"

Size = tuple[int, int]  # height, width in pixels


class ProxyGraph(nn.Module):
    """(generated, target) -> {"proxy": ...}, all (N, 3, H, W) float32 pixels, unchecked."""

    def __init__(self, net: PGN) -> None:
        super().__init__()
        self.net = copy.deepcopy(net).eval().float().cpu().requires_grad_(False)
        fold_batch_norms(self.net)

    def forward(self, generated: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {OUTPUT: denormalise(self.net(normalise(generated), normalise(target)))}


def fold_batch_norms(net: nn.Module) -> None:
    """Fold every batch normalisation into the convolution before it, in place.

    Our networks define their layers in the order in which they run them, so neighbours among a
    module's children are neighbours in the graph. The converters fold too, each in its way; done
    here, it is the same for all.
    """
    for module in net.modules():
        for (name, conv), (following, norm) in pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(conv, norm))
                setattr(module, following, nn.Identity())


def example(size: Size, batch: int = 1) -> dict[str, Tensor]:
    """Inputs to trace with."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, 3, *size)
    return {name: torch.rand(shape, generator=generator) for name in INPUTS}


def check_size(net: PGN, size: Size, available_bytes: float) -> None:
    """Refuse sizes that are too small, or whose activations exceed `available_bytes`.

    Raises:
        PgnError: with what is needed and what there is.
    """
    height, width = size
    if min(size) < MIN_SIZE:
        raise PgnError(f"--size: got {height}x{width}, expected sides of at least {MIN_SIZE}.")
    needed = activation_bytes(net, size)
    if needed > available_bytes:
        raise PgnError(
            f"--size: {height}x{width} needs about {needed / 2**30:.1f} GiB of activations, and "
            f"{available_bytes / 2**30:.1f} GiB are free. Give a smaller size."
        )


def activation_bytes(net: PGN, size: Size) -> int:
    """Bytes of everything that one forward pass writes; an upper bound of its working memory.

    Counted at one small size and scaled: all of our networks are convolutional.
    """
    small = (256, 256)
    counter = _OutputBytes()
    with torch.device("meta"):
        graph = ProxyGraph(net).to("meta")
        inputs = {name: torch.empty(1, 3, *small) for name in INPUTS}
    with counter:
        graph(**inputs)
    return counter.total * size[0] * size[1] // (small[0] * small[1])


class _OutputBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the sizes of all tensors that operators return."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.total += out.numel() * out.element_size()
        return out
