"""The training step of a distillation: what one process holds, and how it learns a lesson.

Reference: Nikulin et al., arXiv 2105.01957, section 4 and Eq. 10. The network is synchronised over
processes by Fabric (DistributedDataParallel); every process has autoencoders of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.fabric import Fabric
from torch import Tensor

from pgn import backbones
from pgn.distill.bank import Bank, Lesson
from pgn.distill.observer import Observer
from pgn.distill.optimise import Average, Optimiser, rate_factor
from pgn.distill.options import DistillOptions
from pgn.distill.run import refuse_divergence
from pgn.distill.surrogates import RunningNormClip
from pgn.distill.thin import initialise
from pgn.images import denormalise
from pgn.model import PGN, residual_from_gradient
from pgn.teachers import PerceptualLoss, load_teacher

GRADIENT_WEIGHT = 18.9  # of the residual's mean square: the official 2^26 on gradients at 3x224x224
RESIDUAL_RMS = 0.2  # what alpha = 0 is replaced for; VGG-19's, in the paper's tables


@dataclass(frozen=True)
class Learnt:
    """What a step reports: means over the new lesson, before it was learnt."""

    loss: float
    cosine: float
    autoencoder_l1: list[float]


class Distiller:
    """The network, its teacher, what draws its lessons, and what moves its weights."""

    def __init__(self, options: DistillOptions, fabric: Fabric, bank: Bank | None) -> None:
        """`bank`: the one to learn from, where no teacher is asked."""
        self.options = options
        self.fabric = fabric
        torch.manual_seed(options.seed)
        self.teacher = load_teacher(
            options.teacher, options.weights, layers=options.layers or None, norm=options.norm
        ).to(fabric.device)
        if isinstance(self.teacher, torch.nn.Module):
            self.teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.net = PGN(options.config(), {"teacher": self.teacher.source}).to(fabric.device)
        if bank:
            self._set_alpha(float(bank.card["alpha"]))
        torch.manual_seed(options.seed + fabric.global_rank)  # autoencoders differ
        self.observer = Observer(options, self.teacher, self.net, fabric)
        self.bank = bank
        self.clip = RunningNormClip()
        self.done = 0  # steps
        self.seconds = 0.0  # of training, over all runs

    def prepare(self, first: list[Tensor]) -> None:
        """Find alpha and the weights of a thin network from photos of the first batches.

        Args:
            first: uint8 (N, 3, canvas, canvas) each.
        """
        pairs = [
            self.observer.crops(images, self.options.steps + k) for k, images in enumerate(first)
        ]
        target, degraded = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        if not self.options.alpha:
            gradient = self.teacher.gradient(degraded, target)
            rms = float(residual_from_gradient(gradient, 1.0).square().mean().sqrt())
            self._set_alpha(rms / RESIDUAL_RMS)
        self.begin_from(target, degraded)

    def begin_from(self, target: Tensor, degraded: Tensor) -> None:
        """Give a thin network its teacher's weights, if the teacher has the same layers.

        Args:
            target, degraded: (N, 3, H, W) pixels.
        """
        student, teacher = self.net.backbone, self.teacher
        if isinstance(student, backbones.Lite) and isinstance(teacher, PerceptualLoss):
            initialise(student, teacher, target, degraded, self.net.config.alpha)

    def set_up(self) -> None:
        """Make the optimiser, and let Fabric synchronise the network; once weights are there."""
        self.module = self.fabric.setup_module(self.net)
        self.optimiser = Optimiser(self.net, self.options.optimiser, self.options.learning_rate)
        self.average = Average(self.net.parameters(), self.options.averaging)

    def step(self, images: Tensor) -> Learnt:
        """Observe photos (N, 3, canvas, canvas) uint8, learn from them, then replay the bank."""
        lesson = self.observer.observe(images.to(self.fabric.device), self.done)
        residual, loss, cosine = self.learn(lesson)
        l1 = self.observer.follow(residual)
        if self.bank:
            self.bank.append(lesson)
            for turn in range(self.options.replay):
                self.learn(self._old_lesson(self.bank, turn))
        self.done += 1
        return Learnt(loss, cosine, l1)

    def step_from_bank(self) -> Learnt:
        """Learn the next lesson of a finished bank: every image once a pass, shuffled anew."""
        assert self.bank is not None
        first = self.done * self.options.world_batch + self.fabric.global_rank * self.options.batch
        positions = np.arange(first, first + self.options.batch)
        passes, places = np.divmod(positions, self.bank.size)
        orders = {n: self._order(n) for n in set(passes.tolist())}
        indices = [orders[n][place] for n, place in zip(passes.tolist(), places, strict=True)]
        lesson = self.bank.lesson(torch.tensor(indices), self.fabric.device)
        _, loss, cosine = self.learn(lesson)
        self.done += 1
        return Learnt(loss, cosine, [])

    def learn(self, lesson: Lesson) -> tuple[Tensor, float, float]:
        """One step of the weights; returns the predicted residual (N, 3, H, W), loss and cosine.

        Raises:
            PgnError: the loss is not finite.
        """
        self.net.train()
        proxy = self.module(
            lesson.u_generated.contiguous(memory_format=torch.channels_last),
            lesson.u_target.contiguous(memory_format=torch.channels_last),
        )
        residual = lesson.u_generated - proxy
        loss = self.meta_loss(residual, lesson, proxy)
        refuse_divergence(loss, self.done)
        self.fabric.backward(loss)
        self.clip(self.net.parameters())
        progress = self.options.schedule, self.done, self.options.steps
        self.optimiser.step(rate_factor(*progress))
        self.average.update(self.net.parameters(), self.done)
        residual = residual.detach()
        cosine = F.cosine_similarity(residual.flatten(1), lesson.residual.flatten(1)).mean()
        return residual, float(loss.detach()), float(cosine)

    def meta_loss(self, residual: Tensor, lesson: Lesson, proxy: Tensor) -> Tensor:
        """Eq. 10: nearness of the gradient, and of the proxy to the target."""
        loss = GRADIENT_WEIGHT * F.mse_loss(residual, lesson.residual)
        if self.options.l1_weight:
            loss = loss + self.options.l1_weight * F.l1_loss(proxy, lesson.u_target)
        if self.options.vgg_weight:
            with self.fabric.autocast():
                with torch.no_grad():
                    features = self.teacher.features(denormalise(lesson.u_target))
                distance = self.teacher(denormalise(proxy), features).mean()
            loss = loss + self.options.vgg_weight * distance
        return loss

    def _old_lesson(self, bank: Bank, turn: int) -> Lesson:
        seed = (self.options.seed, self.fabric.global_rank, self.done, turn)
        rows = np.random.default_rng(seed).integers(bank.size, size=self.options.batch)
        return bank.lesson(torch.from_numpy(rows), self.fabric.device)

    def _order(self, number: int) -> np.ndarray:
        assert self.bank is not None
        return np.random.default_rng((self.options.seed, number)).permutation(self.bank.size)

    def _set_alpha(self, alpha: float) -> None:
        self.net.config = replace(self.net.config, alpha=alpha)

    def state_dict(self) -> dict[str, Any]:
        """What all processes share."""
        return {
            "net": self.net.state_dict(),
            "alpha": self.net.config.alpha,
            "optimiser": self.optimiser.state_dict(),
            "average": self.average.weights,
            "clip": self.clip.mean,
            "done": self.done,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        self._set_alpha(state["alpha"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.average.weights = state["average"]
        self.clip.mean = state["clip"]
        self.done, self.seconds = state["done"], state["seconds"]

    def own_state_dict(self) -> dict[str, Any]:
        """What is this process's alone."""
        return {
            "observer": self.observer.state_dict(),
            "random": torch.get_rng_state(),
            "banked": self.bank.size if self.bank else 0,
        }

    def load_own_state_dict(self, state: dict[str, Any]) -> None:
        self.observer.load_state_dict(state["observer"])
        torch.set_rng_state(state["random"])
        if self.bank:
            self.bank.size = state["banked"]
