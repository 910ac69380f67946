"""`pgn-fit`: what it writes, and what it refuses; kills are in test_fit_processes.py."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import assert_close
from PIL import Image

pytest.importorskip("onnx", reason="the extra export is not installed")

from packs import SIZE, noise, write_pack
from test_photos import faces, photos_of

from pgn_runtime import Personalizer, fit_cli
from pgn_runtime.fit_cli import main
from pgn_runtime.landmarks import draw
from pgn_runtime.page import _curve
from pgn_runtime.photos import LANDMARKS, read_photos
from pgn_runtime.state import FILE

PHOTOS = 4
WRITTEN = {
    *(
        "after.png",
        "before.png",
        "index.html",
        "me.safetensors",
        "previews",
        "report.json",
        FILE,
        ".lock",
    )
}


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny.pgnpack, drawn from landmarks; image.pgnpack, drawn from pictures; pairs.pgnpack."""
    folder = tmp_path_factory.mktemp("packs")
    write_pack(folder / "tiny.pgnpack")
    write_pack(folder / "image.pgnpack", condition="image")
    write_pack(folder / "pairs.pgnpack", microbatch=2)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos_of(tmp_path_factory.mktemp("photos") / "anna", 60, 50, faces(PHOTOS))


@pytest.fixture
def fit(packs: Path, photos: Path, tmp_path: Path) -> Callable[..., int]:
    """pgn-fit tiny.pgnpack PHOTOS -o person, with other words behind."""

    def run(*words: object, pack: str = "tiny.pgnpack") -> int:
        start = [packs / pack, photos, "-o", tmp_path / "person", "--threads", 1]
        return main([str(word) for word in (*start, *words)])

    return run


def bits(person: Path) -> dict[str, bytes]:
    """All that a fit leaves, but for its times and for hidden halves of what a kill cut off."""
    timed = {"index.html", "report.json"}
    files = (path for path in sorted(person.rglob("[!.]*")) if path.is_file())
    return {str(p.relative_to(person)): p.read_bytes() for p in files if p.name not in timed}


def test_a_fit_writes_a_person(
    fit: Callable[..., int], photos: Path, packs: Path, tmp_path: Path, capsys: Any
) -> None:
    assert fit() == 0
    person = tmp_path / "person"
    assert {path.name for path in person.iterdir()} == WRITTEN
    assert [path.name for path in (person / "previews").iterdir()] == ["0010.png"]
    out, err = capsys.readouterr()
    assert out.startswith(f"{person / 'index.html'}: MSE ") and "median" in out
    assert re.fullmatch(
        r"(  step \d+/12  \d+\.\d\d s  MSE 0\.\d{5}  (\d+ MB|memory unknown)  \d+ s left\n){12}",
        re.sub(" +\n", "\n", err),
    ), err

    found = read_photos(photos, SIZE, "face")
    conditions = draw(found.landmarks, SIZE)
    me = Personalizer.load(packs / "tiny.pgnpack", threads=1)
    me.begin(conditions, found.images)
    strips = {"before.png": me.render(conditions)}
    mse = me.fit(conditions, found.images).mse
    strips["after.png"] = me.render(conditions)
    for name, drawn in strips.items():
        pixels = np.asarray(Image.open(person / name), np.float64).transpose(2, 0, 1) / 255
        above, below = np.split(pixels, 2, axis=1)
        assert_close(above, np.concatenate(list(found.images), 2), 1 / 250)
        assert_close(below, np.clip(np.concatenate(list(drawn), 2), 0, 1), 1 / 250)
    me.save(tmp_path / "me.safetensors")
    assert (tmp_path / "me.safetensors").read_bytes() == (person / "me.safetensors").read_bytes()

    report = json.loads((person / "report.json").read_text())
    assert report["mse"] == mse and len(report["seconds"]) == 12
    assert report["photos"] == list(found.names) and report["pack_sha256"] == me.pack.digest
    page = (person / "index.html").read_text()
    assert page.count("data:image/png;base64,") == 3 * PHOTOS and "<polyline" in page
    assert "http" not in page and "src=" in page and "$" not in page, "it is not self-contained"


def test_the_report_goes_to_stdout_as_json(fit: Callable[..., int], capsys: Any) -> None:
    assert fit("--json", "--steps", 2, "--learning-rate", 0.1, "--crop", "centre") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["learning_rate"], report["crop"], len(report["mse"])) == (0.1, "centre", 2)


def test_it_goes_on_where_it_was_and_begins_anew_when_asked(
    fit: Callable[..., int], tmp_path: Path, capsys: Any
) -> None:
    assert fit("--steps", 3) == 0 and fit("--steps", 5, "--json") == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(report["mse"]) == 5 and len(report["seconds"]) == 2
    before = bits(tmp_path / "person")
    assert fit("--steps", 5, "--learning-rate", 0.1) == 2
    assert bits(tmp_path / "person") == before, "what is refused has changed the folder"
    assert "with learning_rate 0.02, not 0.1" in capsys.readouterr().err
    assert fit("--steps", 5, "--learning-rate", 0.1, "--restart", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["seconds"]) == 5


@pytest.mark.parametrize("largest", [0.0103, 0.000123, 1.23e-05])
def test_the_curves_label_is_inside_the_picture(largest: float) -> None:
    curve = _curve([largest, 0.0])
    (end, label) = re.findall(r'<text x="(\d+)" y="14" text-anchor="end">(.*?)</text>', curve)[0]
    assert float(label) == largest
    assert int(end) >= 7 * len(label), "a digit of 12 px is up to 7 units wide"


def test_a_stop_is_told_in_one_line(
    fit: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fit_cli, "write_page", stop)
    assert fit() == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("stopped. Started again, a fit")


