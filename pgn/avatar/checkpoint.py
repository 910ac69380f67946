"""Checkpoints of avatars: one .safetensors file whose metadata holds a JSON `pgn_avatar`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from pgn.avatar.generator import GeneratorConfig
from pgn.avatar.model import Avatar
from pgn.errors import PgnError
from pgn.files import first_line
from pgn.tensor_file import Kind, check_counts, fill

BUNDLED = ("avatar-demo",)
_KIND = Kind("pgn_avatar", BUNDLED, ".safetensors", "pgn-train avatar")
_GENERATOR_KEYS = {field.name for field in fields(GeneratorConfig)}


def load(name_or_path: str | Path) -> Avatar:
    """Load an avatar in evaluation mode, on the CPU.

    Args:
        name_or_path: a bundled name (`avatar-demo`), or a .safetensors file of ours.

    Raises:
        PgnError: no such name or file; no avatar; tensors that do not fit.
    """
    path = _KIND.find(name_or_path)
    described, state = _KIND.read(path)
    generator, widths = _shape(described, path)
    info = {key: value for key, value in described.items() if key not in ("generator", "embedder")}
    check_counts(path, "networks", _counts(generator, widths))
    config = GeneratorConfig(**generator)
    try:
        with torch.device("meta"):
            avatar = Avatar(config, widths, info)
    except RuntimeError as error:  # more numbers than can be counted
        raise PgnError(
            f"checkpoint: {path}: its networks cannot be built ({first_line(error)})."
        ) from None
    fill(avatar, state, path, "avatar")
    return avatar.eval()


def save(avatar: Avatar, path: str | Path) -> Path:
    """Write a checkpoint, by rename, so that a crash leaves the old file.

    Raises:
        PgnError: the suffix is not .safetensors, the weights are not finite, or the folder cannot
            be written.
    """
    return _KIND.write(path, avatar.state_dict(), avatar.metadata())


def _shape(described: dict[str, Any], path: Path) -> tuple[dict[str, Any], list[int]]:
    """The generator's settings and the embedder's widths."""
    generator, embedder = described.get("generator"), described.get("embedder")
    widths = embedder.get("widths") if isinstance(embedder, dict) else None
    if not isinstance(generator, dict) or set(generator) != _GENERATOR_KEYS:
        raise PgnError(
            f"checkpoint: {path}: expected a generator with {', '.join(sorted(_GENERATOR_KEYS))}."
        )
    if not (isinstance(widths, list) and widths and all(type(n) is int and n > 0 for n in widths)):
        raise PgnError(f"checkpoint: {path}: expected an embedder with widths, positive numbers.")
    return generator, widths


def _counts(generator: dict[str, Any], widths: list[int]) -> Iterator[Any]:
    """One for each layer that would be built."""
    yield from widths
    yield from generator["widths"] if isinstance(generator["widths"], list) else []
    yield from range(generator["blocks"]) if isinstance(generator["blocks"], int) else []
