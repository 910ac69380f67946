"""The front of quality against time: how near gradients come to the exact one, at what cost.

Quality is the one figure of `pgn-eval alignment`: the cosine with the exact gradient of VGG-19,
averaged over degraded photos. Time is that of one gradient of one photo: PGNs in ONNX Runtime,
losses by autograd in PyTorch with the target's features computed before the clock runs; the
teacher compiled and in ONNX Runtime, too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import pgn
from pgn.degrade import SUITE
from pgn.evaluate.alignment import alignment, suite_cosine
from pgn.evaluate.measures import Interval
from pgn.evaluate.peers import Towards, exact, predicted
from pgn.evaluate.situations import Situation
from pgn.teachers import PerceptualLoss
from pgn_bench.exact_network import exact_network
from pgn_bench.gradient import check_agreement
from pgn_bench.providers import Uncompiled, compiled_gradient
from pgn_bench.providers_catalogue import exported
from pgn_bench.providers_exported import Call, Task
from pgn_bench.timing import Timing

EXACT = "vgg19"
EXACT_COMPILED, EXACT_EXPORTED = "vgg19, compiled", "vgg19, exported"


@dataclass(frozen=True)
class Contenders:
    """Whose gradients are measured, by name: PGNs, other losses, and the teacher itself."""

    teacher: PerceptualLoss
    networks: dict[str, pgn.PGN]
    peers: dict[str, Towards]

    @property
    def losses(self) -> dict[str, Towards]:
        return {EXACT: exact(self.teacher), **self.peers}

    @property
    def gradients(self) -> dict[str, Towards]:
        return {name: predicted(net) for name, net in self.networks.items()} | self.losses


@dataclass(frozen=True)
class Timed:
    """A call that gives a gradient (1, 3, H, W): whose, and on which runtime."""

    gradient: str
    runtime: str
    call: Call


@dataclass(frozen=True)
class Point:
    """One place on the plane of quality and time."""

    name: str
    is_network: bool
    runtime: str
    cosine: Interval  # with the exact gradient
    timing: Timing


def quality(
    contenders: Contenders,
    paths: Sequence[Path],
    size: int,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, Interval]:
    """The suite cosine of every gradient on central crops of photos.

    Args:
        size: pixels.
        advance: called after each photo.

    Raises:
        pgn.PgnError: a photo cannot be read, or a gradient is not finite.
    """
    gradients = contenders.gradients
    truth = exact(contenders.teacher)
    rows = alignment(truth, gradients, [Situation(_suite, (size,))], paths, advance)
    return {name: suite_cosine(rows, name) for name in gradients}


def _suite(photo: Tensor) -> dict[str, Tensor]:
    return {name: degrade(photo) for name, degrade in SUITE.items()}


def timed(contenders: Contenders, pair: tuple[Tensor, Tensor], threads: int) -> dict[str, Timed]:
    """What is timed, by the name of its point; each gives the gradient that was judged.

    Args:
        pair: generated and target, (1, 3, H, W) pixels each.
        threads: of every runtime; PyTorch's are set for the whole process.

    Raises:
        pgn.GateError: a runtime or the compiler gives another gradient.
    """
    torch.set_num_threads(threads)
    generated, target = pair
    task = Task(generated.numpy(), target.numpy(), threads)
    found = {}
    for name, net in contenders.networks.items():
        call = exported(net, task)
        check_agreement(name, torch.as_tensor(call()), net.gradient(generated, target))
        found[name] = Timed(name, "ONNX Runtime", call)
    for name, towards in contenders.losses.items():
        found[name] = Timed(name, "PyTorch", partial(towards(target), generated))
    call = exported(exact_network(contenders.teacher, EXACT, random=False), task)
    check_agreement(EXACT_EXPORTED, torch.as_tensor(call()), torch.as_tensor(found[EXACT].call()))
    found[EXACT_EXPORTED] = Timed(EXACT, "ONNX Runtime", call)
    with contextlib.suppress(Uncompiled):
        faster = compiled_gradient(contenders.teacher, "fp32", task)
        check_agreement(EXACT_COMPILED, faster(), found[EXACT].call())
        found[EXACT_COMPILED] = Timed(EXACT, "torch.compile", faster)
    return found


def pareto(points: Sequence[Point]) -> list[Point]:
    """The points than which no other is both as fast and as good; fastest first."""
    chosen: list[Point] = []
    for point in sorted(points, key=lambda p: (p.timing.median_ms, -p.cosine.mean)):
        if not chosen or point.cosine.mean > chosen[-1].cosine.mean:
            chosen.append(point)
    return chosen