def test_a_terminal_sees_one_line_that_changes(
    fit: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert fit("--steps", 3) == 0
    err = capsys.readouterr().err
    assert err.count("\r") == 2 and err.count("\n") == 1


def test_a_pack_of_pictures(packs: Path, photos: Path, tmp_path: Path) -> None:
    conditions = tmp_path / "conditions"
    conditions.mkdir()
    for index, condition in enumerate(noise(PHOTOS)[0]):
        pixels = np.round(condition.transpose(1, 2, 0) * 255).astype(np.uint8)
        Image.fromarray(pixels).save(conditions / f"{index}.png")
    person, drawn = tmp_path / "person", tmp_path / "drawn"
    words = [str(packs / "image.pgnpack"), str(photos), "-o", str(person)]
    assert main([*words, "--conditions", str(conditions)]) == 0
    assert main(["render", str(person), str(conditions), "-o", str(drawn)]) == 0
    assert sorted(path.name for path in drawn.iterdir()) == [f"{k}.png" for k in range(PHOTOS)]
    after = np.asarray(Image.open(person / "after.png"))[SIZE:, :SIZE]
    assert np.array_equal(np.asarray(Image.open(drawn / "0.png")), after)


# render


def test_a_person_is_drawn_for_other_landmarks(
    fit: Callable[..., int], packs: Path, tmp_path: Path, capsys: Any
) -> None:
    assert fit() == 0
    (tmp_path / "poses").mkdir()
    points = faces(3, seed=4)
    np.savez(tmp_path / "poses" / LANDMARKS, landmarks=points)
    words = ["render", *(str(tmp_path / name) for name in ("person", "poses")), "-o"]
    assert main([*words, str(tmp_path / "drawn")]) == 0
    assert capsys.readouterr().out.endswith("drawn: 3 pictures\n")
    names = sorted(path.name for path in (tmp_path / "drawn").iterdir())
    assert names == ["0000.png", "0001.png", "0002.png"]
    moved = Path(packs).rename(tmp_path / "moved")
    try:
        assert main([*words, str(tmp_path / "again")]) == 2
        assert "is not there any more. Say where it is: --pack" in capsys.readouterr().err
        pack = str(moved / "tiny.pgnpack")
        assert main([*words, str(tmp_path / "again"), "--pack", pack]) == 0
        for name in names:
            first, second = (tmp_path / place / name for place in ("drawn", "again"))
            assert first.read_bytes() == second.read_bytes()
        assert main([*words, str(tmp_path / "x"), "--pack", str(moved / "pairs.pgnpack")]) == 2
        assert "were not fitted with" in capsys.readouterr().err
    finally:
        moved.rename(packs)


@pytest.mark.parametrize(
    "content", ["", "{}", "[", "[]", '{"pack": 3}', "null", '{"pack": "x", "crop": "ear"}']
)
def test_a_folder_that_is_no_persons_is_refused(content: str, tmp_path: Path, capsys: Any) -> None:
    words = ["render", str(tmp_path), str(tmp_path / "poses"), "-o", str(tmp_path / "drawn")]
    assert main(words) == 2
    assert "expected the folder of a finished fit: pgn-fit PACK" in capsys.readouterr().err
    (tmp_path / "report.json").write_text(content)
    assert main(words) == 2
    assert "report.json is damaged" in capsys.readouterr().err


# What is refused


@pytest.mark.parametrize(
    ("words", "pack", "message"),
    [
        (["--steps", 0], "tiny.pgnpack", "steps: got 0"),
        (["--learning-rate", -1], "tiny.pgnpack", "learning-rate: got -1"),
        (["--learning-rate", 0], "tiny.pgnpack", "learning-rate: got 0"),
        (["--save-every", 0], "tiny.pgnpack", "save-every: got 0"),
        (["--threads", 0], "tiny.pgnpack", "threads: got 0"),
        (["--backend", "litert"], "tiny.pgnpack", "got litert, but .* is for onnxruntime"),
        (["--conditions", "x"], "tiny.pgnpack", "Leave --conditions out"),
        ([], "image.pgnpack", "Name their folder: --conditions"),
        ([], "gone.pgnpack", "expected a folder NAME.pgnpack"),
    ],
)
def test_wrong_words_are_refused(
    words: list[object], pack: str, message: str, fit: Callable[..., int], capsys: Any
) -> None:
    assert fit(*words, pack=pack) == 2
    assert re.search(f"^error: .*{message}", capsys.readouterr().err, re.MULTILINE)


def test_results_do_not_go_among_what_is_read(
    packs: Path, photos: Path, tmp_path: Path, capsys: Any
) -> None:
    assert main([str(packs / "tiny.pgnpack"), str(photos), "-o", f"{photos}/."]) == 2
    assert "is the folder of the photos" in capsys.readouterr().err
    assert main(["render", str(tmp_path), str(photos), "-o", str(photos)]) == 2
    assert "is the folder of the conditions" in capsys.readouterr().err


def test_too_few_photos_for_the_packs_micro_batch_are_told(
    packs: Path, tmp_path: Path, capsys: Any
) -> None:
    points = faces(2)
    points[1] = np.nan
    folder = photos_of(tmp_path / "anna", 50, 50, points)
    words = [str(packs / "pairs.pgnpack"), str(folder), "-o", str(tmp_path / "person")]
    assert main(words) == 2
    err = capsys.readouterr().err
    assert "skipped: 001.PNG (no face" in err and "a multiple of 2, the pack's micro-batch" in err


def test_a_missing_runtime_is_exit_code_5(
    fit: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert fit() == 5
    assert 'pip install "pgn-edge[onnxruntime]"' in capsys.readouterr().err
