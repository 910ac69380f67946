"""Adam (Kingma & Ba, arXiv 1412.6980, algorithm 1): on a numpy array, and as a graph's inputs."""

from __future__ import annotations

import numpy as np

from pgn_runtime.files import Pixels

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class Adam:
    """Keeps both moments of one parameter array; `step` changes the array in place."""

    def __init__(self, shape: tuple[int, ...], learning_rate: float) -> None:
        self.learning_rate = learning_rate
        self.mean = np.zeros(shape, dtype=np.float32)
        self.square = np.zeros(shape, dtype=np.float32)
        self.steps = 0

    def step(self, parameter: Pixels, gradient: Pixels) -> None:
        """One update; `gradient` has the parameter's shape."""
        self.steps += 1
        self.mean += np.float32(1 - BETA1) * (gradient - self.mean)
        self.square += np.float32(1 - BETA2) * (np.square(gradient) - self.square)
        mean = self.mean / np.float32(1 - BETA1**self.steps)
        root = np.sqrt(self.square / np.float32(1 - BETA2**self.steps))
        parameter -= np.float32(self.learning_rate) * mean / (root + np.float32(EPSILON))


def adam_numbers(
    learning_rate: float, step: int, photos: int, size: tuple[int, int]
) -> dict[str, float]:
    """What a pack's `update` takes, each as (1,), to be Adam on the mean of the photos' losses.

    Its sums lack the factor 2/(CHW) of the closed form and are not divided by the number of photos,
    so that nothing underflows; an epsilon that is as much larger undoes both, exactly.

    Args:
        step: from 1.
        photos: whose gradients the sums hold.
        size: height and width of an image, pixels.
    """
    scale = photos * 3 * size[0] * size[1] / 2  # sums / scale = the gradient of the mean
    return {
        "rate": learning_rate / (1 - BETA1**step),
        "square_correction": 1 / (1 - BETA2**step),
        "epsilon": EPSILON * scale,
    }
