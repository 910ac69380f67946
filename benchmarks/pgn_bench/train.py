"""Images a second of our distillation loop, and of the plain loop that one would write first.

The plain loop follows the official code of Nikulin et al., arXiv 2105.01957, section 4. Both have
the same network, teacher, crops and batch; both eat photos that are decoded already.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pgn.distill import bank as banks
from pgn.distill.augment import crop_and_flip
from pgn.distill.autoencoders import DEPTHS, Autoencoder
from pgn.distill.data import Stream, photo_batches
from pgn.distill.distiller import GRADIENT_WEIGHT, Distiller
from pgn.distill.loop import start_fabric
from pgn.distill.options import DistillOptions
from pgn.distill.surrogates import RunningNormClip
from pgn.images import denormalise, normalise
from pgn.model import PGN
from pgn.teachers import load_teacher
from pgn_bench.gradient import AGREEMENT, check_agreement
from pgn_bench.timing import BLOCK, WARM_UP, Timing, interleaved

PLAIN, NO_REPLAY, OURS = "plain loop", "ours, no replay", "ours"
PHOTO_BATCHES = 4  # decoded before the clock runs, and then used in turn


@dataclass(frozen=True)
class Speed:
    """The time of one step, and its images: those it observes (new), and those it learns from, new
    and replayed (updates: a lesson learnt again is no new image)."""

    step: Timing
    new: int
    learnt: int

    @property
    def new_per_second(self) -> float:
        return 1000 * self.new / self.step.median_ms

    @property
    def learnt_per_second(self) -> float:
        return 1000 * self.learnt / self.step.median_ms


@dataclass(frozen=True)
class Comparison:
    """All loops by name, and how ours computes."""

    speeds: dict[str, Speed]
    device: str
    precision: str  # of ours, as Fabric calls it; the plain loop is float32
    teacher_cosine: float  # of the teacher's gradient in our loop with that in the plain one

    def times(self, loop: str) -> dict[str, float]:
        """How many times more new images, and updates, a second than the plain loop."""
        speed, plain = self.speeds[loop], self.speeds[PLAIN]
        return {
            "times_new": speed.new_per_second / plain.new_per_second,
            "times_learnt": speed.learnt_per_second / plain.learnt_per_second,
        }


class PlainLoop:
    """Float32, NCHW; every feature is computed where it is needed, and nothing is learnt twice."""

    def __init__(self, options: DistillOptions, like: PGN) -> None:
        """`like`: the network whose layers, weights, alpha and device it begins with."""
        self.options = options
        self.device = next(like.parameters()).device
        self.net = PGN(like.config)
        self.net.load_state_dict(like.state_dict())
        self.teacher = load_teacher(
            options.teacher, options.weights, layers=options.layers or None, norm=options.norm
        ).to(self.device)
        self.autoencoders = [Autoencoder(depth).to(self.device) for depth in DEPTHS]
        self.moved = [self.net.to(self.device), *self.autoencoders]
        self.optimisers = [torch.optim.Adam(module.parameters()) for module in self.moved]
        self.clips = [RunningNormClip() for _ in self.moved]
        self.done = 0

    def step(self, images: Tensor) -> float:
        """Learn photos (N, 3, canvas, canvas) uint8 once; returns the meta-loss (Eq. 10)."""
        low, high = self.options.scales
        crops = crop_and_flip(images.to(self.device), self.options.crop, (low, high), self.done)
        u_target = normalise(crops)
        parts = u_target.chunk(len(self.autoencoders))
        drawn = [net(part) for net, part in zip(self.autoencoders, parts, strict=True)]
        u_generated = torch.cat(drawn)
        true = self.teacher_gradient(u_generated.detach(), u_target)
        proxy = self.net(u_generated.detach(), u_target)
        residual = u_generated.detach() - proxy
        scale = 2 * self.net.config.alpha / residual[0].numel()  # gradient = scale * residual
        loss = GRADIENT_WEIGHT * F.mse_loss(residual, true / scale)
        if self.options.vgg_weight:
            loss = loss + self.options.vgg_weight * self.distance(proxy, u_target).mean()
        if self.options.l1_weight:
            loss = loss + self.options.l1_weight * F.l1_loss(proxy, u_target)
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        u_generated.backward(scale * residual.detach())  # type: ignore[no-untyped-call]
        for module, clip, optimiser in zip(self.moved, self.clips, self.optimisers, strict=True):
            clip(module.parameters())
            optimiser.step()
        self.done += 1
        return float(loss.detach())

    def teacher_gradient(self, u_generated: Tensor, u_target: Tensor) -> Tensor:
        """The exact gradient with respect to `u_generated`, both (N, 3, H, W) normalised."""
        variable = u_generated.clone().requires_grad_()
        total = self.distance(variable, u_target).sum()
        (gradient,) = torch.autograd.grad(total, variable)
        return gradient

    def distance(self, u_generated: Tensor, u_target: Tensor) -> Tensor:
        """The teacher's distance of each image, (N,)."""
        features = self.teacher.features(denormalise(u_target))
        return self.teacher(denormalise(u_generated), features)


