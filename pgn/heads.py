"""Four ways from a backbone's output B to the proxy target P (paper section 3).

All work on normalised images (N, 3, H, W). f maps to the range of normalised photos:
f(x) = (sigmoid(x) - mean) / std, and beta > 1 lets the proxy leave that range a little.

    direct       P = u_generated - gamma * B             Eq. 2
    proxy        P = B                                   Eq. 3-5
    constrained  P = beta * f(B)                         Eq. 6-7
    hybrid       P = beta * f(u_generated - gamma * B)   Eq. 8-9
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pgn.errors import unknown_name
from pgn.images import normalise

Head = Callable[[Tensor, Tensor, float, float], Tensor]  # (B, u_generated, beta, gamma) -> P


def _direct(out: Tensor, u_generated: Tensor, beta: float, gamma: float) -> Tensor:
    return u_generated - gamma * out


def _proxy(out: Tensor, u_generated: Tensor, beta: float, gamma: float) -> Tensor:
    return out


def _constrained(out: Tensor, u_generated: Tensor, beta: float, gamma: float) -> Tensor:
    return beta * normalise(torch.sigmoid(out))


def _hybrid(out: Tensor, u_generated: Tensor, beta: float, gamma: float) -> Tensor:
    return _constrained(_direct(out, u_generated, beta, gamma), u_generated, beta, gamma)


_HEADS: dict[str, Head] = {
    "direct": _direct,
    "proxy": _proxy,
    "constrained": _constrained,
    "hybrid": _hybrid,
}
NAMES = tuple(_HEADS)


def head(name: str) -> Head:
    """The head `name`: direct | proxy | constrained | hybrid.

    Raises:
        PgnError: no such head.
    """
    if name not in _HEADS:
        raise unknown_name("head", name, NAMES)
    return _HEADS[name]
