"""`pgn-bench report`: its page and figures; results of others do no harm."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import assert_close
from hypothesis import given
from hypothesis import strategies as st
from test_report_paper import FIGURES, ROW, gradient, row
from typer.testing import CliRunner

from pgn import PgnError
from pgn_bench.cli import app
from pgn_bench.report import figures, page, paper, tables
from pgn_bench.report.figures import draw
from pgn_bench.report.settings import Setting, find_settings
from pgn_bench.report.statements import CLOSE, HOLDS, SAME, check
from pgn_bench.results import Result, load, parse, save

NASTY = "$\\x_{$</script><script>alert(1)</script>|` *\"'\n\x00é☃"


def nasty() -> Result:
    rows = [replace(each, provider=each.provider + NASTY) for each in gradient().rows]
    return Result(
        "gradient", {"processor": NASTY, NASTY: {"a": [NASTY]}}, rows, {"left_out": {NASTY: NASTY}},
        command=NASTY, date=NASTY,
    )  # fmt: skip


class Links(HTMLParser):
    """All tags, and addresses that the page names."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for key, value in attrs if key in ("href", "src")]


@pytest.fixture
def files(tmp_path: Path) -> Iterator[list[Path]]:
    """Results of three machines."""
    gpu = replace(gradient(), machine={"processor": "cpu", "gpu": "a GPU"})
    made = [gradient(), nasty(), replace(gpu, kind="scaling"), replace(gpu, kind="fit")]
    paths = [tmp_path / f"{index}.json" for index in range(len(made))]
    for result, path in zip(made, paths, strict=True):
        save(result, path)
    yield paths


def report(*words: object) -> Any:
    return CliRunner().invoke(app, ["report", *map(str, words)])


def test_the_page_needs_nothing_else_and_holds_the_raw_numbers(files: list[Path]) -> None:
    folder = files[0].parent / "report"
    done = report(*files, "-o", folder)
    assert done.exit_code == 0, done.output
    assert str(folder / "index.html") in done.stdout and f"6 statements of the paper: {HOLDS}" in (
        done.stdout
    )
    assert sorted(path.name for path in folder.iterdir()) == ["index.html", "report.md"]
    text = (folder / "index.html").read_text(encoding="utf-8")
    found = Links(text)
    assert len(text) < 2e6 and found.tags.count("svg") == 2
    assert not {"script", "link", "iframe", "img"} & set(found.tags)
    outside = [a for a in found.addresses if not a.startswith(("#", "data:"))]
    assert outside == ["https://arxiv.org/abs/2105.01957"]
    data = [a for a in found.addresses if a.startswith("data:")]
    raw = [json.loads(base64.b64decode(address.split(",")[1])) for address in data]
    assert [parse(each, "page") for each in raw] == [load(path) for path in files]
    assert "a GPU" in text and "does not hold" not in text


def test_markdown_tables_are_whole(files: list[Path]) -> None:
    folder = files[0].parent / "report"
    assert report(*files, "-o", folder).exit_code == 0
    text = (folder / "report.md").read_text(encoding="utf-8")
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(blocks) == 1 + 1 + 2 + 1 + 2
    for block in blocks:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block
    assert "<script" not in text.replace("\\<", "") and "| 108.84 | 54.36 | 36.24 |" in text


def test_the_page_says_what_it_compares_and_what_is_too_close(tmp_path: Path) -> None:
    save(gradient(pgn_resnet4=(190, 50, 1.34, 19.68)), tmp_path / "close.json")
    done = report(tmp_path / "close.json", "-o", tmp_path)
    assert f"1 statements of the paper: {CLOSE}" in done.stdout
    page_text, markdown = ((tmp_path / name).read_text() for name in ("index.html", "report.md"))
    assert page_text.count(f'<span class="verdict close">{CLOSE}</span>') == 1
    for text in (page_text, markdown):
        assert "at every call; here they are kept" in text and f"a factor of {SAME}" in text
        assert "fp16, bf16 and int8 rows, too, are divided by that float32 time" in text


