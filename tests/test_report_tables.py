"""The report's tables: what each kind of result tells, whatever is in its details."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_report_paper import ROW, row

from pgn_bench.report import columns, page, tables
from pgn_bench.report.settings import find_settings
from pgn_bench.report.tables import Table
from pgn_bench.results import Result


def test_ratios_are_of_the_same_run_and_threads() -> None:
    compiled = replace(ROW, runtime="torch.compile", median_ms=200.0, p10_ms=1.0)
    lite = row("pgn-lite", (20, 9, 0.5, 2.93), cosine=0.83, noisy=True, load_ms=1234.5)
    (setting,) = find_settings([Result("gradient", {}, [ROW, compiled, lite])])
    first, second, third = cells(tables.times(setting))
    assert first == {
        "what": "pgn-lite", "way": "torch fp32", "ms": "20\u00a0~", "p90": "20.4",
        "times faster": "10", "peak MB": "9", "load ms": "1,234", "cosine": "0.830",
    }  # fmt: skip
    assert (second["times faster"], third["times faster"]) == ("1", "0.5")
    assert third["load ms"] == third["cosine"] == ""
    (alone,) = find_settings([Result("gradient", {}, [lite])])
    assert "times faster" not in tables.times(alone).header


def cells(table: Table) -> list[dict[str, str]]:
    """Rows by column; no column is there twice."""
    assert len({*table.header}) == len(table.header)
    return [dict(zip(table.header, line, strict=True)) for line in table.rows]


def test_fits_are_told_by_what_is_trained() -> None:
    """Each with the ratio to its own exact gradient."""
    rows = [
        replace(
            row(name, (time, 9, 1, 1)), runtime=runtime, batch=8, details={"preset": preset},
            joules=time / 10 if preset == "all" else None,
        )
        for name, runtime, preset, time in (
            ("exact vgg19", "torch", "all", 1000), ("exact vgg19", "torch", "decoder", 600),
            ("pgn-lite", "litert", "all", 250), ("pgn-lite", "torch", "decoder", 200),
        )
    ]  # fmt: skip
    table = tables.other(3, Result("fit", {"processor": "a machine"}, rows))
    setting = "cpu, 224x224, batch 8, 2 threads"
    assert table.title == f"Run 3, one step of a fit to photos: a machine, {setting}"
    found = cells(table)
    assert [line["trained"] for line in found] == ["all", "decoder"] * 2
    assert [line["times faster"] for line in found] == ["1", "1", "4", "3"]
    assert [line["joules"] for line in found] == ["100", "", "25", ""]
    mixed = [*rows, replace(rows[0], threads=4, median_ms=950.0)]
    found = cells(tables.other(3, Result("fit", {}, mixed)))
    assert [line["size, batch, threads"] for line in found[3:]] == [
        "224,\u00a08,\u00a02", "224,\u00a08,\u00a04"
    ]  # fmt: skip
    assert found[2]["times faster"] == "4" and found[4]["times faster"] == "1"


def test_training_is_told_in_images_a_second() -> None:
    details = {
        "new_images_per_second": 2.5, "times_new": 1.25, "learnt_images_per_second": 10,
        "times_learnt": 5.0,
    }  # fmt: skip
    (line,) = cells(tables.other(1, Result("train", {}, [replace(ROW, details=details)])))
    assert (line["new images/s"], line["times, new"]) == ("2.5", "1.25")
    assert (line["updates/s"], line["times, updates"]) == ("10", "5")


def test_operators_have_columns_the_dearest_of_all_rows_first() -> None:
    spent = [{"Conv": 30.0, "Mul": 5.0, "Add": 0.5}, {"Mul": 1.0, "Conv": 6.0, "Exp": 2.5}]
    spent[0] |= dict.fromkeys(("Sub", "Div", "Clip", "Pad"), 0.25)
    rows = [
        replace(
            row(name, (40, 9, 1, 2)), noisy=name == "b",
            details={"operators_ms": ms, "sgemm_fraction": 0.5, "products_sgemm_fraction": 1.25},
        )
        for name, ms in zip("ab", spent, strict=True)
    ]  # fmt: skip
    table = tables.where_the_time_goes(2, Result("operators", {}, rows, {"sgemm_gmacs": 92.1}))
    setting = "cpu, 224x224, batch 1, 2 threads"
    machine = "unknown machine"
    assert table.title == f"Run 2, where the time goes in ONNX Runtime: {machine}, {setting}"
    assert "on this machine, 92.1 GMACs a second;" in table.note
    first, second = cells(table)
    assert list(first)[:9] == [
        "gradient", "ms", "GMACs", "of sgemm", "its products", "Conv ms", "Mul ms", "Exp ms",
        "Add ms",
    ]  # fmt: skip
    assert list(first.values())[:9] == [
        "a", "40", "2", "50\u00a0%", "125\u00a0%", "30", "5", "", "0.5"
    ]  # fmt: skip
    assert first["others ms"] == "0.5" and len(first) == 12, "two of four small ones"
    assert (second["ms"], second["Exp ms"], second["others ms"]) == ("40\u00a0~", "2.5", "0")


@pytest.mark.parametrize(
    "odd", [None, True, "x" * 999, [], {"Conv": "x", "a": None, "b" * 99: 1}, -1, 1e18, [[]]]
)
def test_details_of_any_type_do_no_harm(odd: Any) -> None:
    names = ("preset", "operators_ms", "sgemm_fraction", "new_images_per_second", "weights")
    rows = [replace(ROW, details=dict.fromkeys(names, odd)), ROW]
    for kind in ("fit", "train", "operators", "scaling", "gradient"):
        made = page.make([Result(kind, {}, rows, {"sgemm_gmacs": odd})])
        for table in made.measurements:
            assert {len(line) for line in table.rows} == {len(table.header)}
            assert all(len(cell) <= 60 for line in table.rows for cell in line)
    told = {"trained", "of sgemm", "new images/s"} & {*tables.other(1, made.results[0]).header}
    assert bool(told) == (type(odd) in (int, float, str))


def test_tables_are_in_the_order_of_the_runs() -> None:
    kinds = ("fit", "gradient", "scaling", "operators", "phone")
    rows = [replace(ROW, details={"operators_ms": {"Conv": 1.0}})]
    made = page.make([Result(kind, {}, rows) for kind in kinds]).measurements
    runs = [int(table.title.removeprefix("Run ")[0]) for table in made]
    assert runs == [1, 2, 3, 3, 4, 5]


def test_growth_is_fitted() -> None:
    rows = [
        replace(
            ROW, size=size, batch=1, median_ms=size**2.0, p10_ms=0, p90_ms=1e9,
            parameters=1_000_000, peak_bytes=4_000_000 + 5 * size,
        )
        for size in (64, 128, 256)
    ]  # fmt: skip
    odd = [replace(rows[0], batch=2, median_ms=0.0), rows[0]]  # no logarithm; twice the same
    drawn = tables.growth(1, Result("scaling", {}, rows + odd))
    line = dict(zip(drawn.header, drawn.rows[0], strict=True))
    assert line["time ~ pixels^"] == "1.00" and line["memory ~ pixels^"] == "0.50"
    assert "time ~ batch^" not in line
    assert tables.growth(1, Result("scaling", {}, [])).rows == []


@given(st.floats(1e-6, 1e9), st.sampled_from([1, -1]))
def test_short_keeps_three_digits_without_an_exponent(size: float, sign: int) -> None:
    shown = columns.short(sign * size)
    assert not set(shown) - set("-0123456789.,")
    assert float(shown.replace(",", "")) == pytest.approx(sign * size, rel=6e-3)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1e-5, "0.00001"), (-123_456.0, "-123,456"), (1234, "1,234"), (99.96, "100"), (0, "0"),
        (0.1234, "0.123"), (12.0, "12"), (-1.5, "-1.5"), (1e-300, "0"),
    ],
)  # fmt: skip
def test_short_by_hand(value: float, shown: str) -> None:
    assert columns.short(value) == shown
