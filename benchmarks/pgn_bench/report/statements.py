"""The paper's statements on time and memory, checked one by one in every setting and runtime.

Nikulin et al., arXiv 2105.01957; they measured on a GeForce GTX 1080 Ti. Compared are float32 rows
of one runtime in one run, the target's features of exact losses kept. Figures that may as well be
the other way round are no ground for a verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from pgn_bench.report.columns import short
from pgn_bench.report.settings import Setting
from pgn_bench.results import Row

HOLDS, FAILS, MISSING = "holds", "does not hold here", "not measured here"
CLOSE = "too close here"
SAME = 1.2  # up to this ratio two figures count as the same
NEAR = 0.05  # two peaks of memory no farther apart, as a fraction, have no order
NOTE = (
    "Float32 rows of one runtime in one run. The paper measured on a GeForce GTX 1080 Ti, and "
    "computed the target's features of exact losses at every call; here they are kept, which makes "
    f'exact losses cheaper. "The same", "as slow": up to a factor of {SAME}. Too close: the '
    "intervals from the 10th to the 90th percentile of the two times that decide overlap, or the "
    f"two peaks of memory differ by less than {100 * NEAR:.0f} % (after that factor, if any). "
    "~ noisy: other programs used the machine."
)
RESNETS = ("pgn-resnet4", "pgn-resnet6", "pgn-resnet8")
NETWORKS = (*RESNETS, "pgn-unet")

Rows = Mapping[str, Row]  # by provider


@dataclass(frozen=True)
class Measure:
    """A figure of a row, in a unit."""

    field: str
    unit: str
    scale: float
    near: float = 0.0  # two figures no farther apart, as a fraction, have no order

    def rows(self, rows: Rows, providers: Sequence[str]) -> list[Row] | None:
        """In the order of `providers`; None if any was not measured."""
        found = [rows[name] for name in providers if name in rows]
        measured = [row for row in found if getattr(row, self.field) is not None]
        return measured if len(measured) == len(providers) else None

    def of(self, row: Row) -> float:
        """The figure, scaled; of a row that has it."""
        return float(getattr(row, self.field) / self.scale)

    def interval(self, row: Row) -> tuple[float, float]:
        """Where the figure may lie; of a time, from its 10th to its 90th percentile."""
        if self is TIME:
            return row.p10_ms, row.p90_ms
        value = self.of(row)
        return (1 - self.near / 2) * value, (1 + self.near / 2) * value

    def show(self, rows: Sequence[Row]) -> str:
        """The figures as text; a time that other programs disturbed has a ~."""
        return ", ".join(
            f"{row.provider} {short(self.of(row))} {self.unit}"
            + (" ~" if self is TIME and row.noisy else "")
            for row in rows
        )

    def compare(self, smaller: Row, larger: Row, factor: float = 1) -> str:
        """The verdict on `smaller` < `factor` times `larger`: none where the intervals overlap."""
        low, high = self.interval(smaller)
        limit_low, limit_high = (factor * end for end in self.interval(larger))
        if high < limit_low:
            return HOLDS
        return FAILS if low >= limit_high else CLOSE


TIME = Measure("median_ms", "ms", 1)
MEMORY = Measure("peak_bytes", "MB", 1e6, NEAR)
PARAMETERS = Measure("parameters", "M", 1e6)
MACS = Measure("macs", "GMACs", 1e9)

Judged = tuple[str, str]  # the verdict, and the figures


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
    found = measure.rows(rows, [*smaller, larger])
    if found is None:
        return None
    *below, limit = found
    return measure.compare(max(below, key=measure.of), limit), measure.show(found)


def same(measure: Measure, names: Sequence[str], rows: Rows) -> Judged | None:
    """The largest is less than SAME times the smallest."""
    found = measure.rows(rows, names)
    if found is None:
        return None
    largest, smallest = max(found, key=measure.of), min(found, key=measure.of)
    return measure.compare(largest, smallest, SAME), measure.show(found)


def slow_though_small(rows: Rows) -> Judged | None:
    """UNet takes ResNet-8's time, or more; how much less it computes is told."""
    names = ("pgn-unet", "pgn-resnet8")
    found = TIME.rows(rows, names)
    if found is None or MACS.rows(rows, names) is None:
        return None
    unet, resnet = found
    return TIME.compare(resnet, unet, SAME), f"{TIME.show(found)}; {MACS.show(found)}"


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
            verdict, figures = judged
            found.append(Finding(statement.text, setting.title, runtime, verdict, figures))
    return found or [Finding(statement.text, setting.title, "", MISSING, "")]
