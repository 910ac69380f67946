"""The step of meta-training: what one process holds, and how it learns an episode.

Reference: Zakharov et al., arXiv 1905.08233, sections 3.2 and 4. The avatar is synchronised over
processes by Fabric (DistributedDataParallel); the discriminator by hand, since the gradient penalty
differentiates twice.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from lightning.fabric import Fabric
from torch import Tensor

from pgn.avatar.discriminator import Discriminator
from pgn.avatar.episodes import Episode
from pgn.avatar.guidance import Guidance, exact, predicted
from pgn.avatar.model import Avatar
from pgn.avatar.objectives import (
    adversarial,
    embedding_match,
    feature_matching,
    gradient_penalty,
    proxy_surrogate,
)
from pgn.avatar.options import PENALISED, AvatarOptions
from pgn.checkpoint import BUNDLED, load
from pgn.distill.optimise import Average, Optimiser, rate_factor
from pgn.distill.run import refuse_divergence
from pgn.distill.surrogates import RunningNormClip
from pgn.teachers import load_teacher

# For each of the generator. The paper was not at hand; its independent implementations take two.
DISCRIMINATOR_STEPS = 2

Losses = dict[str, float]  # by name


class Pair(NamedTuple):
    """Images (N, 3, H, W) in [0, 1] of one pose, and whose."""

    generated: Tensor
    target: Tensor
    condition: Tensor
    persons: Tensor  # int64 (N,)


class MetaLearner:
    """The avatar, its discriminator if there is one, and what moves their weights."""

    def __init__(self, options: AvatarOptions, fabric: Fabric, persons: int) -> None:
        """`persons`: how many are trained on."""
        self.options = options
        self.fabric = fabric
        torch.manual_seed(options.seed)
        self.guidance = guidance(options, fabric.device)
        self.avatar = Avatar(options.generator()).to(fabric.device)
        self.module = fabric.setup_module(self.avatar)
        self.optimiser = Optimiser(self.avatar, options.optimiser, options.learning_rate)
        self.average = Average(self.avatar.parameters(), options.averaging)
        self.clip = RunningNormClip()
        self.opponent = Opponent(options, fabric, persons) if options.plays else None
        torch.manual_seed(options.seed + fabric.global_rank)  # for the gradient penalty
        self.done = 0  # steps
        self.seconds = 0.0  # of training, over all runs

    def step(self, episode: Episode) -> Losses:
        """One step of the generator and the embedder, after those of the discriminator."""
        images = episode.images.to(self.fabric.device).float() / 255.0  # (B, K + 1, 3, S, S)
        conditions = episode.conditions.to(self.fabric.device)
        persons = episode.persons.to(self.fabric.device)
        self.avatar.train()
        generated, identity = self.module(images[:, :-1], conditions[:, :-1], conditions[:, -1])
        pair = Pair(generated, images[:, -1], conditions[:, -1], persons)
        losses = {"mse": float((generated.detach() - pair.target).square().mean())}
        loss = proxy_surrogate(generated, self.pull(pair))
        if self.opponent:
            losses |= {"discriminator": self.opponent.learn(pair)}
            terms = self.opponent.terms(pair, identity)
            losses |= {name: float(term.detach()) for name, term in terms.items()}
            loss = loss + self._weighted(terms)
        refuse_divergence(loss, self.done)
        self.fabric.backward(loss)
        self.clip(self.avatar.parameters())
        self.optimiser.step(rate_factor(self.options.schedule, self.done, self.options.steps))
        self.average.update(self.avatar.parameters(), self.done)
        self.done += 1
        return losses

    def pull(self, pair: Pair) -> Tensor:
        """The gradient of perceptual loss and MSE, both means over the batch, (N, 3, H, W).

        Guidance is per image; divided by N its weight is the same whatever the batch, as that of
        the other objectives is.
        """
        generated = pair.generated.detach().contiguous(memory_format=torch.channels_last)
        target = pair.target.contiguous(memory_format=torch.channels_last)
        with self.fabric.autocast():
            gradient = self.guidance(generated, target)
        return gradient * (self.options.perceptual_weight / len(generated))

    def _weighted(self, terms: dict[str, Tensor]) -> Tensor:
        weighted = [getattr(self.options, f"{name}_weight") * term for name, term in terms.items()]
        return torch.stack(weighted).sum()

    def state_dict(self) -> dict[str, Any]:
        """What all processes share."""
        return {
            "avatar": self.avatar.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average.weights,
            "clip": self.clip.mean,
            "opponent": self.opponent.state_dict() if self.opponent else {},
            "done": self.done,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.avatar.load_state_dict(state["avatar"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.average.weights = state["average"]
        self.clip.mean = state["clip"]
        if self.opponent:
            self.opponent.load_state_dict(state["opponent"])
        self.done, self.seconds = state["done"], state["seconds"]

    def own_state_dict(self) -> dict[str, Any]:
        """What is this process's alone."""
        return {"random": torch.get_rng_state()}

    def load_own_state_dict(self, state: dict[str, Any]) -> None:
        torch.set_rng_state(state["random"])


