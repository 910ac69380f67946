"""Checkpoints: one .safetensors file whose metadata holds a JSON `pgn`. Loading runs no code."""

from __future__ import annotations

import json
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pgn import official
from pgn.errors import PgnError, unknown_name
from pgn.files import atomic_path
from pgn.model import PGN, PGNConfig

BUNDLED = ("pgn-lite", "pgn-nano")
FORMAT_VERSION = 1
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
    path = _resolve(str(name_or_path))
    if path.suffix in (".pth", ".pt"):
        config, state, info = official.read(path, head)
    elif head is not None:
        raise PgnError(f"head: got '{head}', but {path.name} records its own. Leave it out.")
    else:
        config, state, info = _read(path)
    with torch.device("meta"):  # nothing is allocated before the shapes are compared
        net = PGN(config, info)
    _fill(net, state, path)
    net.source = path
    return net.eval()


def save(net: PGN, path: str | Path) -> Path:
    """Write a checkpoint, by rename, so that a crash leaves the old file.

    Raises:
        PgnError: the suffix is not .safetensors, the weights are not finite, or the folder cannot
            be written.
    """
    final = Path(path)
    if not all(torch.isfinite(tensor).all() for tensor in _state(net).values()):
        raise PgnError("checkpoint: the weights hold NaN or infinite values: the network diverged.")
    if final.suffix != ".safetensors":
        raise PgnError(f"checkpoint: got {final.name}, expected a name ending in .safetensors.")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in _state(net).items()}
    metadata = {"pgn": json.dumps({"format": FORMAT_VERSION, **net.metadata()}, sort_keys=True)}
    with atomic_path(final) as temporary:
        save_file(state, temporary, metadata)
    return final


def _state(net: PGN) -> dict[str, Tensor]:
    state: dict[str, Tensor] = net.backbone.state_dict()
    return state


def _resolve(name_or_path: str) -> Path:
    if name_or_path in BUNDLED:
        return Path(str(resources.files("pgn") / "assets" / f"{name_or_path}.safetensors"))
    path = Path(name_or_path)
    try:
        exists = path.is_file()
    except OSError:  # a name that is too long, say
        exists = False
    if exists:
        return path
    if path.suffix or len(path.parts) > 1:
        raise PgnError(
            f"checkpoint: no file {name_or_path}. Give a .safetensors or .pth file that exists, "
            f"or a bundled name: {', '.join(BUNDLED)}."
        )
    raise unknown_name("checkpoint", name_or_path, BUNDLED)


def _read(path: Path) -> tuple[PGNConfig, dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise PgnError(
            f"checkpoint: {path} is no readable .safetensors file ({error}). "
            f"It may be cut short: copy or train it again."
        ) from None
    described = _described(metadata, path)
    config = PGNConfig(**{key: described[key] for key in _CONFIG_KEYS & described.keys()})
    info = {k: v for k, v in described.items() if k not in _CONFIG_KEYS and k != "format"}
    return config, state, info


def _described(metadata: dict[str, str], path: Path) -> dict[str, Any]:
    try:
        described = json.loads(metadata["pgn"])
        version = described["format"]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise PgnError(
            f"checkpoint: {path} has no valid 'pgn' metadata. "
            f"Expected a file written by pgn.save or pgn-train."
        ) from None
    if version != FORMAT_VERSION:
        raise PgnError(
            f"checkpoint: {path} has format {version!r}, this version reads {FORMAT_VERSION}. "
            f"If it is newer, upgrade pgn-edge."
        )
    found: dict[str, Any] = described
    return found


def _fill(net: PGN, state: dict[str, Tensor], path: Path) -> None:
    """Copy `state` into the backbone, or say in one message everything that does not fit."""
    expected = _state(net)
    problems = []
    if missing := sorted(expected.keys() - state.keys()):
        problems.append(f"missing: {', '.join(missing[:5])}{_more(missing)}")
    if extra := sorted(map(str, state.keys() - expected.keys())):
        problems.append(f"not expected: {', '.join(extra[:5])}{_more(extra)}")
    for name in sorted(expected.keys() & state.keys()):
        if not isinstance(state[name], Tensor):
            problems.append(f"{name}: got {type(state[name]).__name__}, expected a tensor")
        elif expected[name].shape != state[name].shape:
            got, wanted = tuple(state[name].shape), tuple(expected[name].shape)
            problems.append(f"{name}: got shape {got}, expected {wanted}")
        elif not torch.isfinite(state[name]).all():
            problems.append(f"{name}: holds NaN or infinite values")
    if problems:
        shown = "; ".join(problems[:5])
        raise PgnError(
            f"checkpoint: {path} does not fit backbone '{net.config.backbone}': {shown}. "
            f"Expected exactly the tensors of that backbone."
        )
    typed = {name: tensor.to(expected[name].dtype) for name, tensor in state.items()}
    net.backbone.load_state_dict(typed, assign=True)


def _more(names: list[str]) -> str:
    return f" and {len(names) - 5} more" if len(names) > 5 else ""
