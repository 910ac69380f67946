"""Which sizes a network takes, and whether their activations fit in memory."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pgn import PGN, PgnError
from pgn.images import MIN_SIZE
from pgn_export.graph import ProxyGraph, Size, example


def parse_sizes(text: str) -> list[Size]:
    """ "256", "256x192" or a comma list of these to heights and widths, each once.

    Raises:
        PgnError: anything else.
    """
    sizes = [_parse(part.strip()) for part in text.split(",")]
    return list(dict.fromkeys(sizes))


def _parse(text: str) -> Size:
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match:
        raise PgnError(
            f"--size: got '{text}', expected pixels: 256, 256x192 (height x width), or a comma "
            f"list of them."
        )
    height = int(match[1])
    return height, int(match[2] or height)


def check_size(net: PGN, size: Size, batch: int, available_bytes: float) -> None:
    """Refuse sizes that are too small, or whose activations exceed `available_bytes`.

    Raises:
        PgnError: with what is needed and what there is.
    """
    height, width = size
    if min(size) < MIN_SIZE:
        raise PgnError(f"--size: got {height}x{width}, expected sides of at least {MIN_SIZE}.")
    if batch < 1:
        raise PgnError(f"--batch: got {batch}, expected at least 1.")
    needed = activation_bytes(net, size) * batch
    if needed > available_bytes:
        raise PgnError(
            f"--size: {batch} of {height}x{width} need about {needed / 2**30:.1f} GiB of "
            f"activations, and {available_bytes / 2**30:.1f} GiB are free. Give a smaller size."
        )


def available_memory() -> float:
    """Bytes that programs can have, as Linux tells them; infinity where nothing tells."""
    info = Path("/proc/meminfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    found = re.search(r"MemAvailable:\s+(\d+) kB", text)
    return int(found[1]) * 1024.0 if found else float("inf")


def activation_bytes(net: PGN, size: Size) -> int:
    """Bytes of everything that one forward pass writes; an upper bound of its working memory.

    Counted at one small size and scaled: all of our networks are convolutional.
    """
    small = (256, 256)
    counter = _OutputBytes()
    with torch.device("meta"):
        graph = ProxyGraph(net).to("meta")
        inputs = {name: tensor.to("meta") for name, tensor in example(small).items()}
    with counter:
        graph(**inputs)
    return counter.total * size[0] * size[1] // (small[0] * small[1])


class _OutputBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the sizes of all tensors that operators return."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.total += out.numel() * out.element_size()
        return out
