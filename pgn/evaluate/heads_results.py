"""The folder of a study of talking heads: a file per person and run, so that work is never lost.

heads.json                   settings, and the summary once all fits are there
memory.json                  peak memory of each run's loss
<person>/condition.png       the drawn landmarks of all frames, those fitted above those held out
<person>/photo.png           the truth
<person>/<run>.json, .png    figures and pictures of one fit; the JSON is written last
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pgn.evaluate.heads import EXACT, MSE, SPLITS, Drawn, Fit, Run, Sitter
from pgn.evaluate.study import (
    Record,
    Study,
    checkpoint_of,
    damaged,
    is_number,
    read_record,
    write_record,
)
from pgn.files import read_image
from pgn.teachers import PerceptualLoss

SUMMARY_NAME, MEMORY_NAME = "heads.json", "memory.json"
CONDITION, PHOTO = TRUTHS = ("condition", "photo")
KEYS = {"diverged", "mse_at_steps", "step_seconds", "loss_seconds", *SPLITS}


class Results:
    """What is known so far in `folder`; every file is written by rename."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Open or begin a study.

        Raises:
            PgnError: the folder holds one with other settings, or cannot be written.
        """
        self.study = Study(folder, SUMMARY_NAME, settings)

    def picture(self, sitter: Sitter, name: str) -> Path:
        """Where the pictures of a run lie, or one of TRUTHS."""
        return self.study.picture(sitter.name, name)

    def load(self, sitter: Sitter, run: Run) -> Record | None:
        """A fit's figures, or None where it is still to be made.

        Raises:
            PgnError: the file is damaged, or tells of another checkpoint.
        """
        pictures = (*TRUTHS, run.name)
        return self.study.load(sitter.name, run.name, pictures, _is_whole, checkpoint_of(run.net))

    def store(
        self, sitter: Sitter, run: Run, fit: Fit, figures: Mapping[str, Mapping[str, float]]
    ) -> None:
        """Write a fit's pictures and its figures, {split: {figure: mean}}."""
        frames = sitter.splits
        self._draw(sitter, CONDITION, {split: frames[split].conditions for split in SPLITS})
        self._draw(sitter, PHOTO, {split: frames[split].photos for split in SPLITS})
        self._draw(sitter, run.name, fit.drawn)
        record = {
            "made_by": checkpoint_of(run.net),
            "diverged": fit.diverged,
            "mse_at_steps": fit.report.mse,
            "step_seconds": _median(fit.report.seconds),
            "loss_seconds": _median(fit.report.guidance_seconds),
            **figures,
        }
        self.study.store(sitter.name, run.name, record)

    def measure(self, sitter: Sitter, run: Run, metrics: Mapping[str, PerceptualLoss]) -> Record:
        """A stored fit's figures with all `metrics` of its pictures, as saved, among them."""
        record = self.load(sitter, run)
        assert record is not None
        missing = [name for name in metrics if name not in record[SPLITS[0]]]
        if missing:
            drawn = self.read(sitter, run.name)
            for split in SPLITS:
                photos = sitter.splits[split].photos
                record[split] |= {n: _mean(metrics[n], drawn[split], photos) for n in missing}
            self.study.store(sitter.name, run.name, record)
        return record

    def memory(self, run: Run, measure: Callable[[], int | None]) -> int | None:
        """Peak memory of a run's loss in bytes, measured until it is known; None where it is not.

        Raises:
            PgnError: the file of what was measured is damaged.
        """
        path = self.study.folder / MEMORY_NAME
        known = read_record(path) if path.exists() else {}
        if not all(value is None or is_number(value) for value in known.values()):
            raise damaged(path)
        found: int | None = known.get(run.name)
        if found is None:
            found = measure()
            write_record(path, known | {run.name: found})
        return found

    def read(self, sitter: Sitter, name: str) -> Drawn:
        """The pictures of a run, or one of TRUTHS, as saved.

        Raises:
            PgnError: the file is damaged.
        """
        column = read_image(self.picture(sitter, name))  # (3, 2F*S, S)
        images = torch.stack(torch.split(column, column.shape[-1], dim=1))
        return dict(zip(SPLITS, images.chunk(2), strict=True))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the summary beside the settings."""
        self.study.finish(summary)

    def _draw(self, sitter: Sitter, name: str, drawn: Drawn) -> None:
        column = torch.cat([image for split in SPLITS for image in drawn[split]], dim=1)
        self.study.draw(sitter.name, name, column)  # (3, 2F*S, S)


def _is_whole(record: Record) -> bool:
    seconds = [record.get(name) for name in ("step_seconds", "loss_seconds")]
    return (
        record.keys() >= KEYS
        and all(value is None or is_number(value) for value in seconds)
        and all(_is_whole_split(record[split]) for split in SPLITS)
    )


def _is_whole_split(figures: Any) -> bool:
    named = isinstance(figures, dict) and figures.keys() >= {EXACT, MSE}
    return named and all(map(is_number, figures.values()))


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


@torch.no_grad()
def _mean(metric: PerceptualLoss, images: Tensor, photos: Tensor) -> float:
    return float(metric(images, photos).mean())
