"""In which precision PyTorch computes: float32, TF32 (a GPU's tensor cores), or bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch

from pgn import PgnError


def allow_tf32(allowed: bool) -> None:
    """In a GPU's convolutions, whose default it is, and in its products of matrices."""
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = allowed


def autocast(dtype: str, device: str) -> Callable[[], AbstractContextManager[object]]:
    """What a call in fp32, tf32 or bf16 is surrounded by.

    Raises:
        PgnError: the machine does not compute in it.
    """
    if dtype != "bf16":
        return nullcontext
    if not _has_bf16(device):
        raise PgnError("bf16: this machine does not compute in it.")
    return partial(torch.autocast, device, torch.bfloat16)


def _has_bf16(device: str) -> bool:
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    able = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)  # not in every build
    return able is not None and bool(able())
