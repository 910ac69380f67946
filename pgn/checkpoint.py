"""Checkpoints of PGNs: one .safetensors file whose metadata holds a JSON `pgn`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pgn import official
from pgn.errors import PgnError
from pgn.model import PGN, PGNConfig
from pgn.tensor_file import Kind, check_counts, fill

BUNDLED = ("pgn-lite", "pgn-nano")
_KIND = Kind("pgn", BUNDLED, ".safetensors or .pth", "pgn.save or pgn-train")
_CONFIG_KEYS = {field.name for field in fields(PGNConfig)}


def load(name_or_path: str | Path, *, head: str | None = None) -> PGN:
    """Load a PGN in evaluation mode, on the CPU.

    Args:
        name_or_path: a bundled name (`pgn-lite`), a .safetensors file of ours, or an official
            .pth of version 0, 1 or 2.
        head: only for official files of version 0 and 1, which do not record theirs:
            direct | proxy | constrained (default) | hybrid.

    Raises:
        PgnError: no such name or file; keys or shapes that do not fit; a pickle that wants to
            run code.
    """
    path = _KIND.find(name_or_path)
    if path.suffix in (".pth", ".pt"):
        config, state, info = official.read(path, head)
    elif head is not None:
        raise PgnError(f"head: got '{head}', but {path.name} records its own. Leave it out.")
    else:
        config, state, info = _read(path)
    check_counts(path, "backbone", _widths(config.options))
    with torch.device("meta"):
        net = PGN(config, info)
    fill(net.backbone, state, path, f"backbone '{config.backbone}'")
    net.source = path
    return net.eval()


def save(net: PGN, path: str | Path) -> Path:
    """Write a checkpoint, by rename, so that a crash leaves the old file.

    Raises:
        PgnError: the suffix is not .safetensors, the weights are not finite, or the folder cannot
            be written.
    """
    return _KIND.write(path, net.backbone.state_dict(), net.metadata())


def _read(path: Path) -> tuple[PGNConfig, dict[str, Tensor], dict[str, Any]]:
    described, state = _KIND.read(path)
    config = PGNConfig(**{key: described[key] for key in _CONFIG_KEYS & described.keys()})
    info = {key: value for key, value in described.items() if key not in _CONFIG_KEYS}
    return config, state, info


def _widths(options: dict[str, Any]) -> Iterator[Any]:
    for value in options.values():
        for block in value if isinstance(value, (list, tuple)) else [value]:
            yield from block if isinstance(block, (list, tuple)) else [block]
