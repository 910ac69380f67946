"""What phones are given to measure: exported gradients, and what results call them.

The paper's own comparison (Nikulin et al., arXiv 2105.01957) is of its networks with exact VGG-11
and VGG-19: they are exported like the bundled networks, untrained where time is all that counts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pgn
from pgn import PGN, PgnError
from pgn.checkpoint import BUNDLED
from pgn.files import check_folder
from pgn_bench import web
from pgn_bench.exact_network import exact_network
from pgn_bench.providers import RANDOM, RANDOM_WEIGHTS, load_loss, load_network
from pgn_bench.providers_catalogue import weights_of
from pgn_export import manifest
from pgn_export.exporting import DTYPES, convert
from pgn_export.graph import has_target_branch
from pgn_export.source import Options, Source
from pgn_runtime.artifact import PROXY, read_entry
from pgn_runtime.locking import locked

SIZE = 224  # pixels
NETWORKS = ("resnet4", "resnet6", "resnet8", "unet")  # of the paper
LOSSES = ("vgg11", "vgg19")  # that it compares them with
PAPER_HELP = "Also the paper's ResNets and UNet, and exact VGG-11 and VGG-19: minutes, once."

Say = Callable[[str], None]


@dataclass(frozen=True)
class Exported:
    """A gradient in a file of pgn-export, as a row of a result names it."""

    path: Path
    entry: Mapping[str, Any]  # of the manifest
    provider: str
    dtype: str
    batch: int
    size: int  # pixels of the longer side

    @property
    def parameters(self) -> int | None:
        """Of the network; None if the manifest does not tell."""
        return _count(self.entry.get("parameters"))

    @property
    def macs(self) -> int | None:
        """Of one call; None if the manifest does not tell."""
        return _count(self.entry.get("macs"))

    @property
    def details(self) -> dict[str, str]:
        """Whether its weights are random."""
        random = RANDOM_WEIGHTS.items() <= self.entry["network"].items()
        return RANDOM_WEIGHTS if random else {}


def networks() -> Iterator[tuple[str, PGN]]:
    """The bundled networks, by the names that results give them."""
    for name in BUNDLED:
        yield name, pgn.load(name)


def peers() -> Iterator[tuple[str, PGN]]:
    """The paper's networks, untrained, and the exact losses that it compares them with."""
    for name in NETWORKS:
        yield f"pgn-{name}", load_network(name)
    for name in LOSSES:
        weights, shown = weights_of(name, {}), f"exact {name}"
        yield shown, exact_network(load_loss(name, weights), shown, weights == RANDOM)


@contextmanager
def kept_exports() -> Iterator[Path]:
    """The folder of the user's cache that keeps exports; no other command changes it meanwhile.

    Raises:
        PgnError: it cannot be written.
        RuntimeInputError: another command exports to it now.
    """
    folder = web.cache() / "models"
    check_folder(folder)
    with locked(folder):
        yield folder


def export_as(
    named: Iterator[tuple[str, PGN]], folder: Path, ways: Collection[tuple[str, str]], say: Say
) -> Iterator[Path]:
    """Export networks of SIZE for each (target, dtype), the target cached where it can be.

    What `folder` holds already, unchanged, stays. Errors as pgn_export.export.
    """
    for name, net in named:
        options = Options((SIZE, SIZE), cached_target=has_target_branch(net))
        source = Source(net, name, options)
        for target, dtype in ways:
            say(f"exporting {name}, {target}, {dtype}")
            yield convert(source, target, dtype, folder).path


def read(path: Path) -> Exported:
    """A file of pgn-export that gives a gradient.

    Raises:
        PgnError: it gives none, or one of no fixed size.
        RuntimeInputError: it is in no manifest, or was changed after its export.
    """
    manifest.check(path.parent)
    entry = read_entry(path)
    inputs, dtype = entry.get("inputs"), entry["precision"]
    shape: Any = inputs.get("generated") if isinstance(inputs, dict) else None
    fixed = isinstance(shape, list) and len(shape) == 4 and all(map(_count, shape))
    if PROXY not in entry["outputs"] or dtype not in DTYPES or not fixed:
        raise PgnError(
            f"model: {path.name} gives no gradient of one size. Export it without --dynamic, and "
            f"name the file whose graph gives '{PROXY}'."
        )
    batch, _, height, width = shape
    # kept features are the normal form, and have the plain name
    again = ", target recomputed" if entry.get("target_recomputed") else ""
    return Exported(path, entry, f"{entry['name']}{again}", dtype, batch, max(height, width))


def _count(value: object) -> int | None:
    """A manifest can hold anything."""
    return value if type(value) is int and 0 < value < 2**63 else None
