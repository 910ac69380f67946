"""`pgn-fit` on what people give it: odd names, odd landmarks, a full disk, folders in the way."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnx", reason="the extra export is not installed")

from packs import write_pack
from test_fit_command import bits
from test_photos import faces, photos_of

from pgn_runtime.fit_cli import main
from pgn_runtime.photos import LANDMARKS, read_photos
from pgn_runtime.state import FILE

PHOTOS = 4


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return photos_of(tmp_path / "anna", 60, 50, faces(PHOTOS))


def fit(pack: Path, photos: Path, person: Path, *words: object) -> int:
    start = [pack, photos, "-o", person, "--threads", 1, "--steps", 2]
    return main([str(word) for word in (*start, *words)])


# Names and places


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_of_no_encoding(pack: Path, photos: Path, tmp_path: Path, capsys: Any) -> None:
    person = tmp_path / os.fsdecode(b"Zo\xeb")
    assert fit(pack, photos, person) == 0
    assert r"Zo\udceb/index.html: MSE" in capsys.readouterr().out
    assert r"Zo\udceb" in (person / "index.html").read_text()
    words = ["render", str(person), str(photos), "-o", str(person / "drawn")]
    assert main(words) == 0 and len(list((person / "drawn").iterdir())) == PHOTOS


def test_a_pack_of_an_odd_name(photos: Path, tmp_path: Path) -> None:
    pack = write_pack(tmp_path / "odd.pgnpack", name="\ud800<b>")
    assert fit(pack, photos, tmp_path / "person") == 0
    assert r"<h1>\ud800&lt;b&gt;, fitted to" in (tmp_path / "person" / "index.html").read_text()


def test_a_folder_may_be_called_as_a_file(pack: Path, photos: Path, tmp_path: Path) -> None:
    person = tmp_path / "me.safetensors"
    assert fit(pack, photos, person) == 0 and (person / FILE).is_file()


def test_a_folder_in_place_of_the_state_is_told(
    pack: Path, photos: Path, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "person" / FILE).mkdir(parents=True)
    assert fit(pack, photos, tmp_path / "person") == 2
    assert "is no ordinary file. Choose another -o" in capsys.readouterr().err
    assert fit(pack, photos, tmp_path / "person", "--restart") == 2
    assert f"cannot write {tmp_path / 'person' / FILE}" in capsys.readouterr().err


def test_links_to_themselves_are_told(
    pack: Path, photos: Path, tmp_path: Path, capsys: Any
) -> None:
    ring = tmp_path / "ring"
    ring.symlink_to("ring")
    assert fit(pack, ring, tmp_path / "person") == fit(pack, photos, ring) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert f"photos: {ring} cannot be read" in first and f"cannot write to {ring}" in second


def test_a_file_in_place_of_a_folder_is_told(
    pack: Path, photos: Path, tmp_path: Path, capsys: Any
) -> None:
    person, file = tmp_path / "person", photos / LANDMARKS
    assert fit(pack, file, person) == 2 and not person.exists()
    assert fit(pack, photos, person) == 0
    capsys.readouterr()
    assert main(["render", *map(str, (person, file, "-o", tmp_path / "drawn"))]) == 2
    assert f"conditions: got the file {file}, expected a folder" in capsys.readouterr().err


def test_results_do_not_go_among_the_conditions(photos: Path, tmp_path: Path, capsys: Any) -> None:
    pack = write_pack(tmp_path / "image.pgnpack", condition="image")
    conditions = photos_of(tmp_path / "drawings", 40, 40, faces(PHOTOS))
    link = tmp_path / "link"
    link.symlink_to(conditions)
    assert fit(pack, photos, link, "--conditions", conditions) == 2
    assert f"output: {link} is the folder of the conditions" in capsys.readouterr().err
    assert len(list(conditions.iterdir())) == PHOTOS + 1


def test_pictures_of_one_name_are_drawn_apart(photos: Path, tmp_path: Path) -> None:
    pack = write_pack(tmp_path / "image.pgnpack", condition="image")
    assert fit(pack, photos, tmp_path / "person", "--conditions", photos) == 0
    (tmp_path / "two").mkdir()
    for suffix in ("png", "bmp"):
        Image.new("RGB", (40, 40)).save(tmp_path / "two" / f"a.{suffix}")
    drawn = tmp_path / "drawn"
    assert main(["render", *map(str, (tmp_path / "person", tmp_path / "two", "-o", drawn))]) == 0
    assert {path.name for path in drawn.iterdir()} == {"a.png.png", "a.bmp.png"}


# What does not end well


def test_what_is_refused_keeps_the_state(
    pack: Path, photos: Path, tmp_path: Path, capsys: Any
) -> None:
    assert fit(pack, photos, tmp_path / "person") == 0
    before = bits(tmp_path / "person")
    for words in (["--steps", 0], ["--learning-rate", "nan"], ["--threads", 0]):
        assert fit(pack, photos, tmp_path / "person", "--restart", *words) == 2
    assert bits(tmp_path / "person") == before


def test_a_fit_by_two_runtimes_says_so(
    pack: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("onnxruntime.__version__", "1.0")
    assert fit(pack, photos, tmp_path / "person") == 0
    monkeypatch.setattr("onnxruntime.__version__", "2.0")
    capsys.readouterr()
    assert fit(pack, photos, tmp_path / "person", "--steps", 3, "--json") == 0
    out, err = capsys.readouterr()
    line = "  computed by onnxruntime 1.0, then onnxruntime 2.0: bits differ from those of one"
    assert err.splitlines()[-1].startswith(line)
    assert json.loads(out)["runtimes"] == ["onnxruntime 1.0", "onnxruntime 2.0"]


def test_a_full_disk_is_told(pack: Path, photos: Path, tmp_path: Path, capsys: Any) -> None:
    """No file may have more than 100 bytes."""
    resource = pytest.importorskip("resource", reason="limits of Unix")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        assert fit(pack, photos, tmp_path / "person") == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = f"error: output: cannot write {tmp_path / 'person' / FILE} ("
    assert said in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "person").iterdir()] == [".lock"]


# Landmarks


def test_landmarks_that_do_not_fit_leave_out_their_photo(tmp_path: Path) -> None:
    """Faces of no size, and one that is wide in a picture of 300x3 pixels."""
    points = faces(3)
    points[0] = 0.5
    points[1] = 0.5 + 1e-9 * faces(1)[0]
    found = read_photos(photos_of(tmp_path / "points", 60, 50, points), 32, "face")
    assert found.names == ("002.webp",)
    assert all("no face: all of its landmarks are in one place" in each for each in found.skipped)

    folder = photos_of(tmp_path / "flat", 300, 3, faces(2))
    Image.new("RGB", (60, 50)).save(folder / "000.jpg")
    found = read_photos(folder, 32, "face")
    assert found.names == ("000.jpg",)
    assert found.skipped == ("001.PNG (landmarks reach far out of the square that is cut)",)


@pytest.mark.parametrize("points", [np.full((3, 478, 2), 0.5), faces(3, share=1e-6)])
def test_poses_of_no_size_are_refused(
    points: np.ndarray[Any, Any], pack: Path, photos: Path, tmp_path: Path, capsys: Any
) -> None:
    assert fit(pack, photos, tmp_path / "person") == 0
    (tmp_path / "poses").mkdir()
    np.savez(tmp_path / "poses" / LANDMARKS, landmarks=points)
    words = ["render", str(tmp_path / "person"), str(tmp_path / "poses"), "-o", str(tmp_path / "x")]
    assert main(words) == 2
    assert "no face: all of its landmarks are in one place. Leave such" in capsys.readouterr().err
