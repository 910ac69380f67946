"""Official checkpoints (dniku/perceptual-gradient-networks), .pth versions 0, 1 and 2.

Version 2 records backbone and head; version 1 holds `state_dict` and the backbone's `params`;
version 0 is a flat dictionary of tensors and parameters. `grad_scale` is 1 / alpha.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from pgn.errors import PgnError
from pgn.files import read_torch
from pgn.model import PGNConfig

Contents = tuple[PGNConfig, dict[str, Tensor], dict[str, Any]]

_DEFAULT_HEAD = "constrained"  # of the published networks
_OPTION_NAMES = {"down_channels": "down", "up_channels": "up"}
_LEGACY_UNET_SCALE = 1e-3  # its loss was averaged over batches of 48: it means 0.048


def read(path: Path, head: str | None) -> Contents:
    """Configuration, state dict and info of an official file.

    Raises:
        PgnError: not readable with weights_only (a pickle that wants to run code), an unknown
            version, a malformed one, or a variant that was never published (warped target, L1 or
            logcosh).
    """
    checkpoint = read_torch(path)
    if not isinstance(checkpoint, dict):
        raise PgnError(f"checkpoint: {path} holds a {type(checkpoint).__name__}, expected a dict.")
    version = checkpoint.get("version", 0)
    if not isinstance(version, int) or version not in (0, 1, 2):
        raise PgnError(f"checkpoint: {path} has version {_shown(version)}, expected 0, 1 or 2.")
    if version == 2 and head is not None:
        raise PgnError(f"head: got '{head}', but {path.name} records its own. Leave it out.")
    try:
        if version == 2:
            return _version2(checkpoint)
        return _version0_or_1(checkpoint, version, head or _DEFAULT_HEAD)
    except PgnError as error:
        raise PgnError(f"checkpoint: {path}: {error}") from None
    except Exception as error:  # anything can stand in a dictionary from elsewhere
        raise PgnError(
            f"checkpoint: {path} is malformed for version {version} ({error!r}). "
            f"Expected a file of the official code."
        ) from None


def _version2(checkpoint: dict[str, Any]) -> Contents:
    to_gradient = checkpoint["backbone_to_grad_params"]
    head, scales = _head(checkpoint["backbone_to_grad_type"], to_gradient)
    values = {"alpha": _inverse(to_gradient.get("grad_scale"))}
    if "sigmoid" in scales:
        values["beta"] = float(to_gradient["sigmoid"]["scale"])
    if "residual" in scales:
        values["gamma"] = _inverse(to_gradient.get("out_scale"))
    state = _named(checkpoint["state_dict"])
    kind = checkpoint["backbone_type"]
    backbone, options = _backbone(kind, checkpoint["backbone_params"], state)
    return PGNConfig(backbone, head, options=options, **values), state, _info(2)


def _shown(value: Any) -> str:
    """A value for a message; a few nested tuples, each twice in the next, give an endless one."""
    number = isinstance(value, (int, float)) and abs(value) < 2**31
    text = isinstance(value, str) and len(value) < 100
    return repr(value) if number or text else f"a {type(value).__name__}"


def _named(state: Any) -> dict[str, Tensor]:
    return {str(name): tensor for name, tensor in {**state}.items()}


def _inverse(scale: float | None) -> float:
    """1 / scale; the official code leaves out a scale of None."""
    if scale is None:
        return 1.0
    if not scale > 0:
        raise PgnError(f"a scale is {_shown(scale)}, expected a positive number.")
    return 1.0 / scale


def _version0_or_1(checkpoint: dict[str, Any], version: int, head: str) -> Contents:
    if version == 1:
        state, params = _named(checkpoint["state_dict"]), {**checkpoint["params"]}
    else:
        state = {k: v for k, v in checkpoint.items() if isinstance(v, Tensor)}
        params = {k: v for k, v in checkpoint.items() if k not in state and k != "version"}
    if not state:
        raise PgnError("it holds no weights.")
    kind = "resnet" if any(key.startswith("model.") for key in state) else "unet"
    scale = params.pop("grad_scale", 0.025 if kind == "resnet" else 0.048)
    if kind == "unet" and scale == _LEGACY_UNET_SCALE:
        scale = 0.048
    backbone, options = _backbone(kind, params, state)
    config = PGNConfig(backbone, head, alpha=_inverse(scale), options=options)
    return config, state, _info(version)


def _head(kind: str, params: dict[str, Any]) -> tuple[str, set[str]]:
    """Our name of an official head, and which of its scales it uses."""
    names = {
        ("direct", "raw"): ("direct", {"residual"}),
        ("direct", "sigmoid"): ("hybrid", {"residual", "sigmoid"}),
        ("proxy", "raw"): ("proxy", set[str]()),
        ("proxy", "sigmoid"): ("constrained", {"sigmoid"}),
    }
    theirs = (kind, params["type"])
    found = names.get(theirs) if all(isinstance(part, str) for part in theirs) else None
    if found is None or params.get("grad_type", "mse") != "mse":
        raise PgnError(
            f"its head is {_shown(kind)}, {_shown(params['type'])}, "
            f"{_shown(params.get('grad_type'))}, expected direct or proxy, raw or sigmoid, mse."
        )
    return found


def _backbone(
    kind: str, params: dict[str, Any], state: dict[str, Tensor]
) -> tuple[str, dict[str, Any]]:
    params = {**params}  # no dict(): it would hash keys of nested tuples, without end
    blocks = params.pop("num_blocks", None)
    options = {_OPTION_NAMES[k]: list(params.pop(k)) for k in list(params) if k in _OPTION_NAMES}
    if params:
        raise PgnError(f"it has parameters that were never published: {', '.join(params):.200}.")
    if kind == "unet":
        return "unet", options
    if kind != "resnet":
        raise PgnError(f"its backbone is {_shown(kind)}, expected resnet or unet.")
    if blocks is None:
        blocks = len({k.split(".")[1] for k in state if ".conv_block." in k})
    if blocks not in (4, 6, 8):
        raise PgnError(f"it has {_shown(blocks)} residual blocks, expected 4, 6 or 8.")
    return f"resnet{blocks}", options


def _info(version: int) -> dict[str, Any]:
    return {"source": f"official checkpoint, version {version}", "teacher": "vgg19-torchvision"}
