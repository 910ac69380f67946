"""The page of a fit: photos, what was drawn before and after, and the figures, in one file."""

from __future__ import annotations

import base64
import html
import statistics
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from pgn_runtime.files import Pixels, atomic_path, to_picture

WIDTH, HEIGHT, LEFT, BOTTOM = 360, 180, 64, 22  # of the curve and its margins, SVG units


def write_page(path: Path, report: Mapping[str, Any], columns: Sequence[Pixels]) -> None:
    """Write a self-contained page.

    Args:
        report: of the fit, as `pgn-fit` writes it.
        columns: photos, drawn before, drawn after; (K, 3, H, W) each.
    """
    template = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    text = template.substitute(
        {key: html.escape(report[key]) for key in ("name", "backend", "command")},
        photos=counted(len(columns[0]), "photo"),
        steps=counted(len(report["mse"]), "step"),
        pictures="\n".join(_image(image) for row in zip(*columns, strict=True) for image in row),
        curve=_curve(report["mse"]),
        figures="\n".join(
            f"<tr><td>{key}</td><td>{html.escape(text)}</td></tr>"
            for key, text in figures(report).items()
        ),
    )
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # odd file names


def figures(report: Mapping[str, Any]) -> dict[str, str]:
    """The figures of a report for people."""
    mse, seconds = report["mse"], report["seconds"]
    steps = counted(len(seconds), "step")
    pace = f", median {statistics.median(seconds):.2f} s" if seconds else ""
    return {
        "MSE": f"{mse[0]:.4f} at first, {mse[-1]:.4f} at the end",
        "time": f"{sum(seconds):.1f} s for {steps}{pace}",
        "memory": megabytes(report["peak_bytes"]),
        "runtime": f"{', then '.join(report['runtimes'])}, {counted(report['threads'], 'thread')}",
        "rate": f"{report['learning_rate']:g} (Adam)",
    }


def megabytes(count: int | None) -> str:
    """Bytes in megabytes."""
    return "memory unknown" if count is None else f"{count / 1e6:.0f} MB"


def counted(count: int, thing: str) -> str:
    """A number of things in words."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def strip(rows: Sequence[Pixels]) -> Pixels:
    """Rows of pictures, (K, 3, H, W) each, as one picture (1, 3, rows * H, K * W)."""
    return np.concatenate([np.concatenate(list(row), axis=2) for row in rows], axis=1)[None]


def _image(image: Pixels) -> str:
    """(3, H, W) as an <img> with the picture inside."""
    buffer = BytesIO()
    to_picture(image).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="" src="data:image/png;base64,{data}">'


def _curve(mse: Sequence[float]) -> str:
    """The MSE of each step as an SVG, from zero."""
    top = max(mse) or 1.0
    width, height = WIDTH - LEFT - 8, HEIGHT - BOTTOM - 8
    points = " ".join(
        f"{LEFT + width * index / max(1, len(mse) - 1):.1f},{8 + height * (1 - value / top):.1f}"
        for index, value in enumerate(mse)
    )
    floor = HEIGHT - BOTTOM
    return f"""<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="MSE of each step">
<path d="M{LEFT},8V{floor}H{WIDTH - 8}" fill="none" stroke="currentColor" opacity=".4"/>
<polyline points="{points}" fill="none" stroke="var(--line)" stroke-width="2"/>
<text x="{LEFT - 6}" y="14" text-anchor="end">{top:.3g}</text>
<text x="{LEFT - 6}" y="{floor}" text-anchor="end">0</text>
<text x="{LEFT}" y="{HEIGHT - 6}">step 1</text>
<text x="{WIDTH - 8}" y="{HEIGHT - 6}" text-anchor="end">{len(mse)}</text>
</svg>"""
