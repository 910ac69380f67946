"""The page of a study of talking heads: the figures, and every person's pictures side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pgn
from pgn.degrade import to_pil
from pgn.evaluate.bootstrap import Interval
from pgn.evaluate.dip import DIVERGENCE
from pgn.evaluate.figures import FIGURES, interval_text, number, percent
from pgn.evaluate.heads import BEFORE, EXACT, MSE, SPLITS, TRAIN, Sitter
from pgn.evaluate.heads_results import TRUTHS, Results
from pgn.evaluate.heads_summary import Records, Row, has_diverged
from pgn.pages import embed_png, write_page

SHOWN = 2  # frames of each split
HEADINGS = ("fitted with", "ms a step", "ms of the loss", "MB of the loss", "diverged")


def write_heads_page(
    results: Results,
    sitters: Sequence[Sitter],
    records: Records,
    rows: Sequence[Row],
    notes: Sequence[str],
) -> Path:
    """Write index.html into the study's folder; a table a person, a column a run."""
    path = results.study.folder / "index.html"
    write_page(
        path,
        Path(__file__).with_name("heads.html"),
        {
            "settings": results.study.settings,
            "notes": notes,
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
                    "figures": {
                        split: [_figures(row, records, index, split) for row in rows]
                        for split in SPLITS
                    },
                    "diverged": [
                        row.run
                        for row in rows
                        if has_diverged(records[row.run][index], records[BEFORE][index])
                    ],
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
    megabytes = "" if row.memory_bytes is None else f"{row.memory_bytes / 1e6:.0f}"
    return [row.run, *milliseconds, megabytes, str(row.diverged)]


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
) -> dict[str, list[tuple[str, ...]]]:
    """{split: rows of the person's table, the same frame of every picture in `names` each}."""
    drawn = [results.read(sitter, name) for name in names]
    return {
        split: [
            tuple(embed_png(to_pil(image)) for image in frame)
            for frame in zip(*(pictures[split][:SHOWN] for pictures in drawn), strict=True)
        ]
        for split in SPLITS
    }


def _figures(row: Row, records: Records, index: int, split: str) -> list[tuple[str, str]]:
    """What stands under a person's pictures of a run: names and values."""
    figures, found = records[row.run][index][split], row.splits[split]
    named = [(FIGURES[name], number(name, figures[name])) for name in found.means]
    return [*named, ("gap closed", percent(found.gap.by_case[index]))]
