"""How wrong gradients are, and modules with other numbers than those they were traced with."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pgn_export.fitting.names import tensor_name
from pgn_export.graph import Tensors

Arrays = Mapping[str, NDArray[np.float32]]
Errors = dict[str, float]  # by parameter: its worst element, relative to the largest
Module = TypeVar("Module", bound=nn.Module)


def moved(module: Module, names: Iterable[str]) -> Module:
    """A copy in float64 with other numbers in these parameters, all of which float32 has."""
    copied = copy.deepcopy(module).double().eval()
    for seed, name in enumerate(names):
        parameter = copied.get_parameter(name)
        parameter.data = (parameter.data + 0.1 * noise(parameter, seed)).float().double()
    return copied


def noise(like: Tensor, seed: int) -> Tensor:
    """Of the shape of `like`, in float64; float32 has these numbers."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=generator).double()


def arrays(tensors: Tensors) -> dict[str, NDArray[np.float32]]:
    """What runtimes take."""
    return {name: tensor.detach().float().numpy() for name, tensor in tensors.items()}


def errors(found: Arrays, prefix: str, wanted: Tensors) -> Errors:
    """Of what is called `prefix` and a parameter's tensor_name in `found`."""
    return {name: worst(found[prefix + tensor_name(name)], value) for name, value in wanted.items()}


def worst(found: NDArray[np.float32], wanted: Tensor) -> float:
    """The largest difference over the largest wanted value; infinite if all of those are 0, or if
    the shapes differ."""
    exact = wanted.detach().numpy()
    if found.shape != exact.shape:
        return math.inf
    difference = np.abs(found.astype(np.float64) - exact).max()
    if difference == 0:
        return 0.0
    with np.errstate(divide="ignore"):
        return float(difference / np.abs(exact).max())
