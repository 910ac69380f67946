"""`doctor`: what works on this machine, which versions, and how to get what is missing."""

from __future__ import annotations

import importlib.util
import platform
import sys
from dataclasses import dataclass

import pgn
from pgn_export.exporting import CONVERTERS
from pgn_export.manifest import versions
from pgn_export.proof import runtimes

INSTALL = 'pip install "pgn-edge[export]"'
_MODULES = {  # by distribution, where the name to import differs
    "litert-torch": "litert_torch",
    "ai-edge-litert": "ai_edge_litert",
    "ai-edge-quantizer": "ai_edge_quantizer",
}


@dataclass(frozen=True)
class Diagnosis:
    """One target on this machine."""

    target: str
    works: bool
    versions: dict[str, str]
    proved_in: list[str]  # runtimes
    advice: str  # empty where nothing is missing


def diagnose() -> list[Diagnosis]:
    """Every target: found by looking for its packages, without importing them."""
    return [_diagnose(name) for name in CONVERTERS]


def machine() -> dict[str, str]:
    """What the rest depends on."""
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "pgn-edge": pgn.__version__,
    }


def _diagnose(target: str) -> Diagnosis:
    packages = CONVERTERS[target].PACKAGES
    missing = [name for name in packages if not _importable(name)]
    proved_in = [] if missing else list(runtimes(target))
    return Diagnosis(target, not missing, versions(packages), proved_in, _advice(target, missing))


def _importable(package: str) -> bool:
    return importlib.util.find_spec(_MODULES.get(package, package)) is not None


def _advice(target: str, missing: list[str]) -> str:
    if target == "tflite" and missing and sys.platform != "linux":
        return "litert-torch exists for Linux only: export there"
    if missing:
        return f"{INSTALL}  (missing: {', '.join(missing)})"
    if target == "coreml" and sys.platform != "darwin":
        return "proved in the MIL interpreter; on a Mac, pgn-export verify runs Core ML itself"
    return ""
