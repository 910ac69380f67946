"""Meta-train an avatar: a run whose episodes come from people, and which shows what it can draw.

Its folder also holds the synthetic people, rendered once, and previews.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from lightning.fabric import Fabric

from pgn.avatar.checkpoint import save
from pgn.avatar.episodes import episodes, read_cast
from pgn.avatar.meta import Losses, MetaLearner
from pgn.avatar.options import SYNTHETIC, AvatarOptions
from pgn.avatar.rendered import Plan, render_people
from pgn.avatar.sheet import Sheet
from pgn.distill import run as runs
from pgn.distill.data import Stream
from pgn.distill.run import check_output, execute, median_seconds, start_fabric

REPORT_EVERY = 50  # steps
CHECKPOINT_NAME = "avatar.safetensors"
RENDERED_NAME, PREVIEWS_NAME = "synthetic", "previews"


@dataclass(frozen=True)
class Figures:
    """What a line of the log says; means over the last REPORT_EVERY steps and all processes."""

    images: int  # drawn so far
    losses: Losses  # mse in pixels, and what the discriminator brings
    images_per_second: float
    seconds: float  # of training so far, over all runs


Report = Callable[[Figures], None]


class Run(runs.Run[Losses, Figures]):
    """One meta-training in one process: the learner, its people, its folder."""

    def __init__(self, options: AvatarOptions, fabric: Fabric) -> None:
        self.options = options
        rendered = options.output / RENDERED_NAME
        if SYNTHETIC in options.sources:
            if fabric.is_global_zero:
                plan = Plan(options.identities, options.poses, options.size)
                render_people(rendered, plan, options.workers)
            fabric.barrier()
        self.cast = read_cast(options, rendered)
        self.meta = MetaLearner(options, fabric, self.cast.persons)
        super().__init__(self.meta, REPORT_EVERY)
        self.sheet = Sheet(self.cast, options.shots, options.size)
        self.name_skipped([name for people in self.cast.training for name in people.skipped])

    def begin(self) -> None:
        """Nothing: networks begin with random weights."""

    def resume(self) -> None:
        """Go on from the folder's state.

        Raises:
            PgnError: it is damaged, or of a run with other options.
        """
        self.restore_state()

    def steps(self) -> Iterator[Losses]:
        """Every step that is left, as it is done."""
        options, fabric, done = self.options, self.fabric, self.meta.done
        stream = Stream(options.seed, options.batch, done, fabric.global_rank, fabric.world_size)
        endless = episodes(self.cast.training, options.shots, stream, options.workers)
        for episode in islice(endless, options.steps - done):
            self.name_skipped(episode.skipped)
            yield self.meta.step(episode)

    def save_state(self) -> None:
        """Write state.pt, and a preview."""
        super().save_state()
        if self.fabric.is_global_zero:
            name = f"{self.images:09d}.png"
            self.sheet.write(self.meta.avatar, self.output / PREVIEWS_NAME / name)

    def figures(self, recent: list[Losses], images_per_second: float) -> Figures:
        """A line of the log: means over the last steps and all processes."""
        names = list(recent[0])
        means = self.mean([sum(row[name] for row in recent) / len(recent) for name in names])
        losses = dict(zip(names, means, strict=True))
        return Figures(self.images, losses, images_per_second, self.meta.seconds)

    def finish(self) -> Path:
        """Write the checkpoint; returns its path."""
        self.save_state()
        avatar = self.meta.avatar
        self.meta.average.copy_to(avatar.parameters())
        avatar.info["training"] = {
            **self.summary(),
            "data": self.options.source_names,
            "persons": self.cast.persons,
            "skipped": len(self.skipped),
        }
        if self.options.licence:
            avatar.info["licence"] = self.options.licence
        path = self.output / CHECKPOINT_NAME
        if self.fabric.is_global_zero:
            save(avatar, path)
        self.fabric.barrier()
        return path


def meta_train(
    options: AvatarOptions, report: Report = lambda figures: None, *, resume: bool = False
) -> Path:
    """Run a meta-training to its end; returns the checkpoint's path.

    A killed run loses what was done since the last save (`options.save_every` seconds); with
    `resume` it goes on from there, as if it had not been killed.

    Raises:
        PgnError: the output already holds a run; nothing to resume, or a run with other options;
            no people.
    """
    check_output(options.output, resume=resume)
    return execute(Run(options, start_fabric(options)), report, resume=resume)


def seconds_per_step(options: AvatarOptions) -> float:
    """Median time of a few steps with `options`; nothing stays on disk."""
    with tempfile.TemporaryDirectory() as folder:
        few = replace(options, identities=2, poses=options.shots + 1, holdout=[])
        trial = replace(few, output=Path(folder), workers=0)
        return median_seconds(Run(trial, start_fabric(trial)))
