"""What our HTML pages share: pictures and plots inside the page, templates beside the code."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure
from PIL import Image

from pgn.files import atomic_path


def embed_png(picture: Path | Image.Image) -> str:
    """A PNG file or a picture as a data: address."""
    if isinstance(picture, Path):
        data = picture.read_bytes()
    else:
        buffer = BytesIO()
        picture.save(buffer, "PNG")
        data = buffer.getvalue()
    return "data:image/png;base64," + base64.b64encode(data).decode()


def plot_lines(lines: Mapping[str, tuple[list[int], list[float]]], xlabel: str, ylabel: str) -> str:
    """Lines {label: (x, y)} as inline SVG."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for label, (x, y) in lines.items():
        axes.plot(x, y, marker="o", markersize=3, label=label)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    return to_svg(figure)


def to_svg(figure: Figure) -> str:
    """A figure as inline SVG."""
    buffer = BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue().decode()
    return text[text.index("<svg") :]


def write_page(path: Path, template: Path, values: Mapping[str, Any]) -> None:
    """Render a Jinja template to one self-contained page."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    text = environment.from_string(template.read_text(encoding="utf-8")).render(values)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
