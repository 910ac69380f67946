"""Official checkpoints (dniku/perceptual-gradient-networks), .pth versions 0, 1 and 2.

Version 2 records backbone and head; version 1 holds `state_dict` and the backbone's `params`;
version 0 is a flat dictionary of tensors and parameters. `grad_scale` is 1 / alpha.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pgn.errors import PgnError
from pgn.model import PGNConfig

Contents = tuple[PGNConfig, dict[str, Tensor], dict[str, Any]]

_DEFAULT_HEAD = "constrained"  # of the published networks
_OPTION_NAMES = {"down_channels": "down", "up_channels": "up"}
_LEGACY_UNET_SCALE = 1e-3  # its loss was averaged over batches of 48: it means 0.048


def read(path: Path, head: str | None) -> Contents:
    """Configuration, state dict and info of an official file.

    Raises:
        PgnError: not readable with weights_only (a pickle that wants to run code), an unknown
            version, or a variant that was never published (warped target, L1 or logcosh).
    """
    checkpoint = _load(path)
    version = checkpoint.get("version", 0)
    if version == 2:
        if head is not None:
            raise PgnError(f"head: got '{head}', but {path.name} records its own. Leave it out.")
        contents = _version2(checkpoint, path)
    elif version in (0, 1):
        contents = _version0_or_1(checkpoint, version, head or _DEFAULT_HEAD, path)
    else:
        raise PgnError(f"checkpoint: {path} has version {version!r}, expected 0, 1 or 2.")
    return contents


def _load(path: Path) -> dict[str, Any]:
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise PgnError(
            f"checkpoint: {path} is refused: it holds more than tensors, and reading it could "
            f"run code ({reason}). Ask its author for plain weights."
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PgnError(f"checkpoint: {path} is no readable PyTorch file ({reason}).") from None
    if not isinstance(checkpoint, dict):
        raise PgnError(f"checkpoint: {path} holds a {type(checkpoint).__name__}, expected a dict.")
    return checkpoint


def _version2(checkpoint: dict[str, Any], path: Path) -> Contents:
    try:
        state = checkpoint["state_dict"]
        kind = checkpoint["backbone_type"]
        params = checkpoint["backbone_params"]
        to_gradient = checkpoint["backbone_to_grad_params"]
        head = _head(checkpoint["backbone_to_grad_type"], to_gradient, path)
        values = {"alpha": 1.0 / (to_gradient.get("grad_scale") or 1.0)}
        if "sigmoid" in head[1]:
            values["beta"] = float(to_gradient["sigmoid"]["scale"])
        if "residual" in head[1]:
            values["gamma"] = 1.0 / (to_gradient.get("out_scale") or 1.0)
    except (KeyError, TypeError, AttributeError) as error:
        raise PgnError(f"checkpoint: {path} lacks {error} of a version 2 file.") from None
    backbone, options = _backbone(kind, params, state, path)
    return PGNConfig(backbone, head[0], options=options, **values), state, _info(2)


def _version0_or_1(checkpoint: dict[str, Any], version: int, head: str, path: Path) -> Contents:
    if version == 1:
        state, params = checkpoint.get("state_dict"), dict(checkpoint.get("params") or {})
    else:
        state = {k: v for k, v in checkpoint.items() if isinstance(v, Tensor)}
        params = {k: v for k, v in checkpoint.items() if k not in state and k != "version"}
    if not isinstance(state, dict) or not state:
        raise PgnError(f"checkpoint: {path} holds no weights.")
    kind = "resnet" if any(key.startswith("model.") for key in state) else "unet"
    scale = params.pop("grad_scale", 0.025 if kind == "resnet" else 0.048)
    if kind == "unet" and scale == _LEGACY_UNET_SCALE:
        scale = 0.048
    backbone, options = _backbone(kind, params, state, path)
    config = PGNConfig(backbone, head, alpha=1.0 / scale, options=options)
    return config, state, _info(version)


def _head(kind: str, params: dict[str, Any], path: Path) -> tuple[str, set[str]]:
    """Our name of an official head, and which of its scales it uses."""
    names = {
        ("direct", "raw"): ("direct", {"residual"}),
        ("direct", "sigmoid"): ("hybrid", {"residual", "sigmoid"}),
        ("proxy", "raw"): ("proxy", set[str]()),
        ("proxy", "sigmoid"): ("constrained", {"sigmoid"}),
    }
    found = names.get((kind, params["type"]))
    if found is None or params.get("grad_type", "mse") != "mse":
        raise PgnError(
            f"checkpoint: {path} has head {kind}/{params['type']}/{params.get('grad_type')}, "
            f"expected direct or proxy, raw or sigmoid, mse."
        )
    return found


def _backbone(
    kind: str, params: dict[str, Any], state: dict[str, Tensor], path: Path
) -> tuple[str, dict[str, Any]]:
    params = dict(params)
    blocks = params.pop("num_blocks", None)
    options = {_OPTION_NAMES[k]: list(params.pop(k)) for k in list(params) if k in _OPTION_NAMES}
    if kind == "unet":
        return "unet", options
    if kind != "resnet":
        raise PgnError(f"checkpoint: {path} has backbone '{kind}', expected resnet or unet.")
    if blocks is None:
        blocks = len({k.split(".")[1] for k in state if ".conv_block." in k})
    if blocks in (4, 6, 8):
        return f"resnet{blocks}", options
    raise PgnError(f"checkpoint: {path} has {blocks} residual blocks, expected 4, 6 or 8.")


def _info(version: int) -> dict[str, Any]:
    return {"source": f"official checkpoint, version {version}", "teacher": "vgg19-torchvision"}
