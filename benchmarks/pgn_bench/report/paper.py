"""What the paper says one gradient costs, and what it costs by an honest count.

Nikulin et al., arXiv 2105.01957, Tables 1 and 6. Its multiply-accumulates of exact losses count six
passes of one image: its loss module runs both images, and the cost of the module was multiplied by
three. The gradient needs three passes (target, generated, backward), or two where the target's
features are kept. That is inferred from the arithmetic, which fits both losses to 0.2 %; the
authors' script was not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pgn_bench.report.tables import Table
from pgn_bench.results import Result, Row

SIZE = 224  # pixels, of the paper's counts
NOTE = (
    "Multiply-accumulates of one gradient at 224x224. Published: Nikulin et al., arXiv 2105.01957, "
    "one forward pass of a network, but six passes of exact losses: both images are inside of the "
    "module whose cost was multiplied by three (6 x 18.1 = 108.8; 6 x 7.0 = 42.2; inferred, the "
    "authors' script was not seen). An exact gradient takes three passes if the target's features "
    "are computed again each time, two if they are kept. Honest counts are of convolutions alone, "
    "and so are those here, of the operators that run once the target's features are kept."
)


@dataclass(frozen=True)
class Published:
    """A row of the paper's tables; GMACs at 224x224."""

    name: str
    provider: str  # as result files call it
    parameters: int
    gmacs: float  # of one gradient, as published
    one_pass: float  # of one image through the convolutions, by hand
    recomputed: int = 1  # passes of one gradient, the target's features computed each time
    kept: int = 1  # the same, the target's features kept


VGG19 = Published("VGG-19 to conv5_1", "exact vgg19", 12_944_960, 108.84, 18.12, 3, 2)
PUBLISHED = (
    VGG19,
    Published("VGG-11 to conv5_1", "exact vgg11", 6_860_672, 42.21, 7.023, 3, 2),
    Published("PGN ResNet-4", "pgn-resnet4", 1_335_875, 19.79, 19.68),
    Published("PGN ResNet-6", "pgn-resnet6", 1_927_235, 27.23, 27.08),
    Published("PGN ResNet-8", "pgn-resnet8", 2_518_595, 34.66, 34.48),
    Published("PGN UNet", "pgn-unet", 1_765_891, 2.10, 1.943),
)
HEADER = (
    "network", "parameters, M: published", "parameters, M: here", "GMACs: published",
    "GMACs: honest, target recomputed", "GMACs: honest, target kept", "GMACs: counted here",
    "times fewer than VGG-19: published", "times fewer: honest, target recomputed",
    "times fewer: honest, target kept",
)  # fmt: skip


def costs(results: Sequence[Result]) -> Table:
    """The paper's networks, then others that the results hold; published beside honest."""
    counted = _counted(results)
    rows = [_published(each, counted.get(each.provider)) for each in PUBLISHED]
    known = {each.provider for each in PUBLISHED}
    rows += [_other(row) for name, row in counted.items() if name not in known]
    return Table("Tables 1 and 6: what one gradient computes", NOTE, HEADER, rows)


def _counted(results: Sequence[Result]) -> dict[str, Row]:
    """By provider, the row that computes least: the target's features are kept there."""
    rows = [
        row
        for result in results
        for row in result.rows
        if row.macs and (row.size, row.batch) == (SIZE, 1) and result.kind == "gradient"
    ]
    most_first = sorted(rows, key=lambda row: row.macs or 0, reverse=True)
    return {row.provider: row for row in most_first}


def _published(each: Published, row: Row | None) -> list[str]:
    gmacs = each.gmacs, each.one_pass * each.recomputed, each.one_pass * each.kept
    exact = VGG19.gmacs, VGG19.one_pass * VGG19.recomputed, VGG19.one_pass * VGG19.kept
    return [
        each.name,
        f"{each.parameters / 1e6:.2f}",
        _millions(row),
        *(f"{count:.2f}" for count in gmacs),
        _gmacs(row),
        *(f"{larger / count:.1f}" for larger, count in zip(exact, gmacs, strict=True)),
    ]


def _other(row: Row) -> list[str]:
    """What is counted here has the target's features kept, and so has its ratio."""
    fewer = f"{VGG19.one_pass * VGG19.kept * 1e9 / row.macs:.1f}" if row.macs else ""
    return [row.provider, "", _millions(row), "", "", "", _gmacs(row), "", "", fewer]


def _millions(row: Row | None) -> str:
    return "" if row is None or row.parameters is None else f"{row.parameters / 1e6:.2f}"


def _gmacs(row: Row | None) -> str:
    return "" if row is None or row.macs is None else f"{row.macs / 1e9:.2f}"
