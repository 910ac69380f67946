"""The report in Chromium at a phone's width: it fits, and its letters can be read."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright
from test_report import nasty
from test_report_paper import gradient

from pgn_bench.report import page
from pgn_bench.results import Result

WIDTH = 390  # pixels
SMALLEST = 7  # pixels, of the figures' smallest letters
TWO_LINES = 60  # pixels, of a table


@pytest.mark.slow
def test_it_can_be_read_on_a_phone(tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    fits = [
        replace(each, runtime="onnxruntime", details={"preset": "decoder"}, noisy=True)
        for each in gradient().rows
    ]
    results = [nasty(), gradient(), Result("fit", {}, fits)]
    path, _ = page.write(page.make(results), tmp_path)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        shown = browser.new_page(viewport={"width": WIDTH, "height": 844})
        asked: list[str] = []
        shown.on("request", lambda request: asked.append(request.url))
        shown.goto(path.as_uri())
        assert shown.evaluate("document.documentElement.scrollWidth") <= WIDTH
        heights = (
            shown.locator(".wide")
            .last.locator("td")
            .evaluate_all("cells => cells.map(cell => cell.clientHeight)")
        )
        assert max(heights) < TWO_LINES, "no word is broken within a cell"
        time = shown.locator(".wide").last.locator("th", has_text=re.compile("^ms$")).bounding_box()
        assert time and time["x"] + time["width"] < WIDTH, "one must scroll to see the time"
        svg = shown.locator("svg").first
        scale = svg.evaluate("svg => svg.clientWidth / svg.viewBox.baseVal.width")
        assert 8.33 * scale >= SMALLEST, "matplotlib's small letters have 8.33 points"
        with shown.expect_download() as download:
            shown.locator("a[download]").first.click()
        assert download.value.suggested_filename == "1-gradient.json"
        assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
        browser.close()
