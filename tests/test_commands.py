"""The commands as a user types them: results, bad input, exit codes, no traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

BIN = Path(sys.executable).parent


def run(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / str(words[0])), *map(str, words[1:])]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "broken.png").write_bytes(b"no picture")
    (tmp_path / "net.safetensors").write_bytes(b"no tensors")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("pgn-export", "--target", "tflight"), "Did you mean 'tflite'"),
        (("pgn-export", "--target", "onnx,corml"), "Did you mean 'coreml'"),
        (("pgn-export", "--target", "onnx", "--size", "31"), "at least 32"),
        (("pgn-export", "--target", "onnx", "--size", "big"), "256x192"),
        (("pgn-export", "--target", "onnx", "--size", "99999"), "GiB"),
        (
            ("pgn-export", "--target", "onnx", "--checkpoint", "pgn-light"),
            "Did you mean 'pgn-lite'",
        ),
        (("pgn-export", "--target", "onnx", "--checkpoint", "gone.pth"), "no file gone.pth"),
        (("pgn-export", "--target", "onnx", "--checkpoint", "net.safetensors"), "no readable"),
        (("pgn-export", "--target", "onnx", "-o", "file/exports"), "cannot write to"),
        (("pgn-eval", "alignment", "--images", "gone"), "no folder gone"),
        (("pgn-eval", "alignment", "--images", "empty"), "no .*jpg"),
        (("pgn-eval", "alignment", "--images", "bad"), "broken.png cannot be decoded"),
        (("pgn-eval", "alignment", "--images", "bad", "--size", "8"), "at least 32"),
        (("pgn-train", "--data", "empty", "-o", "run"), "no .*jpg"),
        (("pgn-train", "--data", "bad", "-o", "run", "--backbone", "resnet5"), "Did you mean"),
        (("pgn-train", "--data", "bad", "-o", "run", "--teacher", "vgg91"), "Did you mean"),
        (("pgn-train", "--data", "bad", "-o", "file/run"), "cannot write|could not be read"),
    ],
)
def test_bad_input_leaves_with_2_and_a_message(
    words: tuple[str, ...], message: str, folder: Path
) -> None:
    import re

    before = sorted(p.name for p in folder.rglob("*"))
    done = run(*words, cwd=folder)
    flat = " ".join(done.stderr.split())
    assert done.returncode == 2, flat
    assert re.search(message, flat), flat
    assert sorted(p.name for p in folder.rglob("*")) == before, "something was left behind"


@pytest.mark.slow
def test_export_prints_json_and_writes_the_target(tmp_path: Path) -> None:
    done = run("pgn-export", "--target", "tflite", "--size", "64", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)
    assert result["path"] == "exports/pgn-lite-64x64-fp32.tflite"
    assert (tmp_path / result["path"]).stat().st_size == result["bytes"]
    assert min(row["cosine"] for row in result["parity"]) >= 0.999


@pytest.mark.slow
def test_training_and_measuring_from_the_command_line(tmp_path: Path) -> None:
    from pgn.degrade import to_pil
    from pgn_export.parity import photos

    (tmp_path / "photos").mkdir()
    for index, photo in enumerate(photos((128, 128))):
        to_pil(photo[0]).save(tmp_path / "photos" / f"{index}.jpg")
    flags = ("--data", "photos", "-o", "run", "--images", 12, "--crop", 32)
    done = run("pgn-train", *flags, "--precision", "fp32", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "run/pgn-lite.safetensors"
    assert "cosine" in done.stderr
    measure = ("--checkpoint", "run/pgn-lite.safetensors", "--images", "photos", "--size", 64)
    done = run(
        "pgn-eval", "alignment", *measure, "--record", "card.safetensors", "--json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert [row["degradation"] for row in measured["rows"]] == [
        "blur 1.5", "blur 4", "noise 0.1", "JPEG 10",
    ]  # fmt: skip
    import pgn

    assert pgn.load(tmp_path / "card.safetensors").info["quality"] == measured


@pytest.mark.slow
def test_pictures_are_fitted_from_the_command_line(tmp_path: Path) -> None:
    from pgn.degrade import blur, to_pil
    from pgn_export.parity import photos

    photo = photos((64, 64))[0][0]
    to_pil(photo).save(tmp_path / "target.png")
    to_pil(blur(photo, 2.0)).save(tmp_path / "start.png")
    assert run("pgn-export", "--target", "onnx", "--size", "64", cwd=tmp_path).returncode == 0
    model = "exports/pgn-lite-dynamic-fp32.onnx"
    done = run(
        "python", "-m", "pgn_runtime", model, "start.png", "target.png", "-o", "out",
        "--steps", 20, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["loss_last"] < json.loads(done.stdout)["loss_first"]
    with Image.open(tmp_path / "out" / "result.png") as picture:
        assert picture.size == (64, 64)
