"""A network at one size: traced once for all targets and dtypes, with what it must give there."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pgn
from pgn import PGN, PgnError
from pgn_export import parity
from pgn_export.graph import (
    CachedProxy,
    Graph,
    ProxyGraph,
    Size,
    TargetFeatures,
    example,
    splittable,
    trace,
)
from pgn_export.sizes import available_memory, check_size

WHOLE, CACHED, TARGET_FEATURES = "", "-cached", "-target_features"  # suffixes of file names

_TRACE_BATCH = 2  # free dimensions of 1 would be taken for constants


@dataclass(frozen=True)
class Options:
    """What is common to all targets and dtypes of an export."""

    size: Size = (256, 256)
    batch: int = 1
    dynamic: bool = False  # free batch, height and width
    cached_target: bool = False  # the target's features as a graph of their own

    def __post_init__(self) -> None:
        if self.dynamic and self.cached_target:
            raise PgnError(
                "--dynamic: cannot be had with --cached-target, whose features have sizes of "
                "their own. Leave one out."
            )


@dataclass(frozen=True)
class Source:
    """`name` begins the names of its files."""

    net: PGN
    name: str = "pgn"
    options: Options = field(default_factory=Options)

    def check(self) -> None:
        """Refuse what cannot work, before the work.

        Raises:
            PgnError: sizes too small or too large for the memory; no branch to cache.
        """
        check_size(self.net, self.options.size, self.options.batch, available_memory())
        if self.options.cached_target:
            splittable(self.net)

    @property
    def shown_size(self) -> str:
        """As in file names: 256x256, 256x192-batch4, dynamic."""
        if self.options.dynamic:
            return "dynamic"
        height, width = self.options.size
        return f"{height}x{width}" + (
            f"-batch{self.options.batch}" if self.options.batch > 1 else ""
        )

    @cached_property
    def graphs(self) -> dict[str, Graph]:
        """The traced graphs by the suffix of their files' names; those of the target first."""
        dynamic = self.options.dynamic
        inputs = example(self.options.size, _TRACE_BATCH if dynamic else self.options.batch)
        if not self.options.cached_target:
            return {WHOLE: trace(ProxyGraph(self.net), inputs, dynamic)}
        of_target = trace(TargetFeatures(self.net), {"target": inputs["target"]})
        cached = {"generated": inputs["generated"], **of_target.outputs}
        return {TARGET_FEATURES: of_target, CACHED: trace(CachedProxy(self.net), cached)}

    @cached_property
    def cases(self) -> list[parity.Case]:
        """What every artifact must give."""
        return parity.cases(self.net, self.options.size, self.options.batch)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that determines the artifacts but the target, its tools and the dtype."""
        digest = hashlib.sha256(repr((self.net.config, self.options, self.name)).encode())
        for name, tensor in sorted(self.net.state_dict().items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        for file in self._made_by():
            digest.update(file.read_bytes())
        return digest.hexdigest()

    def _made_by(self) -> list[Path]:
        """Our code, the photos of its checks, and the code of what the network is built of."""
        ours = Path(__file__).parent
        found = {file for file in (ours / "photos").iterdir() if file.is_file()}
        for package in (ours, Path(pgn.__file__).parent):
            found.update(package.rglob("*.py"))
        for name in {type(module).__module__ for module in self.net.modules()}:
            if file := getattr(sys.modules.get(name), "__file__", None):  # none of a notebook's
                found.add(Path(file))
        return sorted(found)
