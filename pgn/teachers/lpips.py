"""LPIPS v0.1 (Zhang et al., arXiv 1801.03924) with AlexNet or VGG-16: the usual metric.

Shapes: pixels (N, 3, H, W) in [0, 1] -> (N,). Weights: files with conv{k}.* and lin{k}.weight,
or, where torchvision can be imported, the package lpips.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgn.errors import PgnError
from pgn.files import first_line
from pgn.teachers.weights import State, read_file

_SHIFT = (-0.030, -0.088, -0.188)  # of LPIPS's scaling layer, for pixels in [-1, 1]
_SCALE = (0.458, 0.448, 0.450)
_EPSILON = 1e-10

_ALEX = (  # in, out, kernel, stride, padding of each convolution
    (3, 64, 11, 4, 2),
    (64, 192, 5, 1, 2),
    (192, 384, 3, 1, 1),
    (384, 256, 3, 1, 1),
    (256, 256, 3, 1, 1),
)
_VGG16_WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
_LAYOUTS = {  # pool kernel, convolutions fed by pooled features, convolutions compared
    "lpips-alex": (3, {1, 2}, (0, 1, 2, 3, 4)),
    "lpips-vgg": (2, {2, 4, 7, 10}, (1, 3, 6, 9, 12)),
}


class LPIPS(nn.Module):
    """LPIPS v0.1: weighted squared differences of channel-normalised features."""

    shift: Tensor
    scale: Tensor

    def __init__(self, name: str) -> None:
        super().__init__()
        self.pool_kernel, self.pooled, self.compared = _LAYOUTS[name]
        self.convs = nn.ModuleList(_alex_convs() if name == "lpips-alex" else _vgg16_convs())
        channels = [_conv(self.convs[k]).out_channels for k in self.compared]
        self.lins = nn.ModuleList(nn.Conv2d(c, 1, 1, bias=False) for c in channels)
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1))

    def features(self, pixels: Tensor) -> list[Tensor]:
        """Compared features, each pixel's channel vector of length 1."""
        x = (pixels * 2 - 1 - self.shift) / self.scale
        out = []
        for k, conv in enumerate(self.convs):
            if k in self.pooled:
                x = F.max_pool2d(x, self.pool_kernel, stride=2)
            x = torch.relu(conv(x))
            if k in self.compared:
                length = x.square().sum(dim=1, keepdim=True).sqrt()
                out.append(x / (length + _EPSILON))
        return out

    def distance(self, generated: list[Tensor], target: list[Tensor]) -> Tensor:
        """Features of both images -> (N,)."""
        terms = [
            lin((a - b).square()).mean(dim=(1, 2, 3))
            for lin, a, b in zip(self.lins, generated, target, strict=True)
        ]
        return torch.stack(terms).sum(dim=0)


def load_lpips(name: str, weights: str | Path) -> LPIPS:
    """LPIPS `name` (lpips-alex | lpips-vgg) from a file, or from the package with "lpips".

    Raises:
        PgnError: no such file, or one that does not fit;
            "lpips" without the package, without torchvision or without a network.
    """
    net = LPIPS(name)
    state = _from_package(name) if weights == "lpips" else _from_file(weights)
    expected = {k for k in net.state_dict() if k not in ("shift", "scale")}
    if state.keys() != expected or any(
        state[k].shape != net.state_dict()[k].shape for k in expected
    ):
        raise PgnError(f"weights: {weights} does not fit {name}: expected conv{{k}} and lin{{k}}.")
    net.load_state_dict(state, strict=False)  # the keys were compared above; buffers stay
    return net


def _from_file(path: str | Path) -> State:
    state = read_file(path)
    return {k.replace("conv", "convs.").replace("lin", "lins."): v for k, v in state.items()}


def _from_package(name: str) -> State:
    try:
        package = importlib.import_module("lpips")
        reference = package.LPIPS(net=name.removeprefix("lpips-"), verbose=False).state_dict()
    except (ImportError, RuntimeError, OSError) as error:
        # RuntimeError: a torchvision that does not fit torch; OSError: no network for its trunk
        raise PgnError(
            f"{name}: the package lpips cannot be used here ({first_line(error)}). Give a file "
            f"of its weights (--weights FILE, or --peer {name}=FILE), or pip install lpips "
            f"torchvision."
        ) from None
    trunk = [k.rsplit(".", 1)[0] for k in reference if k.startswith("net.") and k.endswith("bias")]
    state = {}
    for index, prefix in enumerate(sorted(trunk, key=lambda key: int(key.split(".")[-1]))):
        for part in ("weight", "bias"):
            state[f"convs.{index}.{part}"] = reference[f"{prefix}.{part}"]
    for index in range(5):
        state[f"lins.{index}.weight"] = reference[f"lin{index}.model.1.weight"]
    return state


def _alex_convs() -> list[nn.Conv2d]:
    return [nn.Conv2d(i, o, kernel, stride, pad) for i, o, kernel, stride, pad in _ALEX]


def _vgg16_convs() -> list[nn.Conv2d]:
    pairs = zip((3, *_VGG16_WIDTHS), _VGG16_WIDTHS, strict=False)
    return [nn.Conv2d(i, o, 3, padding=1) for i, o in pairs]


def _conv(module: nn.Module) -> nn.Conv2d:
    assert isinstance(module, nn.Conv2d)
    return module
