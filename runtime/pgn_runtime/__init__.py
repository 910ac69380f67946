"""The light runtime: exported PGNs on ONNX Runtime or LiteRT, with numpy and without torch.

artifact = Artifact.load("exports/pgn-lite-256x256-fp32.tflite")
report = fit_pixels(artifact, generated, target)  # (N, 3, H, W) pixels in [0, 1]

me = Personalizer.load("avatar.pgnpack")
report = me.fit(conditions, photos)  # (K, 3, H, W) each
image = me.render(condition)  # (N, 3, H, W)
"""

from pgn_runtime.artifact import Artifact
from pgn_runtime.errors import MissingBackendError, RuntimeInputError
from pgn_runtime.fit import FitOptions, FitReport, fit_pixels
from pgn_runtime.personalizer import Personalizer, PersonalReport

__all__ = [
    "Artifact",
    "FitOptions",
    "FitReport",
    "MissingBackendError",
    "PersonalReport",
    "Personalizer",
    "RuntimeInputError",
    "fit_pixels",
]
