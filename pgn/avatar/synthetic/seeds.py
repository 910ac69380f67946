"""Random numbers: an independent stream for every purpose, out of the one seed a user gives."""

from __future__ import annotations

import numpy as np

from pgn.errors import PgnError


def random_stream(seed: int, purpose: int) -> np.random.Generator:
    """The generator of this seed and purpose; the same in every run.

    Raises:
        PgnError: a negative seed.
    """
    if seed < 0:
        raise PgnError(f"seed: got {seed}, expected 0 or more.")
    return np.random.default_rng((seed, purpose))
