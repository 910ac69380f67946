"""An exported PGN: graph, manifest entry, and the gradient that both give together."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pgn_runtime import backends
from pgn_runtime.backends import Session
from pgn_runtime.errors import RuntimeInputError
from pgn_runtime.files import Pixels, exists, read_text, sha256
from pgn_runtime.gradient import closed_form

MANIFEST = "manifest.json"
PROXY = "proxy"  # the output of every graph that gives a gradient
SCHEMA = 1
MAX_VALUE = 4.0  # no generator that is worth a gradient leaves [0, 1] by more; 8-bit pixels do


@dataclass
class Artifact:
    """`proxy(generated, target)` runs the graph; `gradient` adds the closed form.

    Where the target's features are a graph of their own, they are computed when the target
    changes, not at every call.

    Shapes: (N, 3, H, W) float32 pixels in [0, 1]; N, H, W as `session.inputs` says.
    """

    path: Path
    session: Session
    alpha: float
    of_target: Session | None = None  # target -> its features, inputs of `session`
    _target: Pixels | None = field(default=None, repr=False)
    _features: dict[str, Pixels] = field(default_factory=dict, repr=False)

    @staticmethod
    def load(path: str | Path, threads: int = 2) -> Artifact:
        """Open an artifact written by pgn-export; its manifest.json must lie beside it.

        Raises:
            RuntimeInputError: file or manifest missing, or not of each other; an artifact that
                gives no proxy.
            MissingBackendError: the runtime is not installed.
        """
        file = Path(path)
        backends.find(file)  # a missing file is told as such, not as one that nobody lists
        entry = read_entry(file)  # before the graph: what was changed is never opened
        if PROXY not in entry.get("outputs", {}):
            raise RuntimeInputError(
                f"model: {file.name} computes a target's features only. Open the artifact "
                f"whose name has '-cached' instead; it finds this one."
            )
        session = backends.load(file, threads)
        of_target = None
        if name := entry.get("target_features"):
            features = beside(file.parent, name)
            read_entry(features)
            of_target = backends.load(features, threads)
        _check_interface(file, session, of_target)
        return Artifact(file, session, float(entry["alpha"]), of_target)

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
        inputs = {"generated": _contiguous(generated), **self._of_target(_contiguous(target))}
        proxy = self._run(self.session, inputs)[PROXY]
        if proxy.shape != generated.shape or not np.isfinite(proxy).all():
            raise RuntimeInputError(
                f"model: {self.path.name} gives {proxy.shape} for {generated.shape}, or values "
                f"that are not finite. Check it: pgn-export verify {self.path.parent}"
            )
        return proxy

    def _of_target(self, target: Pixels) -> dict[str, Pixels]:
        if self.of_target is None:
            return {"target": target}
        if self._target is None or not np.array_equal(self._target, target):
            self._features = self._run(self.of_target, {"target": target})
            self._target = target.copy()
        return self._features

    def _run(self, session: Session, inputs: dict[str, Pixels]) -> dict[str, Pixels]:
        try:
            return session.run(inputs)
        except Exception as error:  # the runtimes' exceptions share no base class of their own
            raise RuntimeInputError(
                f"model: {session.backend} cannot run {self.path.name} ({error}). Export again."
            ) from None

    def gradient(self, generated: Pixels, target: Pixels, mse_weight: float = 0.0) -> Pixels:
        """The gradient (N, 3, H, W) per pixel unit, closed form; errors as `proxy`."""
        proxy = self.proxy(generated, target)
        return closed_form(generated, target, proxy, self.alpha, mse_weight)

    def _check(self, name: str, image: Pixels) -> None:
        wanted = self.session.inputs["generated"]
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


def _check_interface(file: Path, session: Session, of_target: Session | None) -> None:
    """The graph's own names must be those that its manifest promises."""
    given = of_target.outputs if of_target else ("target",)
    fits = session.inputs.keys() == {"generated", *given} and PROXY in session.outputs
    if of_target:
        fits &= of_target.inputs.keys() == {"target"}
    if not fits or len(session.inputs["generated"]) != 4:
        raise RuntimeInputError(
            f"model: {file.name} takes {', '.join(session.inputs)} and gives "
            f"{', '.join(session.outputs)}, not what its manifest says. Export again."
        )


def beside(folder: Path, name: object) -> Path:
    """A file of the folder itself, by its name in the manifest.

    Raises:
        RuntimeInputError: it is no text, or leads out of the folder.
    """
    if not isinstance(name, str) or Path(name).name != name or name in ("", ".."):
        raise RuntimeInputError(f"manifest: {name!r:.200} leads out of the folder {folder}.")
    return folder / name


def read_manifest(folder: Path) -> dict[str, Any]:
    """manifest.json of a folder, or an empty one.

    Raises:
        RuntimeInputError: it is no JSON, of another schema, or its parts are of other types.
    """
    path = folder / MANIFEST
    if not exists(path):
        return {"schema": SCHEMA, "artifacts": {}}
    text = read_text(path)
    try:
        manifest: dict[str, Any] = json.loads(text)
        schema = manifest["schema"]
        entries = [*manifest["artifacts"].values()]
        hashes = manifest.get("test_vectors", {})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RuntimeInputError(f"manifest: {path} is not readable ({error!r:.200}).") from None
    if schema != SCHEMA:
        raise RuntimeInputError(f"manifest: {path} is of schema {schema!r:.20}, not {SCHEMA}.")
    if not all(isinstance(part, dict) for part in (*entries, hashes)):
        raise RuntimeInputError(f"manifest: {path} is damaged. Delete it, and export again.")
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
    alpha = entry.get("alpha")
    scale = isinstance(alpha, (int, float)) and 0 < alpha <= sys.float_info.max
    if not (scale and "sha256" in entry and isinstance(entry.get("outputs", {}), dict)):
        raise RuntimeInputError(
            f"manifest: {file.parent / MANIFEST} has no valid entry for {file.name}. Export again."
        )
    if sha256(file) != entry["sha256"]:
        raise RuntimeInputError(
            f"manifest: {file} was changed after its export (its SHA-256 differs). Export again."
        )
    return entry