def compare_loops(
    options: DistillOptions, steps: int, advance: Callable[[], None] = lambda: None
) -> Comparison:
    """Time `steps` steps or a few more of each loop, in turn; nothing stays on disk.

    Args:
        options: of ours; one process is timed, whatever they say of devices and nodes.
        advance: called after each of `rounds(steps)` rounds.

    Raises:
        pgn.PgnError: no photos, or options that cannot be trained with.
        pgn.GateError: the plain loop's teacher gradient is not ours.
    """
    calls = WARM_UP + rounds(steps) * (1 + BLOCK)
    stream = Stream(options.seed, options.batch)
    batches = photo_batches(options.data, options.canvas, stream, workers=0)
    photos = [batch.images for batch in islice(batches, PHOTO_BATCHES)]
    with tempfile.TemporaryDirectory() as folder:
        alone = replace(options, output=Path(folder), devices=1, nodes=1, workers=0)
        bank = calls * alone.batch if alone.replay else 0
        ours = _begun(replace(alone, bank=bank), photos[0])
        plain = PlainLoop(alone, ours.net)
        teacher_cosine = check_teacher(plain, ours, photos[0])
        loops: dict[str, Callable[[Tensor], object]] = {PLAIN: plain.step}
        if alone.replay:
            loops[NO_REPLAY] = _begun(replace(alone, replay=0, bank=0), photos[0]).step
        loops[OURS] = ours.step
        timings = interleaved(_on_photos(loops, photos), rounds(steps), advance, block_seconds=0)
    new = alone.batch
    learnt = {PLAIN: 1, NO_REPLAY: 1, OURS: 1 + alone.replay}
    return Comparison(
        speeds={name: Speed(timings[name], new, new * learnt[name]) for name in loops},
        device=str(ours.fabric.device),
        precision=_precision(ours),
        teacher_cosine=teacher_cosine,
    )


def rounds(steps: int) -> int:
    """Blocks of BLOCK that hold `steps` steps."""
    return -(-steps // BLOCK)


def check_teacher(plain: PlainLoop, ours: Distiller, images: Tensor) -> float:
    """The cosine of the gradients that both learn, on photos (N, 3, canvas, canvas) uint8.

    Raises:
        pgn.GateError: they are not the same.
    """
    lesson = ours.observer.observe(images.to(plain.device), step=0)
    gradient = plain.teacher_gradient(lesson.u_generated, lesson.u_target)
    least = AGREEMENT["fp32" if _precision(ours) == "32-true" else "bf16"]
    return check_agreement("teacher of our loop", lesson.residual, gradient, least)


def _precision(distiller: Distiller) -> str:
    return str(distiller.fabric.strategy.precision.precision)


def _begun(options: DistillOptions, images: Tensor) -> Distiller:
    """Ready to step; a batch is enough to prepare weights that are only timed."""
    fabric = start_fabric(options)
    distiller = Distiller(options, fabric, None)
    distiller.prepare([images.to(fabric.device)])
    distiller.set_up()
    if options.bank:
        distiller.bank = banks.create(options.output, options.bank, options.crop, card={})
    return distiller


def _on_photos(
    loops: Mapping[str, Callable[[Tensor], object]], photos: list[Tensor]
) -> dict[str, Callable[[], object]]:
    """Steps without arguments; each loop goes through the photos on its own."""

    def fed(step: Callable[[Tensor], object]) -> Callable[[], object]:
        batches = cycle(photos)
        return lambda: step(next(batches))

    return {name: fed(step) for name, step in loops.items()}
