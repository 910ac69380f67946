"""Landmarks of faces in new photos, found by MediaPipe's Face Landmarker where it is installed.

Reference: Kartynnik et al., "Real-time facial surface geometry from monocular video on mobile
GPUs", arXiv 1907.06724; with the irises of Attention Mesh (arXiv 2006.10962) it has 478 points.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pgn.errors import PgnError
from pgn.files import first_line

MODEL_VARIABLE = "PGN_FACE_LANDMARKER"  # of the environment: the model's path
MODEL_URL = (
    "https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/"
    "latest/face_landmarker.task"
)

Detector = Callable[[Image.Image], Tensor]


def detector(model: str | Path | None = None) -> Detector:
    """What finds a face in an RGB picture: (478, 2) float32, x then y, fractions of width, height.

    It raises PgnError where there is no face; where there are several, one is taken.

    Args:
        model: MediaPipe's face_landmarker.task; PGN_FACE_LANDMARKER names it where this is None.

    Raises:
        PgnError: MediaPipe is not installed, or no model that it can read was given.
    """
    path = str(model or os.environ.get(MODEL_VARIABLE, ""))
    return partial(_detect, *_landmarker(path))


def _detect(mediapipe: Any, landmarker: Any, picture: Image.Image) -> Tensor:
    pixels = np.array(picture)  # a copy that is contiguous, as MediaPipe wants it
    image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels)
    faces = landmarker.detect(image).face_landmarks
    if not faces:
        raise PgnError("no face was found")
    return torch.tensor([(point.x, point.y) for point in faces[0]])


@lru_cache(maxsize=1)
def _landmarker(path: str) -> tuple[Any, Any]:
    """MediaPipe and its Face Landmarker, which takes a second to start."""
    try:
        mediapipe = importlib.import_module("mediapipe")
    except ImportError:
        raise _unusable("MediaPipe is not installed") from None
    if not path:
        raise _unusable("no model file was named")
    try:
        return mediapipe, mediapipe.tasks.vision.FaceLandmarker.create_from_model_path(path)
    except Exception as error:  # its native library raises anything
        raise _unusable(f"{path} cannot be used ({first_line(error)})") from None


def _unusable(reason: str) -> PgnError:
    return PgnError(
        f"faces cannot be looked for: {reason}. Give the landmarks in a file; or install "
        f"MediaPipe (pip install mediapipe), download {MODEL_URL} and name that file in "
        f"{MODEL_VARIABLE}."
    )
