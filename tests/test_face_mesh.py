"""Landmarks of new photos, with a stand-in for MediaPipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assert_close
from PIL import Image
from spots import cut, write_frames

from pgn import PgnError
from pgn.avatar import face_mesh
from pgn.avatar.landmarks import MESH_POINTS
from pgn.avatar.readers import read_people

SIZE = 32


@pytest.fixture
def mediapipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A stand-in for MediaPipe that finds the spot, if it is bright; returns its model's path."""
    model = tmp_path / "face_landmarker.task"
    model.write_bytes(b"model")

    def create(path: str) -> SimpleNamespace:
        if Path(path).read_bytes() != b"model":
            raise ValueError("Unable to open zip archive.\nmore")
        return SimpleNamespace(detect=detect)

    def detect(image: SimpleNamespace) -> SimpleNamespace:
        assert image.image_format == "SRGB" and image.data.flags.c_contiguous
        assert image.data.dtype == np.uint8 and image.data.shape[2] == 3
        if image.data.max() < 200:
            return SimpleNamespace(face_landmarks=[])
        height, width = image.data.shape[:2]
        y, x = np.argwhere(image.data[..., 0] == image.data[..., 0].max()).mean(0) + 0.5
        point = SimpleNamespace(x=x / width, y=y / height, z=0.0)
        return SimpleNamespace(face_landmarks=[[point] * MESH_POINTS])

    module: Any = ModuleType("mediapipe")
    module.Image, module.ImageFormat = SimpleNamespace, SimpleNamespace(SRGB="SRGB")
    landmarker = SimpleNamespace(create_from_model_path=create)
    module.tasks = SimpleNamespace(vision=SimpleNamespace(FaceLandmarker=landmarker))
    monkeypatch.setitem(sys.modules, "mediapipe", module)
    face_mesh._landmarker.cache_clear()
    yield model
    face_mesh._landmarker.cache_clear()


def test_faces_are_looked_for_where_landmarks_are_missing(
    mediapipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_frames(tmp_path / "people" / "anna", 5)
    (known,) = read_people(tmp_path / "people", SIZE)
    (folder / "landmarks.npz").unlink()
    Image.new("RGB", (64, 48)).save(folder / "001.png")
    cut(folder / "003.png")
    by_argument = read_people(tmp_path / "people", SIZE, model=mediapipe)
    monkeypatch.setenv(face_mesh.MODEL_VARIABLE, str(mediapipe))
    for people in (by_argument, read_people(tmp_path / "people", SIZE)):
        (found,) = people
        assert torch.equal(found.images, known.images[[0, 2, 4]])
        assert_close(found.landmarks, known.landmarks[[0, 2, 4]], 0.02)
        assert people.skipped[0] == f"{folder}/001.png (no face was found)"
        assert people.skipped[1].startswith(f"{folder}/003.png (")


def test_photos_without_a_face_are_refused(mediapipe: Path, tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "anna", 2)
    (folder / "landmarks.npz").unlink()
    for index in range(2):
        Image.new("RGB", (64, 48)).save(folder / f"00{index}.png")
    with pytest.raises(PgnError, match=r"no face in any of the 2 frames of .*anna"):
        read_people(folder, SIZE, model=mediapipe)[0]


def test_what_is_missing_to_find_faces_is_said(
    mediapipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(face_mesh.MODEL_VARIABLE, raising=False)
    with pytest.raises(PgnError, match="no model file was named.*face_landmarker.task and name"):
        face_mesh.detector()
    with pytest.raises(PgnError, match=r"none.task cannot be used \(.*No such file"):
        face_mesh.detector(tmp_path / "none.task")
    mediapipe.write_bytes(b"html")
    with pytest.raises(PgnError, match=r"task cannot be used \(Unable to open zip archive.\)"):
        face_mesh.detector(mediapipe)
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(PgnError, match="MediaPipe is not installed.*pip install mediapipe"):
        face_mesh.detector(mediapipe)
