"""The page of `pgn-eval alignment`: tables, cosine per band, and pictures of gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

import pgn
from pgn.degrade import SUITE, to_pil
from pgn.evaluate.alignment_report import Report, Table, cell
from pgn.evaluate.measures import BAND_COSINES, BANDS
from pgn.evaluate.peers import exact, mse
from pgn.files import read_image
from pgn.images import centre_crop
from pgn.model import PGN
from pgn.pages import embed_png, to_svg, write_page
from pgn.teachers import PerceptualLoss

PICTURED = ("blur 4", "noise 0.1", "JPEG 10")  # of the first photos, one each
BRIGHT = 0.99  # quantile of the true gradient's values that is drawn black or white

WITH_PEERS = {
    "cosine": "Over all values of an image; 1 is the true direction.",
    "sign agreement": "Share of values whose sign is the true one; 0.5 is chance.",
    "DC bias": "Error of the channels' means after scaling to the true length, in units of the "
    "true gradient's RMS; 0 is none.",
}
NETWORKS_ONLY = {"norm ratio": "Length over the true length; 1 is right. A peer has its own unit."}

Picture = tuple[str, str]  # caption, data: address


@dataclass(frozen=True)
class Section:
    """One measure: its tables by size."""

    title: str
    text: str
    tables: dict[int, Table]


def write_alignment_page(
    path: Path,
    report: Report,
    teacher: PerceptualLoss,
    networks: Mapping[str, PGN],
    paths: Sequence[Path],
) -> None:
    """Write the page, which needs no other file. `paths`: the report's photos."""
    size = max(report.sizes)
    sections = [_section(report, *item, report.gradients) for item in WITH_PEERS.items()]
    sections += [_section(report, *item, report.networks) for item in NETWORKS_ONLY.items()]
    write_page(
        path,
        Path(__file__).with_name("alignment.html"),
        {
            "report": report,
            "headline": report.headline(),
            "sections": sections,
            "bands": _plot_bands(report, size),
            "band_tables": {
                name: report.by_measure(name, size, BAND_COSINES) for name in report.networks
            },
            "pictures": [
                (name, _pictures(centre_crop(read_image(path), size), name, teacher, networks))
                for path, name in zip(paths, PICTURED, strict=False)
            ],
            "suite": ", ".join(SUITE),
            "size": size,
            "cell": cell,
            "version": pgn.__version__,
        },
    )


def _section(report: Report, measure: str, text: str, gradients: Sequence[str]) -> Section:
    tables = {size: report.by_gradient(measure, size, gradients) for size in report.sizes}
    return Section(measure[0].upper() + measure[1:], text, tables)


def _plot_bands(report: Report, size: int) -> str:
    """Mean cosine per Laplacian band over all situations, as inline SVG."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(report.gradients)
    for index, name in enumerate(report.gradients):
        means = [report.overall(name, size, measure) for measure in BAND_COSINES]
        places = [band + (index + 0.5) * width - 0.4 for band in range(len(BANDS))]
        axes.bar(places, means, width * 0.92, label=name)
    axes.set_xticks(range(len(BANDS)), BANDS)
    axes.set_xlabel("period of the band")
    axes.set_ylabel("cosine")
    axes.axhline(0, color="#222", linewidth=0.8)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(ncols=len(report.gradients), loc="outside upper center", frameon=False)
    return to_svg(figure)


def _pictures(
    photo: Tensor, degradation: str, teacher: PerceptualLoss, networks: Mapping[str, PGN]
) -> list[Picture]:
    """The photo (3, H, W), its degraded self, gradients there on one scale, and proxies."""
    target, generated = photo[None], SUITE[degradation](photo)[None]
    true = exact(teacher)(target)(generated)
    scale = float(true.abs().flatten().quantile(BRIGHT)) or 1.0  # 0: JPEG left a plain photo as is
    gradients = {name: net.gradient(generated, target) for name, net in networks.items()}
    of_mse = mse(target)(generated)
    gradients["MSE, at the true length"] = of_mse * (
        float(true.norm()) / (float(of_mse.norm()) or 1.0)
    )
    found = [("photo", target), ("generated", generated), ("true gradient", _grey(true, scale))]
    found += [(name, _grey(gradient, scale)) for name, gradient in gradients.items()]
    found += [
        (f"proxy target, {name}", net.proxy(generated, target)) for name, net in networks.items()
    ]
    return [(caption, embed_png(to_pil(image[0]))) for caption, image in found]


def _grey(gradient: Tensor, scale: float) -> Tensor:
    """Middle grey for 0, black and white for -scale and scale."""
    return 0.5 + gradient / (2 * scale)
