"""manifest.json beside the artifacts: what each is, where it came from, how good it measured."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pgn
from pgn.files import atomic_path
from pgn.images import MEAN, STD
from pgn_export.graph import INPUTS, OUTPUT, Size
from pgn_export.parity import MAX_SCALE_ERROR, MIN_COSINE, Figures
from pgn_runtime import FitOptions
from pgn_runtime.artifact import MANIFEST, read_manifest
from pgn_runtime.files import sha256


def describe(
    net: pgn.PGN, path: Path, size: Size | None, parity: list[Figures], packages: tuple[str, ...]
) -> dict[str, Any]:
    """The manifest entry of one artifact; `size` None means any."""
    shape = [1, 3, *size] if size else ["batch", 3, "height", "width"]
    return {
        "sha256": sha256(path),
        "checkpoint_sha256": sha256(net.source) if net.source else None,
        "network": net.metadata(),
        "inputs": dict.fromkeys(INPUTS, shape),
        "outputs": {OUTPUT: shape},
        "layout": "NCHW",
        "colour": "RGB",
        "range": [0.0, 1.0],
        "precision": "fp32",
        "alpha": net.config.alpha,
        "lambda": FitOptions().mse_weight,
        "gradient": "2/(C*H*W) * (alpha*(generated-proxy) + lambda*(generated-target)) / std^2",
        "mean": MEAN,
        "std": STD,
        "gate": {"min_cosine": MIN_COSINE, "max_scale_error": MAX_SCALE_ERROR},
        "parity": [asdict(figures) for figures in parity] or "not run: no runtime here",
        "versions": {"pgn-edge": pgn.__version__, **{name: _version(name) for name in packages}},
        "command": shlex.join(sys.argv),
    }


def add(folder: Path, name: str, entry: dict[str, Any]) -> None:
    """Put `entry` into the folder's manifest, replacing an older one of that name."""
    manifest = read_manifest(folder)
    manifest["artifacts"][name] = entry
    with atomic_path(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
