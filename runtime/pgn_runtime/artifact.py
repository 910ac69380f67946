"""An exported PGN: graph, manifest entry, and the gradient that both give together."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pgn_runtime import backends
from pgn_runtime.errors import RuntimeInputError
from pgn_runtime.files import Pixels, sha256
from pgn_runtime.gradient import closed_form

MANIFEST = "manifest.json"
SCHEMA = 1
MAX_VALUE = 4.0  # no generator that is worth a gradient leaves [0, 1] by more; 8-bit pixels do


@dataclass(frozen=True)
class Artifact:
    """`proxy(generated, target)` runs the graph; `gradient` adds the closed form.

    Shapes: (N, 3, H, W) float32 pixels in [0, 1]; N, H, W as `session.shape` says.
    """

    path: Path
    session: backends.Session
    alpha: float

    @staticmethod
    def load(path: str | Path, threads: int = 2) -> Artifact:
        """Open an artifact written by pgn-export; its manifest.json must lie beside it.

        Raises:
            RuntimeInputError: file or manifest missing, or not of each other.
            MissingBackendError: the runtime is not installed.
        """
        file = Path(path)
        backends.find(file)  # a missing file is told as such, not as one that nobody lists
        alpha = read_entry(file)["alpha"]  # before the graph: what was changed is never opened
        return Artifact(file, backends.load(file, threads), float(alpha))

    def proxy(self, generated: Pixels, target: Pixels) -> Pixels:
        """The proxy target (N, 3, H, W) in pixels.

        Raises:
            RuntimeInputError: shapes that the graph does not take; NaN; values of 0..255.
        """
        for name, image in (("generated", generated), ("target", target)):
            self._check(name, image)
        if generated.shape != target.shape:
            raise RuntimeInputError(
                f"target: got shape {target.shape}, expected that of generated, {generated.shape}."
            )
        return self.session.run(_contiguous(generated), _contiguous(target))

    def gradient(self, generated: Pixels, target: Pixels, mse_weight: float = 0.0) -> Pixels:
        """The gradient (N, 3, H, W) per pixel unit, closed form; errors as `proxy`."""
        proxy = self.proxy(generated, target)
        return closed_form(generated, target, proxy, self.alpha, mse_weight)

    def _check(self, name: str, image: Pixels) -> None:
        wanted = self.session.shape
        fits = image.ndim == 4 and all(
            side in (None, got) for side, got in zip(wanted, image.shape, strict=True)
        )
        if not fits or min(image.shape[2:]) < 32:
            shown = tuple("any" if side is None else side for side in wanted)
            raise RuntimeInputError(
                f"{name}: got shape {image.shape}, expected {shown} with sides of at least 32. "
                f"Resize the picture, or export that size: pgn-export --size HxW."
            )
        low, high = float(image.min()), float(image.max())
        if not (np.isfinite(low) and np.isfinite(high)) or max(high, -low) > MAX_VALUE:
            raise RuntimeInputError(
                f"{name}: got values from {low:.3g} to {high:.3g}, expected pixels in [0, 1]. "
                f"If they are 0..255, divide by 255; if the fit diverged, lower its learning rate."
            )


def _contiguous(image: Pixels) -> Pixels:
    return np.ascontiguousarray(image, dtype=np.float32)


def read_manifest(folder: Path) -> dict[str, Any]:
    """manifest.json of a folder, or an empty one.

    Raises:
        RuntimeInputError: it is no JSON, or of another schema.
    """
    path = folder / MANIFEST
    if not path.exists():
        return {"schema": SCHEMA, "artifacts": {}}
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known = manifest["schema"] == SCHEMA and isinstance(manifest["artifacts"], dict)
    except (ValueError, KeyError, TypeError) as error:
        raise RuntimeInputError(f"manifest: {path} is not readable ({error!r}).") from None
    if not known:
        raise RuntimeInputError(
            f"manifest: {path} is of schema {manifest['schema']}, not {SCHEMA}."
        )
    return manifest


def read_entry(file: Path) -> dict[str, Any]:
    """What the manifest says of `file`.

    Raises:
        RuntimeInputError: it is not listed, or its hash differs.
    """
    entry: dict[str, Any] | None = read_manifest(file.parent)["artifacts"].get(file.name)
    if entry is None:
        raise RuntimeInputError(
            f"manifest: {file.parent / MANIFEST} does not list {file.name}. "
            f"Keep both files together, or export again."
        )
    alpha = entry.get("alpha") if isinstance(entry, dict) else None
    if not (isinstance(alpha, (int, float)) and alpha > 0 and "sha256" in entry):
        raise RuntimeInputError(
            f"manifest: {file.parent / MANIFEST} has no valid entry for {file.name}. Export again."
        )
    if sha256(file) != entry["sha256"]:
        raise RuntimeInputError(
            f"manifest: {file} was changed after its export (its SHA-256 differs). Export again."
        )
    return entry
