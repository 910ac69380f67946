"""`verify`: are the artifacts of a folder still what their manifest says, and the same gradient?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgn import PgnError
from pgn.files import first_line
from pgn_export import proof, vectors
from pgn_export.chatter import quiet
from pgn_export.parity import GATES, Figures
from pgn_export.proof import Files
from pgn_runtime.artifact import MANIFEST, beside, read_manifest
from pgn_runtime.errors import MissingBackendError
from pgn_runtime.files import exists, sha256


@dataclass(frozen=True)
class Verdict:
    """What was found of one artifact; `problem` is empty where all holds."""

    name: str
    problem: str
    parity: list[Figures]


def verify(folder: Path) -> list[Verdict]:
    """Hash every file again, and run every artifact on its test vectors.

    Raises:
        PgnError: no manifest, or one that lists nothing.
        MissingBackendError: a runtime is not installed.
    """
    manifest = read_manifest(folder)
    if not manifest["artifacts"]:
        raise PgnError(f"verify: {folder} has no {MANIFEST} of pgn-export. Check the path.")
    return [_verify(folder, name, manifest) for name in sorted(manifest["artifacts"])]


def _verify(folder: Path, name: str, manifest: dict[str, Any]) -> Verdict:
    try:
        entry = manifest["artifacts"][name]
        changed = _changed(folder, name, manifest)
        if changed or "parity" not in entry:  # a target's features are run with the cached graph
            return Verdict(name, changed, [])
        features = entry.get("target_features")
        files = Files(folder / name, beside(folder, features) if features else None)
        cases = vectors.load(folder / entry["test_vectors"])
        with quiet():
            figures = proof.measure(files, entry["target"], cases)
        gate = GATES[entry["precision"]]  # ours: the manifest's could have been changed
    except MissingBackendError:
        raise
    except Exception as error:  # a file of a stranger makes runtimes and converters raise anything
        return Verdict(name, f"cannot be checked: {first_line(error)}", [])
    failed = [row for row in figures if not row.passes(gate)]
    return Verdict(name, f"another gradient: {failed[0]}" if failed else "", figures)


def _changed(folder: Path, name: str, manifest: dict[str, Any]) -> str:
    """Which of the files that an entry rests on differs from its hash; else ""."""
    entry = manifest["artifacts"][name]
    wanted = {name: entry["sha256"]}
    wanted[entry["test_vectors"]] = manifest["test_vectors"][entry["test_vectors"]]
    if features := entry.get("target_features"):
        wanted[features] = manifest["artifacts"][features]["sha256"]
    for file, digest in wanted.items():
        path = beside(folder, file)
        if not exists(path):
            return f"{file} is missing"
        if sha256(path) != digest:
            return f"{file} was changed: its SHA-256 differs"
    return ""
