"""Which layers are large: the small ones keep float32 on every target.

A lite network compares the features of two images that are nearly equal, and masks them where
they are positive: a small error of the first layers, which hardly weigh, flips masks in all that
follow.
"""

from __future__ import annotations

from torch import nn

FLOAT_SHARE = 1 / 6  # of all weights are no large ones, the smallest tensors first


def float_size(module: nn.Module) -> int:
    """Elements of the largest convolution weight that is not a large one.

    All graphs of one network get the same answer, so that the features which one file computes of
    the target fit those which another computes of the generated image.
    """
    sizes = sorted(weight.numel() for weight in module.parameters() if weight.ndim == 4)
    budget = FLOAT_SHARE * sum(sizes)
    return max((size for size in sizes if sum(s for s in sizes if s <= size) <= budget), default=0)
