"""Joules from Linux's counters, which begin anew, hide from users, and have parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgn_bench import energy
from pgn_bench.energy import Meter


def zone(folder: Path, name: str, microjoules: int, largest: int = 999_999) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{largest}\n")
    return folder


@pytest.fixture
def counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    return tmp_path


def test_packages_are_added_and_their_parts_are_not(counters: Path) -> None:
    zone(counters / "intel-rapl:0", "package-0", 100_000)
    zone(counters / "intel-rapl:0:0", "core", 0)
    zone(counters / "intel-rapl:1", "package-1", 900_000)
    meter = Meter()
    zone(counters / "intel-rapl:0", "package-0", 350_000)
    zone(counters / "intel-rapl:0:0", "core", 200_000)
    zone(counters / "intel-rapl:1", "package-1", 50_000)  # it began anew after 999,999
    assert meter.joules() == pytest.approx(0.25 + 0.15)


def test_where_nothing_tells_there_is_no_figure(counters: Path) -> None:
    assert Meter().joules() is None
    hidden = zone(counters / "intel-rapl:0", "package-0", 1) / "energy_uj"
    hidden.unlink()
    hidden.mkdir()  # reading it fails, as it does for users who may not
    assert Meter().joules() is None


def test_a_counter_that_went_away_gives_no_figure(counters: Path) -> None:
    zone(counters / "intel-rapl:0", "package-0", 1)
    meter = Meter()
    (counters / "intel-rapl:0" / "energy_uj").unlink()
    assert meter.joules() is None