def test_json_has_the_findings(files: list[Path]) -> None:
    done = report(files[0], "-o", files[0].parent / "report", "--json")
    found = json.loads(done.stdout)
    assert [each["verdict"] for each in found["findings"]] == [HOLDS] * 6
    assert Path(found["page"]).exists() and Path(found["tables"]).exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no JSON"),
        (b'{"schema": 1, "kind": "gradient", "ro', "is no JSON"),
        (b'{"anything": 1}', "of no schema 1"),
        (b"\x89PNG", "is no JSON"),
        (None, "cannot be read"),
    ],
)
def test_a_bad_file_is_named_and_nothing_is_written(
    files: list[Path], content: bytes | None, message: str
) -> None:
    bad = files[0].parent / "bad.json"
    if content is not None:
        bad.write_bytes(content)
    done = report(files[0], bad, "-o", files[0].parent / "report")
    assert isinstance(done.exception, PgnError) and done.exception.exit_code == 2
    assert "bad.json" in str(done.exception) and message in str(done.exception)
    assert not (files[0].parent / "report").exists()


def test_a_folder_that_cannot_be_written(files: list[Path]) -> None:
    done = report(files[0], "-o", files[0] / "report")
    assert isinstance(done.exception, PgnError) and "cannot write" in str(done.exception)
    assert report().exit_code == 2


def test_a_large_page_is_told(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgn_bench.report.cli.MAX_BYTES", 10_000)
    assert "Make a report of fewer files" in report(files[0], "-o", files[0].parent / "r").stderr


def test_no_more_figures_than_a_page_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Setting] = []

    def drawn(setting: Setting) -> str:
        asked.append(setting)
        return "<svg/>"

    monkeypatch.setattr(page, "time_against_memory", drawn)
    rows = [replace(ROW, size=size) for size in range(32, 132)]
    made = page.make([Result("gradient", {}, rows)])
    assert len(made.figures) == len(asked) == page.MOST_FIGURES and len(made.measurements) == 100


def test_the_figure_has_a_point_a_row_and_a_key_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [*gradient().rows, row("pgn-lite", (9, 4, 1, 1), runtime="litert")]
    figure = draw(rows)
    (axes,) = figure.axes
    places = np.concatenate([np.asarray(line.get_xydata()) for line in axes.lines])
    wanted = np.array([(each.median_ms, (each.peak_bytes or 0) / 1e6) for each in rows])
    assert_close(places, wanted, 1e-12)
    (legend,) = figure.legends
    half = replace(rows[0], provider="half", dtype="fp16")
    setting = Setting(1, "", [*rows, half])
    monkeypatch.setattr(figures, "to_svg", lambda figure: str(len(figure.axes[0].lines)))
    assert figures.time_against_memory(setting) == str(len(rows)), "float32 alone"
    assert figures.time_against_memory(Setting(1, "", [half])) is None
    names = [text.get_text() for text in legend.get_texts()]
    assert names == [*FIGURES, "pgn-lite", "torch", "litert"]
    colours = {line.get_color() for line in axes.lines}
    assert len(colours) == 7 and axes.get_xscale() == axes.get_yscale() == "log"


def test_a_crowd_and_odd_names_are_drawn() -> None:
    rows = [replace(row(f"{n}{NASTY}", (n + 1, 1, 1, 1)), runtime=f"_{n}") for n in range(30)]
    draw(rows).draw_without_rendering()


@given(st.lists(st.sampled_from(sorted(FIGURES)), unique=True), st.floats(0, 1e6), st.booleans())
def test_any_part_of_the_rows_makes_a_report(names: list[str], time: float, memory: bool) -> None:
    rows = [
        replace(ROW, provider=name, median_ms=time, p10_ms=0, p90_ms=1e7,
                peak_bytes=0 if memory else None, macs=0)
        for name in names
    ]  # fmt: skip
    result = Result("gradient", {}, rows)
    settings = find_settings([result])
    asked = any(name.startswith(("pgn-resnet", "pgn-unet")) for name in names)
    assert len(check(settings)) == (6 if asked else 0) and len(settings) == bool(names)
    for table in (paper.costs([result]), *map(tables.times, settings)):
        assert {len(line) for line in (table.header, *table.rows)} == {len(table.header)}
