"""A talking head of a person from a few photos, fitted on the device with a PGN.

Reference: Zakharov et al., arXiv 1905.08233.
"""

from pgn.avatar.checkpoint import load, save
from pgn.avatar.discriminator import Discriminator
from pgn.avatar.embedder import Embedder
from pgn.avatar.generator import (
    CONFIGS,
    Generator,
    GeneratorConfig,
    PersonalGenerator,
    personalise,
    trainable,
)
from pgn.avatar.model import Avatar

__all__ = [
    "CONFIGS",
    "Avatar",
    "Discriminator",
    "Embedder",
    "Generator",
    "GeneratorConfig",
    "PersonalGenerator",
    "load",
    "personalise",
    "save",
    "trainable",
]
