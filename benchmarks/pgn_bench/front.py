"""The front of quality against time: how near gradients come to the exact one, at what cost.

Quality is the one figure of `pgn-eval alignment`: the cosine with the exact gradient of VGG-19,
averaged over degraded photos. Time is that of one gradient of one photo: PGNs in ONNX Runtime,
exact losses there, too, by autograd in PyTorch and compiled, the target's features computed before
the clock runs. MSE and the teacher at half resolution run in PyTorch alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import pgn
from pgn.degrade import SUITE
from pgn.evaluate.alignment import alignment, suite_cosine
from pgn.evaluate.measures import Interval
from pgn.evaluate.peers import Towards, beside, exact, predicted
from pgn.evaluate.situations import Situation
from pgn.teachers import PerceptualLoss
from pgn_bench.exact_network import exact_network
from pgn_bench.gradient import check_gradient
from pgn_bench.providers import Uncompiled, compiled_gradient
from pgn_bench.providers_catalogue import exported
from pgn_bench.providers_exported import Call, Task
from pgn_bench.timing import Timing

EXACT = "vgg19"
PYTORCH, COMPILED, EXPORTED = "PyTorch", "torch.compile", "ONNX Runtime"


@dataclass(frozen=True)
class Contenders:
    """Whose gradients are measured, by name: PGNs, the teacher, and peers beside it."""

    teacher: PerceptualLoss
    networks: dict[str, pgn.PGN]
    peers: dict[str, PerceptualLoss]

    @property
    def exact_losses(self) -> dict[str, PerceptualLoss]:
        return {EXACT: self.teacher, **self.peers}

    @property
    def losses(self) -> dict[str, Towards]:
        return {EXACT: exact(self.teacher), **beside(self.teacher, self.peers)}

    @property
    def gradients(self) -> dict[str, Towards]:
        return {name: predicted(net) for name, net in self.networks.items()} | self.losses


@dataclass(frozen=True)
class Timed:
    """A call that gives a gradient (1, 3, H, W): whose, and on which runtime."""

    gradient: str
    runtime: str
    call: Call

    @property
    def label(self) -> str:
        return f"{self.gradient}, {self.runtime}"


@dataclass(frozen=True)
class Point:
    """One place on the plane of quality and time: a gradient in one of its forms."""

    name: str  # of the gradient
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


def timed(contenders: Contenders, pair: tuple[Tensor, Tensor], threads: int) -> list[Timed]:
    """What is timed, each in all of its forms; each gives the gradient that was judged.

    Args:
        pair: generated and target, (1, 3, H, W) pixels each.
        threads: of every runtime; PyTorch's are set for the whole process.

    Raises:
        pgn.GateError: a runtime or the compiler gives another gradient.
    """
    torch.set_num_threads(threads)
    generated, target = pair
    task = Task(generated.numpy(), target.numpy(), threads)
    found = []
    for name, net in contenders.networks.items():
        form = Timed(name, EXPORTED, exported(net, task))
        found.append(_checked(form, net.gradient(generated, target)))
    for name, towards in contenders.losses.items():
        eager = Timed(name, PYTORCH, partial(towards(target), generated))
        found.append(eager)
        if loss := contenders.exact_losses.get(name):
            reference = eager.call()
            found += [_checked(form, reference) for form in _faster(name, loss, task)]
    return found


def _faster(name: str, loss: PerceptualLoss, task: Task) -> Iterator[Timed]:
    """The forms of an exact loss without autograd."""
    yield Timed(name, EXPORTED, exported(exact_network(loss, f"exact {name}", random=False), task))
    with contextlib.suppress(Uncompiled):
        yield Timed(name, COMPILED, compiled_gradient(loss, "fp32", task))


def _checked(form: Timed, reference: Tensor) -> Timed:
    check_gradient(form.label, torch.as_tensor(form.call()), reference)
    return form


def fastest(points: Sequence[Point]) -> list[Point]:
    """Every gradient in its fastest form, in their order."""
    found: dict[str, Point] = {}
    for point in points:
        other = found.setdefault(point.name, point)
        if point.timing.median_ms < other.timing.median_ms:
            found[point.name] = point
    return list(found.values())


def pareto(points: Sequence[Point]) -> list[Point]:
    """The points than which no other is both as fast and as good; fastest first."""
    chosen: list[Point] = []
    for point in sorted(points, key=lambda p: (p.timing.median_ms, -p.cosine.mean)):
        if not chosen or point.cosine.mean > chosen[-1].cosine.mean:
            chosen.append(point)
    return chosen
