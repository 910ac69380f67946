"""Adam (Kingma & Ba, arXiv 1412.6980, algorithm 1), on one numpy array."""

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
