"""manifest.json beside the artifacts: what each is, where it came from, how good it measured."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pgn
from pgn import PgnError
from pgn.files import atomic_path
from pgn.images import MEAN, STD
from pgn_export import card
from pgn_export.graph import Graph, count_macs, has_target_branch
from pgn_export.parity import GATES, Figures
from pgn_export.proof import Files
from pgn_export.source import Source
from pgn_runtime import FitOptions
from pgn_runtime.artifact import MANIFEST, read_manifest
from pgn_runtime.files import sha256

GRADIENT = "2/(C*H*W) * (alpha*(generated-proxy) + lambda*(generated-target)) / std^2"


@dataclass(frozen=True)
class Details:
    """What an entry says beside what is measured."""

    source: Source
    target: str
    dtype: str
    key: str
    test_vectors: str  # file name
    packages: tuple[str, ...]


def describe(details: Details, files: Files, parity: list[Figures]) -> dict[str, dict[str, Any]]:
    """The manifest entries of an artifact's files (already under their final names), by name."""
    entries = {}
    net = details.source.net
    pairs = zip(details.source.graphs.items(), files.all, strict=True)
    for (suffix, graph), path in pairs:
        entry = {
            "sha256": sha256(path),
            "key": details.key,
            "target": details.target,
            **contract(details.source, suffix, details.dtype),
            "inputs": _shapes(graph, graph.inputs),
            "outputs": _shapes(graph, graph.outputs),
            "checkpoint_sha256": _checkpoint_sha256(details.source),
            "network": net.metadata(),
            "parameters": sum(parameter.numel() for parameter in net.parameters()),
            "gate": asdict(GATES[details.dtype]),
            "test_vectors": details.test_vectors,
            "versions": versions(details.packages),
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        }
        if not graph.dynamic:
            entry["macs"] = count_macs(graph)
        if path == files.proxy:
            entry["target_recomputed"] = has_target_branch(net) and not files.target_features
            entry["parity"] = [asdict(figures) for figures in parity]
            if files.target_features:
                entry["target_features"] = files.target_features.name
        entries[path.name] = entry
    return entries


def contract(source: Source, suffix: str, dtype: str) -> dict[str, Any]:
    """What a caller must know of a graph, the same in the manifest and inside of the file."""
    return {
        "name": source.name,
        "graph": suffix.lstrip("-") or "proxy",
        "layout": "NCHW",
        "colour": "RGB",
        "range": [0.0, 1.0],
        "precision": dtype,
        "alpha": source.net.config.alpha,
        "lambda": FitOptions().mse_weight,
        "gradient": GRADIENT,
        "mean": MEAN,
        "std": STD,
    }


def embedded(source: Source, suffix: str, dtype: str) -> dict[str, str]:
    """The metadata that goes into the artifact itself: no dates, no paths."""
    values = {
        **contract(source, suffix, dtype),
        "checkpoint_sha256": _checkpoint_sha256(source),
        "licence": source.net.info.get("licence"),
        "version": pgn.__version__,
    }
    return {
        f"pgn.{key}": value if isinstance(value, str) else json.dumps(value)
        for key, value in values.items()
    }


def check(folder: Path) -> dict[str, Any]:
    """The artifacts that the folder's manifest lists, seen to be whole before work begins.

    Raises:
        PgnError: an entry is not as we write them.
        RuntimeInputError: it is no manifest of ours.
    """
    manifest = read_manifest(folder)
    artifacts: dict[str, Any] = manifest["artifacts"]
    try:
        if artifacts:
            card.text(manifest)  # reads all that an export reads of older entries
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise PgnError(
            f"manifest: {folder / MANIFEST} is damaged ({error!r:.80}). Delete it, export again."
        ) from None
    return artifacts


def add(folder: Path, entries: dict[str, dict[str, Any]]) -> None:
    """Put entries into the folder's manifest, replacing older ones of their names, and its card."""
    manifest = read_manifest(folder)
    manifest["artifacts"].update(entries)
    for name in {entry["test_vectors"] for entry in entries.values()}:
        manifest.setdefault("test_vectors", {})[name] = sha256(folder / name)
    with atomic_path(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    card.write(folder, manifest)


def key(fingerprint: str, target: str, dtype: str, packages: tuple[str, ...]) -> str:
    """What an artifact is made of, as one SHA-256: equal keys give equal bytes."""
    parts = (fingerprint, target, dtype, sorted(versions(packages).items()))
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def up_to_date(folder: Path, files: Files, wanted: str) -> bool:
    """Whether an artifact's files and test vectors are there, unchanged, of what `key` says."""
    manifest = read_manifest(folder)
    entries = [manifest["artifacts"].get(path.name, {}) for path in files.all]
    if any(entry.get("key") != wanted for entry in entries):
        return False
    hashes = {}
    for path, entry in zip(files.all, entries, strict=True):
        vectors = str(entry.get("test_vectors"))
        hashes[path.name] = entry.get("sha256")
        hashes[vectors] = manifest.get("test_vectors", {}).get(vectors)
    return all(
        (folder / name).exists() and sha256(folder / name) == expected
        for name, expected in hashes.items()
    )


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Installed versions of ours and of `packages`."""
    return {"pgn-edge": pgn.__version__, **{name: _version(name) for name in packages}}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _checkpoint_sha256(source: Source) -> str | None:
    return sha256(source.net.source) if source.net.source else None


def _shapes(graph: Graph, tensors: dict[str, Any]) -> dict[str, list[int | str]]:
    return {
        name: [graph.free_axes.get(axis, side) for axis, side in enumerate(tensor.shape)]
        for name, tensor in tensors.items()
    }
