"""Backbones by name, made by `build`: the paper's, and ours, `lite` and `nano`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pgn.backbones.lite import NANO_WIDTHS, Lite
from pgn.backbones.padding import Backbone, TargetBranch
from pgn.backbones.resnet import ResNet
from pgn.backbones.unet import UNet
from pgn.errors import PgnError, unknown_name
from pgn.files import first_line

_BUILDERS: dict[str, Callable[..., Backbone]] = {
    "resnet4": lambda **options: ResNet(4, **options),
    "resnet6": lambda **options: ResNet(6, **options),
    "resnet8": lambda **options: ResNet(8, **options),
    "unet": UNet,
    "lite": Lite,
    "nano": lambda widths=NANO_WIDTHS: Lite(widths),
}
NAMES = tuple(_BUILDERS)
THIN = ("lite", "nano")  # shaped like a backward pass, and begun from the teacher


def build(name: str, **options: Any) -> Backbone:
    """Make a backbone with random weights.

    Args:
        name: resnet4 | resnet6 | resnet8 | unet | lite | nano.
        options: other channel counts than the published ones (see the class of each).

    Raises:
        PgnError: no such backbone, or an option that it does not have.
    """
    if name not in _BUILDERS:
        raise unknown_name("backbone", name, NAMES)
    try:
        return _BUILDERS[name](**options)
    except PgnError:
        raise
    except Exception as error:  # channel counts that are no positive integers, or too few
        raise PgnError(
            f"backbone {name}: cannot be built with {options} ({first_line(error)})."
        ) from None


__all__ = ["NAMES", "THIN", "Backbone", "Lite", "ResNet", "TargetBranch", "UNet", "build"]