class Opponent:
    """The discriminator and its optimiser."""

    def __init__(self, options: AvatarOptions, fabric: Fabric, persons: int) -> None:
        self.fabric = fabric
        self.game = adversarial(options.adversarial.removesuffix("-gp"))
        self.penalised = options.adversarial == PENALISED
        self.net = Discriminator(persons).to(fabric.device)
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=options.discriminator_rate)

    def learn(self, pair: Pair) -> float:
        """DISCRIMINATOR_STEPS to tell generated images from real ones; returns the last loss."""
        self.net.requires_grad_(True)
        generated = pair.generated.detach()
        for _ in range(DISCRIMINATOR_STEPS):
            with self.fabric.autocast():
                both, _ = self.net(
                    torch.cat([pair.target, generated]),
                    pair.condition.repeat(2, 1, 1, 1),
                    self.net.people[pair.persons].repeat(2, 1),
                )
            real, drawn = both.float().chunk(2)
            loss = self.game.discriminator(real, drawn)
            if self.penalised:
                loss = loss + gradient_penalty(
                    lambda between: self._scores(between, pair), pair.target, generated
                )
            self.optimiser.zero_grad(set_to_none=True)
            self.fabric.backward(loss)
            self._synchronise()
            self.optimiser.step()
        return float(loss.detach())

    def terms(self, pair: Pair, identity: Tensor) -> dict[str, Tensor]:
        """What the generator and the embedder are to make small, each a scalar.

        The discriminator stands still, also its people: they are moved by its own loss alone.

        Args:
            pair: its generated images carry the gradient.
            identity: (N, E), of the embedder.
        """
        self.net.requires_grad_(False)
        people = self.net.people[pair.persons]
        with self.fabric.autocast():
            scores, features = self.net(pair.generated, pair.condition, people)
            _, real = self.net(pair.target, pair.condition, people)
        return {
            "adversarial": self.game.generator(scores.float()),
            "matching": feature_matching(features, real),
            "embedding": embedding_match(identity, people),
        }

    def state_dict(self) -> dict[str, Any]:
        return {"net": self.net.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        self.optimiser.load_state_dict(state["optimiser"])

    def _scores(self, image: Tensor, pair: Pair) -> Tensor:
        scores: Tensor = self.net(image, pair.condition, self.net.people[pair.persons])[0]
        return scores

    def _synchronise(self) -> None:
        if self.fabric.world_size > 1:
            for parameter in self.net.parameters():
                assert parameter.grad is not None
                mean = self.fabric.all_reduce(parameter.grad)
                assert isinstance(mean, Tensor)
                parameter.grad = mean


def guidance(options: AvatarOptions, device: torch.device) -> Guidance:
    """That of the PGN of this bundled name or file, or of the loss of this name.

    Raises:
        PgnError: no such thing; a file that is no PGN.
    """
    name = options.perceptual
    if name in BUNDLED or name.endswith((".safetensors", ".pth")):
        net = load(name).to(device)
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return predicted(net, options.mse_weight)
    return exact(load_teacher(name).to(device), options.mse_weight)
