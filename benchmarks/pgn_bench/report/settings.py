"""What may be compared: rows of one run, of one device, size, batch and number of threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pgn_bench.results import Result, Row, machine_name

KINDS = ("gradient", "phone", "browser")  # of results whose rows are gradients in one setting


@dataclass(frozen=True)
class Setting:
    """Rows that were measured alike in one run. Times of different runs have no ratio."""

    run: int  # from 1
    machine: str
    rows: Sequence[Row]

    @property
    def title(self) -> str:
        return f"Run {self.run}: {self.machine}, {in_words(self.rows[0])}"

    @cached_property
    def by_runtime(self) -> dict[str, dict[str, Row]]:
        """Float32 rows by runtime, then by provider."""
        found: dict[str, dict[str, Row]] = {}
        for row in self.rows:
            if row.dtype == "fp32":
                found.setdefault(row.runtime, {})[row.provider] = row
        return found


def in_words(row: Row) -> str:
    """The setting of a row."""
    threads = f"{row.threads} thread{'s' if row.threads > 1 else ''}"
    return f"{row.device}, {row.size}x{row.size}, batch {row.batch}, {threads}"


def find_settings(results: Sequence[Result]) -> list[Setting]:
    """All settings of the results that hold gradients, in their order."""
    found = []
    for run, result in enumerate(results, 1):
        if result.kind not in KINDS:
            continue
        groups: dict[tuple[object, ...], list[Row]] = {}
        for row in result.rows:
            groups.setdefault((row.device, row.size, row.batch, row.threads), []).append(row)
        found += [Setting(run, machine_name(result.machine), rows) for rows in groups.values()]
    return found
