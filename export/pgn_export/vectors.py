"""Test vectors: inputs and what the network gives for them, to check an artifact on any device.

One .safetensors file a network and size, three cases (far, mid, near, each another photo):

    target, blurred  (3, N, 3, H, W) uint8; generated = (target + share * (blurred - target)) / 255
    share            (3,) float32
    proxy            (3, N, 3, H/4, W/4) float32 pixels, at every fourth pixel of both axes
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pgn import PgnError
from pgn.files import atomic_path
from pgn_export.parity import DISTANCES, Case

STRIDE = 4
MAX_BYTES = 2**30  # images of 4096 x 4096 pixels have a third of it
_TYPES = {
    "target": torch.uint8,
    "blurred": torch.uint8,
    "share": torch.float32,
    "proxy": torch.float32,
}


def save(cases: list[Case], path: Path) -> None:
    """Write one case a distance."""
    per_distance = len(cases) // len(DISTANCES)
    chosen = [cases[k * per_distance + k % per_distance] for k in range(len(DISTANCES))]
    tensors = {
        "target": torch.stack([case.target for case in chosen]),
        "blurred": torch.stack([case.blurred for case in chosen]),
        "share": torch.tensor([case.share for case in chosen]),
        "proxy": torch.stack([case.proxy[..., ::STRIDE, ::STRIDE].float() for case in chosen]),
    }
    with atomic_path(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)


def load(path: Path) -> list[Case]:
    """Read them back.

    Raises:
        PgnError: no file, or not one of ours.
    """
    try:
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            raise OSError(f"no file of at most {MAX_BYTES} bytes")
        tensors = load_file(path)
        target, blurred, share, proxy = (tensors[name] for name in _TYPES)
    except (SafetensorError, OSError, KeyError) as error:
        raise PgnError(f"test vectors: {path} is not readable ({error}). Export again.") from None
    fits = all(tensors[name].dtype == dtype for name, dtype in _TYPES.items())
    fits &= target.ndim == 5 and target.shape[2] == 3 and blurred.shape == target.shape
    if not fits or share.shape != target.shape[:1] or len(share) != len(DISTANCES):
        raise PgnError(f"test vectors: {path} holds other tensors than ours. Export again.")
    if proxy.shape != target[..., ::STRIDE, ::STRIDE].shape:
        raise PgnError(f"test vectors: {path} holds no proxy at every {STRIDE}th pixel.")
    rows = zip(DISTANCES, share.tolist(), target, blurred, proxy, strict=True)
    return [Case(*row, stride=STRIDE) for row in rows]
