"""What a card tells is shown; what it does not, or tells in another form, is not."""

from __future__ import annotations

from typing import Any

import pytest

import pgn
from pgn_bench.quality import of_card


def test_both_figures_of_a_card() -> None:
    rows = [{"gap_closed": 0.82}, {"gap_closed": 0.85}, {"gap_closed": None}]
    info = {"quality": {"mean_cosine": 0.84}, "deep_image_prior": {"rows": rows}}
    assert of_card(info) == {"mean_cosine": 0.84, "gap_closed": 0.85}


@pytest.mark.parametrize(
    "info",
    [
        {},
        {"quality": "good", "deep_image_prior": 3},
        {"quality": {"mean_cosine": "0.9"}, "deep_image_prior": {"rows": {}}},
        {"quality": {"mean_cosine": True}, "deep_image_prior": {"rows": [3, {"gap_closed": None}]}},
    ],
)
def test_anything_else_tells_nothing(info: dict[str, Any]) -> None:
    assert of_card(info) == {}


@pytest.mark.parametrize("name", ["pgn-lite", "pgn-nano"])
def test_bundled_networks_tell_both(name: str) -> None:
    found = of_card(pgn.load(name).info)
    assert 0.7 < found["mean_cosine"] < 1 and 0.5 < found["gap_closed"] < 1
