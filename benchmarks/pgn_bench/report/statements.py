"""The paper's statements on time and memory, checked one by one in every setting and runtime.

Nikulin et al., arXiv 2105.01957; they measured on a GeForce GTX 1080 Ti. Compared are float32 rows
of one runtime in one run, the target's features of exact losses kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from pgn_bench.report.columns import short
from pgn_bench.report.settings import Setting
from pgn_bench.results import Row

HOLDS, FAILS, MISSING = "holds", "does not hold here", "not measured here"
SAME = 1.2  # up to this ratio two figures count as the same
RESNETS = ("pgn-resnet4", "pgn-resnet6", "pgn-resnet8")
NETWORKS = (*RESNETS, "pgn-unet")

Rows = Mapping[str, Row]  # by provider


@dataclass(frozen=True)
class Measure:
    """A figure of a row, in a unit."""

    field: str
    unit: str
    scale: float

    def of(self, rows: Rows, providers: Sequence[str]) -> list[float] | None:
        """In the order of `providers`; None if any was not measured."""
        found = [getattr(rows[name], self.field) for name in providers if name in rows]
        values = [value / self.scale for value in found if value is not None]
        return values if len(values) == len(providers) else None

    def show(self, rows: Rows, providers: Sequence[str]) -> str:
        """The same as text; a time that other programs disturbed has a ~."""
        values = self.of(rows, providers) or []
        return ", ".join(
            f"{name} {short(value)} {self.unit}"
            + (" ~" if self.field == "median_ms" and rows[name].noisy else "")
            for name, value in zip(providers, values, strict=True)
        )


TIME = Measure("median_ms", "ms", 1)
MEMORY = Measure("peak_bytes", "MB", 1e6)
PARAMETERS = Measure("parameters", "M", 1e6)
MACS = Measure("macs", "GMACs", 1e9)

Judged = tuple[bool, str]  # whether it holds, and the figures


@dataclass(frozen=True)
class Statement:
    """What the paper says; `judge` gives None where something is not measured."""

    text: str
    judge: Callable[[Rows], Judged | None]


@dataclass(frozen=True)
class Finding:
    """A statement's fate in one setting and runtime."""

    statement: str
    setting: str
    runtime: str
    verdict: str
    figures: str


def less(measure: Measure, smaller: Sequence[str], larger: str, rows: Rows) -> Judged | None:
    """Each of `smaller` stays below `larger`."""
    names = [*smaller, larger]
    values = measure.of(rows, names)
    if values is None:
        return None
    return max(values[:-1]) < values[-1], measure.show(rows, names)


def same(measure: Measure, names: Sequence[str], rows: Rows) -> Judged | None:
    """The largest is at most SAME times the smallest."""
    values = measure.of(rows, names)
    if values is None:
        return None
    return max(values) <= SAME * min(values), measure.show(rows, names)


def slow_though_small(rows: Rows) -> Judged | None:
    """UNet takes ResNet-8's time, or more; how much less it computes is told."""
    names = ("pgn-unet", "pgn-resnet8")
    values = TIME.of(rows, names)
    if values is None or MACS.of(rows, names) is None:
        return None
    unet, resnet = values
    return SAME * unet >= resnet, f"{TIME.show(rows, names)}; {MACS.show(rows, names)}"


STATEMENTS = (
    Statement(
        "ResNet-4 is faster than exact VGG-11",
        partial(less, TIME, RESNETS[:1], "exact vgg11"),
    ),
    Statement(
        "ResNet-4 takes less memory than exact VGG-11",
        partial(less, MEMORY, RESNETS[:1], "exact vgg11"),
    ),
    Statement("ResNet-4, -6 and -8 take the same memory", partial(same, MEMORY, RESNETS)),
    Statement("UNet is as slow as ResNet-8, with a sixteenth of its operations", slow_though_small),
    Statement(
        "ResNet-4, -6, -8 and UNet have fewer parameters than VGG-19",
        partial(less, PARAMETERS, NETWORKS, "exact vgg19"),
    ),
    Statement(
        "ResNet-4, -6, -8 and UNet take less memory than exact VGG-19",
        partial(less, MEMORY, NETWORKS, "exact vgg19"),
    ),
)


def check(settings: Sequence[Setting]) -> list[Finding]:
    """All statements, each in all settings; where no runtime has the figures, that is told once.

    A setting without any of the paper's networks, as one of our own alone, is not asked.
    """
    asked = [each for each in settings if any(row.provider in NETWORKS for row in each.rows)]
    return [
        finding
        for statement in STATEMENTS
        for setting in asked
        for finding in _check(statement, setting)
    ]


def _check(statement: Statement, setting: Setting) -> list[Finding]:
    found = []
    for runtime, rows in setting.by_runtime.items():
        if judged := statement.judge(rows):
            holds, figures = judged
            verdict = HOLDS if holds else FAILS
            found.append(Finding(statement.text, setting.title, runtime, verdict, figures))
    return found or [Finding(statement.text, setting.title, "", MISSING, "")]
