"""Perceptual gradient networks: the gradient of a perceptual loss in one forward pass.

net = pgn.load("pgn-lite")
grad = net.gradient(generated, target, mse_weight=20.0)  # (N, 3, H, W)
generated.backward(grad)
"""

from pgn.checkpoint import load, save
from pgn.errors import ConversionError, GateError, MissingExtraError, PgnError
from pgn.model import PGN, PGNConfig
from pgn.teachers import PerceptualLoss

__version__ = "0.1.0"
__all__ = [
    "PGN",
    "ConversionError",
    "GateError",
    "MissingExtraError",
    "PGNConfig",
    "PerceptualLoss",
    "PgnError",
    "load",
    "save",
]
