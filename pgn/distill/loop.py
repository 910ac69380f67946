"""Distil a perceptual loss into a PGN: the training step, and a loop that survives being killed.

Reference: Nikulin et al., arXiv 2105.01957, section 4 and Eq. 10. One step:
autoencoders draw `generated` from `target`; the teacher gives its exact gradient there; the PGN
learns it; the autoencoders follow the PGN's gradient.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from pgn.backbones import Lite
from pgn.checkpoint import save
from pgn.distill.data import Crops
from pgn.distill.options import DistillOptions
from pgn.distill.surrogates import RunningNormClip, surrogates
from pgn.distill.thin import initialise
from pgn.errors import PgnError
from pgn.files import atomic_path, check_folder, first_line, read_torch
from pgn.images import denormalise, normalise
from pgn.model import PGN, residual_from_gradient
from pgn.teachers import PerceptualLoss

GRADIENT_WEIGHT = 18.9  # of the residual's mean square: the official 2^26 on gradients at 3x224x224
INITIAL_PIXELS = 96 * 96 * 96  # of the crops from which `lite` is initialised: 96 of 96x96
WARM_UP = 100  # steps
REPORT_EVERY = 40  # steps
STATE_NAME = "state.pt"
LOG_NAME = "log.jsonl"


@dataclass(frozen=True)
class Figures:
    """What a line of the log says; means over the last REPORT_EVERY steps."""

    images: int
    loss: float
    cosine: float
    autoencoder_l1: tuple[float, ...]
    images_per_second: float


class Distiller:
    """The PGN, its teacher, the surrogate generators and their optimisers."""

    def __init__(self, options: DistillOptions) -> None:
        self.options = options
        torch.manual_seed(options.seed)
        self.teacher = PerceptualLoss(options.teacher, options.weights)
        self.net = PGN(options.config(), {"teacher": self.teacher.source})
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.surrogates = surrogates(options.patience)
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=options.learning_rate)
        self.clip = RunningNormClip()
        self.done = 0  # steps
        self.seconds = 0.0  # of training, over all runs

    def initialise(self, crops: Crops) -> None:
        """Give `lite` its teacher's weights; the paper's networks start at random."""
        if isinstance(self.net.backbone, Lite):
            count = max(1, INITIAL_PIXELS // crops.size**2)
            pairs = [crops[i] for i in range(min(count, len(crops)))]
            photos, degraded = (torch.stack(images) for images in zip(*pairs, strict=True))
            alpha = self.net.config.alpha
            initialise(self.net.backbone, self.teacher, photos, degraded, alpha)

    def step(self, photos: Tensor, degraded: Tensor) -> tuple[float, float, list[float]]:
        """One step on pixels (N, 3, H, W): returns loss, cosine, L1 of each autoencoder.

        `degraded` stands in for generated images in the first `options.degraded` of the batch.
        """
        self._set_learning_rate()
        u_target = normalise(photos)
        given = self.options.degraded
        parts = u_target[given:].chunk(len(self.surrogates))
        with self._autocast():
            drawn = [s.draw(part) for s, part in zip(self.surrogates, parts, strict=True)]
        u_generated = torch.cat([normalise(degraded[:given]), *drawn]).detach()
        truth = self._true_residual(u_generated, photos)

        self.net.train()
        proxy = self.net(u_generated, u_target)
        residual = u_generated - proxy
        loss = self._meta_loss(residual, truth, proxy, photos)
        if not torch.isfinite(loss):
            raise PgnError(
                f"training: the loss is {float(loss.detach())} at step {self.done}. Give a lower "
                f"--learning-rate; {self.options.output / STATE_NAME} holds the last good state."
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.clip(self.net.parameters())
        self.optimiser.step()

        gradient = residual.detach() * (2 * self.net.config.alpha / residual[0].numel())
        l1 = [
            s.follow(image, part, target)
            for s, image, part, target in zip(
                self.surrogates, drawn, gradient[given:].chunk(len(drawn)), parts, strict=True
            )
        ]
        self.done += 1
        cosine = F.cosine_similarity(residual.detach().flatten(1), truth.flatten(1)).mean()
        return float(loss.detach()), float(cosine), l1

    def _meta_loss(self, residual: Tensor, truth: Tensor, proxy: Tensor, photos: Tensor) -> Tensor:
        """Eq. 10: nearness of the gradient, and of the proxy to the target."""
        loss = GRADIENT_WEIGHT * F.mse_loss(residual, truth)
        if self.options.l1_weight:
            loss = loss + self.options.l1_weight * F.l1_loss(proxy, normalise(photos))
        if self.options.vgg_weight:
            with self._autocast():
                features = self.teacher.features(photos)
                distance = self.teacher(denormalise(proxy), features).mean()
            loss = loss + self.options.vgg_weight * distance
        return loss

    def _true_residual(self, u_generated: Tensor, photos: Tensor) -> Tensor:
        with self._autocast():
            with torch.no_grad():
                features = self.teacher.features(photos)
            gradient = self.teacher.gradient(denormalise(u_generated), features)
        return residual_from_gradient(gradient.float(), self.net.config.alpha)

    def _autocast(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.options.precision == "bf16")

    def _set_learning_rate(self) -> None:
        progress = self.done / self.options.steps
        warm = min(1.0, (self.done + 1) / WARM_UP)
        rate = self.options.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * progress))
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        return {
            "identity": self.options.identity(),
            "net": self.net.backbone.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "clip": self.clip.mean,
            "surrogates": [s.state_dict() for s in self.surrogates],
            "random": torch.get_rng_state(),
            "done": self.done,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.net.backbone.load_state_dict(state["net"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.clip.mean = state["clip"]
        for surrogate, saved in zip(self.surrogates, state["surrogates"], strict=True):
            surrogate.load_state_dict(saved)
        torch.set_rng_state(state["random"])
        self.done, self.seconds = state["done"], state["seconds"]


def distil(
    options: DistillOptions, report: Callable[[Figures], None], *, resume: bool = False
) -> Path:
    """Train until options.images crops are seen; returns the checkpoint's path.

    A run that was killed loses at most `save_every` seconds; with `resume` it goes on and ends
    as the undisturbed run would have.

    Raises:
        PgnError: nothing to train on; nothing to resume, or other options than before; a run
            already there.
    """
    crops = Crops(options.data, options.crop, options.images, options.seed)
    check_folder(options.output)
    state_path = options.output / STATE_NAME
    if state_path.exists() != resume:
        raise PgnError(
            f"--resume: there is no {state_path}. Leave --resume out to begin."
            if resume
            else f"--output: {options.output} holds a run already. Add --resume, or another folder."
        )
    distiller = Distiller(options)
    if resume:
        _restore(distiller, state_path)
    else:
        distiller.initialise(crops)
        _store(distiller, state_path)
    _train(distiller, crops, report)
    return _finish(distiller, len(crops.paths))


def _train(distiller: Distiller, crops: Crops, report: Callable[[Figures], None]) -> None:
    options = distiller.options
    remaining = Subset(crops, range(distiller.done * options.batch, options.steps * options.batch))
    # its own generator: a loader draws a seed, and a resumed run must not draw once more
    loader = DataLoader(
        remaining, options.batch, num_workers=options.workers, generator=torch.Generator()
    )
    recent: deque[tuple[float, float, list[float]]] = deque(maxlen=REPORT_EVERY)
    start = saved = reported = time.monotonic()
    before = distiller.seconds
    for photos, degraded in loader:
        recent.append(distiller.step(photos, degraded))
        now = time.monotonic()
        distiller.seconds = before + now - start
        if distiller.done % REPORT_EVERY == 0 or distiller.done == options.steps:
            losses, cosines, l1 = zip(*recent, strict=True)
            figures = Figures(
                images=distiller.done * options.batch,
                loss=sum(losses) / len(losses),
                cosine=sum(cosines) / len(cosines),
                autoencoder_l1=tuple(sum(part) / len(l1) for part in zip(*l1, strict=True)),
                images_per_second=len(recent) * options.batch / (now - reported),
            )
            with open(options.output / LOG_NAME, "a", encoding="utf-8") as log:
                log.write(json.dumps(vars(figures)) + "\n")
            report(figures)
            reported = now
        if now - saved > options.save_every:
            _store(distiller, options.output / STATE_NAME)
            saved = now


def _store(distiller: Distiller, path: Path) -> None:
    with atomic_path(path) as temporary:
        torch.save(distiller.state_dict(), temporary)


def _restore(distiller: Distiller, path: Path) -> None:
    state = read_torch(path)
    try:
        before = dict(state["identity"])
        wanted = distiller.options.identity()
        changed = [key for key, value in wanted.items() if before.get(key) != value]
        if not changed:
            distiller.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise PgnError(
            f"--resume: {path} is damaged ({first_line(error)}). Begin again in another folder."
        ) from None
    if changed:
        was = ", ".join(f"{key}={before.get(key)}" for key in changed)
        raise PgnError(f"--resume: the run in {path.parent} began with {was}. Use the same.")
    _cut_log(path.parent / LOG_NAME, distiller.done * distiller.options.batch)


def _cut_log(path: Path, images: int) -> None:
    """Drop the lines that a killed run wrote after the state from which it goes on."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if json.loads(line)["images"] <= images]
        with atomic_path(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _finish(distiller: Distiller, photos: int) -> Path:
    options = distiller.options
    _store(distiller, options.output / STATE_NAME)
    distiller.net.info["training"] = {
        **options.identity(),
        "photos": photos,
        "seconds": round(distiller.seconds),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    if options.licence:
        distiller.net.info["licence"] = options.licence
    return save(distiller.net, options.output / f"pgn-{options.backbone}.safetensors")
