"""The closed-form gradient of a proxy target, in float32 numpy.

2/(CHW) * (alpha*(u_hat - P) + lambda*(u_hat - u)) with u = (pixels - mean)/std, in pixels
(Nikulin et al. 2020, arXiv 2105.01957, Eq. 5). Shapes: all images (N, 3, H, W) in [0, 1].
"""

from __future__ import annotations

import numpy as np

from pgn_runtime.files import Pixels

STD = np.array((0.229, 0.224, 0.225), dtype=np.float32).reshape(1, 3, 1, 1)  # ImageNet, RGB


def mean_squared(generated: Pixels, target: Pixels) -> float:
    """MSE of normalised images (N, 3, H, W), mean over N: the progress that needs no network."""
    return float(np.mean(np.square((generated - target) / STD), dtype=np.float64))


def closed_form(
    generated: Pixels, target: Pixels, proxy: Pixels, alpha: float, mse_weight: float
) -> Pixels:
    """The gradient of each image, (N, 3, H, W) per pixel unit, never divided by N."""
    pull = np.float32(alpha) * (generated - proxy) + np.float32(mse_weight) * (generated - target)
    return (pull * np.float32(2.0 / generated[0].size) / STD**2).astype(np.float32)
