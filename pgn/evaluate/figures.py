"""What studies measure of pictures, and how their figures are written for people."""

from __future__ import annotations

FIGURES = {  # of a fit's pictures: what they are called
    "vgg19": "VGG-19",
    "lpips-alex": "LPIPS-Alex",
    "lpips-vgg": "LPIPS-VGG",
    "mse": "MSE",
}
DIGITS = {"mse": 5}  # of figures; 3 else


def number(name: str, value: float) -> str:
    """A figure of FIGURES for people."""
    return f"{value:.{DIGITS.get(name, 3)}f}"


def percent(share: float | None) -> str:
    """A share for people."""
    return "none" if share is None else f"{100 * share:.0f} %"


def interval_text(interval: tuple[float, float] | None) -> str:
    """An interval for people; nothing where there is none, or where it is a point."""
    if interval is None or interval[0] == interval[1]:
        return ""
    return f"{100 * interval[0]:.0f} to {100 * interval[1]:.0f} %"
