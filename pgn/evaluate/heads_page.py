"""The page of a study of talking heads: the figures, and every person's pictures side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

import pgn
from pgn.evaluate.dip import DIVERGENCE
from pgn.evaluate.dip_page import number
from pgn.evaluate.dip_summary import FIGURES, interval_text, percent
from pgn.evaluate.heads import BEFORE, EXACT, MSE, SPLITS, TRAIN, Sitter
from pgn.evaluate.heads_results import TRUTHS, Results
from pgn.evaluate.heads_summary import Interval, Records, Row, has_diverged
from pgn.pages import embed_png, write_page

SHOWN = 2  # frames of each split
HEADINGS = ("fitted with", "ms a step", "ms of the loss", "MiB of the loss", "diverged")


def write_heads_page(
    results: Results, sitters: Sequence[Sitter], records: Records, rows: Sequence[Row]
) -> Path:
    """Write index.html into the study's folder; a table a person, a column a run."""
    path = results.folder / "index.html"
    write_page(
        path,
        Path(__file__).with_name("heads.html"),
        {
            "settings": results.study.settings,
            "divergence": DIVERGENCE,
            "names": {"mse": MSE, "exact": EXACT, "before": BEFORE},
            "figures": [FIGURES[name] for name in rows[0].splits[TRAIN].means],
            "summaries": {split: [_summary(row, split) for row in rows] for split in SPLITS},
            "cost_headings": HEADINGS,
            "costs": [cost(row) for row in rows],
            "columns": [*TRUTHS, *(row.run for row in rows)],
            "sitters": [
                {
                    "name": sitter.name,
                    "pictures": _pictures(results, sitter, [*TRUTHS, *records]),
                    "fits": [_fit(row, records, index) for row in rows],
                }
                for index, sitter in enumerate(sitters)
            ],
            "version": pgn.__version__,
        },
    )
    return path


def cost(row: Row) -> list[str]:
    """A row under HEADINGS; empty where there is nothing to tell."""
    milliseconds = [
        "" if seconds is None else f"{1000 * seconds:.0f}"
        for seconds in (row.step_seconds, row.loss_seconds)
    ]
    mebibytes = "" if row.memory_bytes is None else f"{row.memory_bytes / 2**20:.0f}"
    return [row.run, *milliseconds, mebibytes, str(row.diverged)]


def _summary(row: Row, split: str) -> dict[str, Any]:
    found = row.splits[split]
    return {
        "run": row.run,
        "means": [
            (number(name, mean), _beyond(name, found.beyond_mse[name]))
            for name, mean in found.means.items()
        ],
        "gap_closed": percent(found.gap.closed),
        "interval": interval_text(found.gap.interval),
    }


def _beyond(name: str, interval: Interval | None) -> str:
    """An interval of the difference to MSE; nothing where there is none, or where it is a point."""
    if interval is None or interval[0] == interval[1]:
        return ""
    low, high = (f"{'+' if end > 0 else ''}{number(name, end)}" for end in interval)
    return f"{low} to {high}"


def _pictures(
    results: Results, sitter: Sitter, names: Sequence[str]
) -> list[tuple[str, tuple[str, ...]]]:
    """Rows of the person's table: the split, and one frame of it from every picture in `names`."""
    shown = min(SHOWN, len(sitter.splits[TRAIN].photos))
    columns = [_cells(results.picture(sitter, name), shown) for name in names]
    splits = [split for split in SPLITS for _ in range(shown)]
    return list(zip(splits, zip(*columns, strict=True), strict=True))


def _cells(picture: Path, shown: int) -> list[str]:
    """The first `shown` frames of each split, as addresses for a page."""
    with Image.open(picture) as column:
        side = column.width
        tops = [half + side * k for half in (0, column.height // 2) for k in range(shown)]
        return [embed_png(column.crop((0, top, side, top + side))) for top in tops]


def _fit(row: Row, records: Records, index: int) -> dict[str, Any]:
    record = records[row.run][index]
    return {
        "figures": [
            (FIGURES[name], *(number(name, record[split][name]) for split in SPLITS))
            for name in row.splits[TRAIN].means
        ],
        "gaps": [percent(row.splits[split].gap.by_case[index]) for split in SPLITS],
        "diverged": has_diverged(record, records[BEFORE][index]),
    }
