"""The graphs that every target gets: pixels in, proxy out, one set of names, traced once.

proxy            (generated, target) -> proxy
target_features  (target)            -> features_0 ... features_n, computed once per target
cached           (generated, features_0 ... features_n) -> proxy
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.flop_counter import FlopCounterMode

from pgn import PGN, PgnError
from pgn.backbones import TargetBranch
from pgn.images import denormalise, normalise

INPUTS = ("generated", "target")
OUTPUT = "proxy"
DESCRIPTIONS = {
    "generated": "Image under optimisation: (N, 3, H, W) RGB pixels in [0, 1]",
    "target": "Image to resemble: (N, 3, H, W) RGB pixels in [0, 1]",
    "proxy": "Image towards which mean squared error pulls as the perceptual loss does: "
    "(N, 3, H, W) RGB pixels",
}
FEATURES = "Features of the target, from its target_features graph"  # all other inputs, outputs

Size = tuple[int, int]  # height, width in pixels
Tensors = dict[str, Tensor]


class ProxyGraph(nn.Module):
    """(generated, target) -> {"proxy": ...}, all (N, 3, H, W) float32 pixels, unchecked."""

    def __init__(self, net: PGN) -> None:
        super().__init__()
        self.net = _frozen(net)

    def forward(self, generated: Tensor, target: Tensor) -> Tensors:
        return {OUTPUT: denormalise(self.net(normalise(generated), normalise(target)))}


class TargetFeatures(nn.Module):
    """target (N, 3, H, W) -> {"features_0": ..., ...}: all that the gradient needs of it."""

    def __init__(self, net: PGN) -> None:
        super().__init__()
        self.backbone = splittable(_frozen(net))

    def forward(self, target: Tensor) -> Tensors:
        return _named(self.backbone.target_features(normalise(target)))


class CachedProxy(nn.Module):
    """(generated, features_0, ...) -> {"proxy": ...}: ProxyGraph without the target's branch."""

    def __init__(self, net: PGN) -> None:
        super().__init__()
        self.net = _frozen(net)
        self.backbone = splittable(self.net)

    def forward(self, generated: Tensor, **features: Tensor) -> Tensors:
        u_generated = normalise(generated)
        out = self.backbone.forward_cached(u_generated, list(features.values()))
        return {OUTPUT: denormalise(self.net.proxy_of(out, u_generated))}


@dataclass(frozen=True)
class Graph:
    """A graph, traced once for all targets: what a converter turns into a file."""

    module: nn.Module  # its forward takes `inputs` by name and gives a dict of outputs
    program: ExportedProgram
    inputs: Tensors  # examples, in order
    outputs: Tensors  # what it gives for them
    dynamic: bool  # whether batch, height and width are free

    @property
    def free_axes(self) -> dict[int, str]:
        """Free dimensions of every input and output, by axis."""
        return {0: "batch", 2: "height", 3: "width"} if self.dynamic else {}


@dataclass(frozen=True)
class Conversion:
    """What a converter is asked for."""

    graph: Graph
    dtype: str = "fp32"  # fp32 | fp16 | int8
    metadata: dict[str, str] = field(default_factory=dict)  # to embed, in the format's own way


def trace(module: nn.Module, inputs: Tensors, dynamic: bool = False) -> Graph:
    """Trace `module` with example inputs; `dynamic` frees batch, height and width."""
    inputs = {name: value.clone() for name, value in inputs.items()}  # shared, they would be one
    with torch.no_grad():
        outputs: Tensors = module(**inputs)
    free = dict.fromkeys((0, 2, 3), Dim.DYNAMIC)
    shapes = dict.fromkeys(inputs, free) if dynamic else None
    program = torch.export.export(module, (), inputs, dynamic_shapes=shapes)
    return Graph(module, program, inputs, outputs, dynamic)


@torch.no_grad()
def count_macs(graph: Graph) -> int:
    """Multiply-accumulates of convolutions and matrix products, at the size of its examples."""
    with FlopCounterMode(display=False) as counter:
        graph.module(**graph.inputs)
    operations: int = counter.get_total_flops()  # a multiply-accumulate is two
    return operations // 2


def example(size: Size, batch: int = 1) -> Tensors:
    """Inputs to trace with."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, 3, *size)
    return {name: torch.rand(shape, generator=generator) for name in INPUTS}


def splittable(net: PGN) -> TargetBranch:
    """The backbone of a network whose target branch can be computed apart.

    Raises:
        PgnError: it mixes both images from its first layer on.
    """
    if not isinstance(net.backbone, TargetBranch):
        raise PgnError(
            f"--cached-target: backbone '{net.config.backbone}' has no branch of the target's own. "
            f"Leave the flag out, or use a lite backbone."
        )
    return net.backbone


def has_target_branch(net: PGN) -> bool:
    """Whether `splittable` takes the network."""
    return isinstance(net.backbone, TargetBranch)


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


def _frozen(net: PGN) -> PGN:
    frozen = copy.deepcopy(net).eval().float().cpu().requires_grad_(False)
    fold_batch_norms(frozen)
    return frozen


def _named(features: list[Tensor]) -> Tensors:
    return {f"features_{k}": feature for k, feature in enumerate(features)}
