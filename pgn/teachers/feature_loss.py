"""The general feature loss: a weighted distance between the feature maps of a fixed VGG.

    s * sum_i  lambda_i / M_i * sum |d_i|     (norm "l1"; "squared-l2": s^2 and d_i^2)

d_i: difference of layer i's ReLU outputs, M_i: its number of elements an image, s: scale of the
features, which depends on where the weights come from.
References: Johnson et al., arXiv 1603.08155 (squared L2 of a few layers); Nikulin et al.,
arXiv 2105.01957, section 4 (the default: L1 of all layers up to conv5_1, every lambda 1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from pgn.errors import PgnError, unknown_name
from pgn.teachers.trunk import OXFORD, VGGTrunk, layer_names
from pgn.teachers.weights import read_vgg

OXFORD_SCALE = 1.0 / 300.0  # brings features of 0..255 images to the range of the paper's tables
NORMS = {"l1": torch.abs, "squared-l2": torch.square}


class FeatureLoss(nn.Module):
    """Compares the ReLU outputs named in `layers` (name -> lambda, finest first).

    Convolutions beyond the last of them are never computed.
    """

    def __init__(self, trunk: VGGTrunk, layers: dict[str, float], norm: str, scale: float) -> None:
        super().__init__()
        self.trunk = trunk
        self.layers = layers
        self.norm = norm
        self.factor = scale if norm == "l1" else scale**2
        self.compared = [trunk.layers.index(layer) for layer in layers]

    def features(self, pixels: Tensor) -> list[Tensor]:
        """The compared outputs, finest first."""
        outputs = self.trunk.preactivations(pixels, depth=self.compared[-1] + 1)
        return [torch.relu(outputs[k]) for k in self.compared]

    def distance(self, generated: list[Tensor], target: list[Tensor]) -> Tensor:
        """Features of both images -> (N,)."""
        size = NORMS[self.norm]
        terms = [
            weight * size(a - b).mean(dim=(1, 2, 3), dtype=_at_least_float32(a))
            for weight, a, b in zip(self.layers.values(), generated, target, strict=True)
        ]
        return torch.stack(terms).sum(dim=0) * self.factor

    @property
    def label(self) -> str:
        """What tells it from the default, as "(relu3_3=1.0;squared-l2)"; empty for the default."""
        parts = []
        if self.layers != _default_layers(self.trunk.name):
            parts.append(",".join(f"{layer}={weight}" for layer, weight in self.layers.items()))
        if self.norm != "l1":
            parts.append(self.norm)
        return f"({';'.join(parts)})" if parts else ""


def load_feature_loss(
    name: str, weights: str | Path, layers: Mapping[str, float] | None, norm: str
) -> FeatureLoss:
    """The feature loss of the trunk `name` (vgg19 | vgg16 | vgg11).

    Raises:
        PgnError: no such layer or norm, a weight that is no positive number, weights of another
            network; and what `read_vgg` raises.
    """
    if norm not in NORMS:
        raise unknown_name("norm", norm, NORMS)
    lambdas = _default_layers(name) if layers is None else _checked_layers(name, layers)
    state, preprocessing = read_vgg(name, weights)
    trunk = VGGTrunk(name, preprocessing)
    try:
        trunk.convs.load_state_dict({k.removeprefix("convs."): v for k, v in state.items()})
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise PgnError(f"weights: {weights} does not fit {name}: {reason}") from None
    return FeatureLoss(trunk, lambdas, norm, OXFORD_SCALE if preprocessing is OXFORD else 1.0)


def _default_layers(name: str) -> dict[str, float]:
    return dict.fromkeys(layer_names(name), 1.0)


def _checked_layers(name: str, layers: Mapping[str, float]) -> dict[str, float]:
    """`layers` in the trunk's order."""
    known = layer_names(name)
    if not isinstance(layers, Mapping) or not layers:
        raise PgnError(
            f"layers: got {layers!r}, expected weights by name, as {{'{known[0]}': 1.0}}. "
            f"{name} has {', '.join(known)}."
        )
    for layer, weight in layers.items():
        if layer not in known:
            raise unknown_name(f"layer of {name}", str(layer), known)
        number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
        if not (number and 0 < weight < math.inf):
            raise PgnError(f"layers: got {layer}={weight!r}, expected a positive number.")
    return {layer: float(layers[layer]) for layer in known if layer in layers}


def _at_least_float32(features: Tensor) -> torch.dtype:
    return torch.promote_types(features.dtype, torch.float32)
