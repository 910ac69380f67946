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

from pgn.degrade import to_pil
from pgn.errors import PgnError
from pgn.evaluate.heads import EXACT, MSE, SPLITS, Drawn, Fit, Run, Sitter
from pgn.evaluate.study import (
    Record,
    Study,
    check_maker,
    file_sha256,
    read_record,
    write_record,
)
from pgn.files import atomic_path, read_image
from pgn.teachers import PerceptualLoss

SUMMARY_NAME, MEMORY_NAME = "heads.json", "memory.json"
CONDITION, PHOTO = TRUTHS = ("condition", "photo")
KEYS = {"made_by", "diverged", "mse_at_steps", "step_seconds", "loss_seconds", *SPLITS}


class Results:
    """What is known so far in `folder`; every file is written by rename."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Open or begin a study.

        Raises:
            PgnError: the folder holds one with other settings, or cannot be written.
        """
        self.folder = folder
        self.study = Study(folder, SUMMARY_NAME, settings)

    def picture(self, sitter: Sitter, name: str) -> Path:
        """Where the pictures of a run lie, or one of TRUTHS."""
        return self.folder / sitter.name / f"{name}.png"

    def load(self, sitter: Sitter, run: Run) -> Record | None:
        """A fit's figures, or None where it is still to be made.

        Raises:
            PgnError: the file is damaged, or tells of another checkpoint.
        """
        path = self._record(sitter, run)
        pictures = [self.picture(sitter, name) for name in (*TRUTHS, run.name)]
        if not all(file.exists() for file in (path, *pictures)):
            return None
        record = read_record(path)
        if not _is_whole(record):
            raise PgnError(f"--output: {path} is damaged. Delete it to make it again.")
        check_maker(path, record, run.name, _maker(run))
        return record

    def store(
        self, sitter: Sitter, run: Run, fit: Fit, figures: Mapping[str, Mapping[str, float]]
    ) -> None:
        """Write a fit's pictures and its figures, {split: {figure: mean}}."""
        frames = sitter.splits
        self._draw(sitter, CONDITION, {split: frames[split].conditions for split in SPLITS})
        self._draw(sitter, PHOTO, {split: frames[split].photos for split in SPLITS})
        self._draw(sitter, run.name, fit.drawn)
        record = {
            "made_by": _maker(run),
            "diverged": fit.diverged,
            "mse_at_steps": fit.report.mse,
            "step_seconds": _median(fit.report.seconds),
            "loss_seconds": _median(fit.report.guidance_seconds),
            **figures,
        }
        write_record(self._record(sitter, run), record)

    def measure(self, sitter: Sitter, run: Run, metrics: Mapping[str, PerceptualLoss]) -> Record:
        """A stored fit's figures with all `metrics` of its pictures, as saved, among them."""
        record = self.load(sitter, run)
        assert record is not None
        missing = [name for name in metrics if name not in record[SPLITS[0]]]
        if missing:
            drawn = self._read(sitter, run.name)
            for split in SPLITS:
                photos = sitter.splits[split].photos
                record[split] |= {n: _mean(metrics[n], drawn[split], photos) for n in missing}
            write_record(self._record(sitter, run), record)
        return record

    def memory(self, run: Run, measure: Callable[[], int | None]) -> int | None:
        """Peak memory of a run's loss in bytes, measured once; None where it cannot be."""
        path = self.folder / MEMORY_NAME
        known = read_record(path) if path.exists() else {}
        if run.name not in known:
            known[run.name] = measure()
            write_record(path, known)
        found: int | None = known[run.name]
        return found

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the summary beside the settings."""
        self.study.finish(summary)

    def _draw(self, sitter: Sitter, name: str, drawn: Drawn) -> None:
        column = torch.cat([image for split in SPLITS for image in drawn[split]], dim=1)
        with atomic_path(self.picture(sitter, name)) as temporary:
            to_pil(column).save(temporary, "PNG")

    def _read(self, sitter: Sitter, name: str) -> Drawn:
        column = read_image(self.picture(sitter, name))  # (3, 2F*S, S)
        images = torch.stack(torch.split(column, column.shape[-1], dim=1))
        return dict(zip(SPLITS, images.chunk(2), strict=True))

    def _record(self, sitter: Sitter, run: Run) -> Path:
        return self.folder / sitter.name / f"{run.name}.json"


def _maker(run: Run) -> Record:
    """What a run's name does not tell: which file its checkpoint was."""
    if run.net is None:
        return {}
    assert run.net.source is not None
    return {"checkpoint_sha256": file_sha256(run.net.source)}


def _is_whole(record: Record) -> bool:
    return record.keys() >= KEYS and all(
        isinstance(record[split], dict) and record[split].keys() >= {EXACT, MSE} for split in SPLITS
    )


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


@torch.no_grad()
def _mean(metric: PerceptualLoss, images: Tensor, photos: Tensor) -> float:
    return float(metric(images, photos).mean())
