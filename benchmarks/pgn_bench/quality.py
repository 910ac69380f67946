"""How good a network is, as its checkpoint's card tells: what stands beside times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FIGURES = ("mean_cosine", "gap_closed")


def of_card(info: Mapping[str, Any]) -> dict[str, float]:
    """What `pgn-eval alignment --record` and `pgn-eval dip --record` wrote; what is missing is not.

    mean_cosine  with the exact gradient, over photos and degradations
    gap_closed   share of the gap in VGG-19 loss between fits with MSE and with exact VGG-19, of the
                 MSE weight that closed most
    """
    cosine = _part(info.get("quality"), "mean_cosine")
    rows = _part(info.get("deep_image_prior"), "rows")
    shares = [_part(row, "gap_closed") for row in rows] if isinstance(rows, list) else []
    found = dict(zip(FIGURES, (cosine, max(filter(_is_number, shares), default=None)), strict=True))
    return {name: float(value) for name, value in found.items() if _is_number(value)}


def _part(value: object, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
