"""The page of a Deep Image Prior study: pictures side by side, figures under them, the curve."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pgn
from pgn.evaluate import dip
from pgn.evaluate.dip import Run
from pgn.evaluate.dip_results import TARGET, Photo, Results, proxy_name
from pgn.evaluate.dip_summary import Row, mean_curve
from pgn.evaluate.figures import FIGURES, interval_text, number, percent
from pgn.evaluate.study import Record
from pgn.pages import embed_png, plot_lines, write_page

MIN_WIDTH = 128  # of a picture on the page


def write_dip_page(
    results: Results,
    photos: Sequence[Photo],
    runs: Sequence[Run],
    records: Mapping[str, Sequence[Record]],
    rows: Sequence[Row],
) -> Path:
    """Write index.html into the study's folder; a row a photo, a column a run."""
    path = results.study.folder / "index.html"
    size = photos[0].pixels.shape[-1]
    networks = [run for run in runs if run.net is not None]
    write_page(
        path,
        Path(__file__).with_name("dip.html"),
        {
            "settings": results.study.settings,
            "width": size * math.ceil(MIN_WIDTH / size),  # a multiple keeps pixels square
            "constants": dip,
            "summary": [_summary(row) for row in rows],
            "figures": [FIGURES[name] for name in rows[0].means],
            "curve": plot_lines(
                {name: mean_curve(fits) for name, fits in records.items()},
                "step",
                "mean VGG-19 loss",
            ),
            "columns": [
                {"name": "photo", "proxy": False},
                *({"name": run.name, "proxy": False} for run in runs),
                *({"name": run.name, "proxy": True} for run in networks),
            ],
            "photos": [
                {
                    "name": photo.name,
                    "target": embed_png(results.picture(photo, TARGET)),
                    "fits": [
                        _fit(embed_png(results.picture(photo, row.run)), row, records, index)
                        for row in rows
                    ],
                    "proxies": [
                        embed_png(results.picture(photo, proxy_name(run))) for run in networks
                    ],
                }
                for index, photo in enumerate(photos)
            ],
            "version": pgn.__version__,
        },
    )
    return path


def _summary(row: Row) -> dict[str, Any]:
    return {
        "run": row.run,
        "means": [number(name, value) for name, value in row.means.items()],
        "gap_closed": percent(row.gap_closed),
        "interval": interval_text(row.gap_interval),
        "diverged": row.diverged,
        "stagnated": row.stagnated,
    }


def _fit(
    picture: str, row: Row, records: Mapping[str, Sequence[Record]], index: int
) -> dict[str, Any]:
    record = records[row.run][index]
    return {
        "picture": picture,
        "figures": [(FIGURES[name], number(name, record[name])) for name in row.means],
        "gap_closed": percent(row.gap_closed_by_photo[index]),
        "stopped": f"{record['stopped']} at step {record['steps'][-1]}"
        if record["stopped"]
        else "",
    }
