"""A talking head of a person from a few photos, fitted on the device with a PGN.

Reference: Zakharov et al., arXiv 1905.08233.
"""

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

__all__ = [
    "CONFIGS",
    "Discriminator",
    "Embedder",
    "Generator",
    "GeneratorConfig",
    "PersonalGenerator",
    "personalise",
    "trainable",
]
