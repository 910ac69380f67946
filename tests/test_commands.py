"""The commands as a user types them: results, bad input, exit codes, no traceback."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
from conftest import Done, Type, photo_folder
from PIL import Image

import pgn
from pgn.command import run as run_app
from pgn.distill import loop

BIN = Path(sys.executable).parent


def run(*words: object, cwd: Path) -> Done:
    """In a process of its own."""
    command = [str(BIN / str(words[0])), *map(str, words[1:])]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "broken.png").write_bytes(b"no picture")
    (tmp_path / "good").mkdir()
    Image.new("RGB", (64, 64), "green").save(tmp_path / "good" / "plain.png")
    (tmp_path / "net.safetensors").write_bytes(b"no tensors")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("pgn-export", "--target", "onnx,corml"), "Did you mean 'coreml'"),
        (("pgn-export", "--target", "onnx", "--size", "31"), "at least 32"),
        (("pgn-export", "--target", "onnx", "--size", "big"), "256x192"),
        (("pgn-export", "--target", "onnx", "--size", "99999"), "GiB"),
        (
            ("pgn-export", "--target", "onnx", "--checkpoint", "pgn-light"),
            "Did you mean 'pgn-lite'",
        ),
        (("pgn-export", "--target", "onnx", "--checkpoint", "gone.pth"), "no file gone.pth"),
        (("pgn-export", "--target", "onnx", "--checkpoint", "net.safetensors"), "may be cut short"),
        (
            ("pgn-export", "--target", "onnx", "--checkpoint", "bad/broken.png"),
            "Expected a .safetensors or .pth file",
        ),
        (("pgn-export", "--target", "onnx", "-o", "file/exports"), "cannot write to"),
        (("pgn-eval", "alignment", "--images", "empty"), "no .*jpg"),
        (("pgn-eval", "alignment", "--images", "bad"), "broken.png cannot be decoded"),
        (
            ("pgn-eval", "alignment", "--images", "bad", "--size", "8"),
            "greater than or equal to 32",
        ),
        (("pgn-eval", "alignment", "--images", "good"), "no photo has any structure"),
        (("pgn-train", "--data", "bad", "-o", "run", "--backbone", "resnet5"), "Did you mean"),
        (("pgn-train", "--data", "bad", "-o", "run", "--teacher", "vgg91"), "Did you mean"),
        (("pgn-train", "--data", "good", "-o", "file/run"), "cannot write to file/run"),
        (("pgn-train", "--data", "good", "-o", "x", "--set", "learning_rate=a"), "d a number"),
        (("pgn-train", "avatar", "--data", "gone", "-o", "x"), "people: got gone"),
        (
            ("pgn-train", "avatar", "--data", "synthetic", "--holdout", "ann", "--dry-run"),
            "holdout: got 'ann', expected one of synthetic-0",
        ),
        (("pgn-train", "--data", "good", "-o", "x", "--set", "batch=4"), "3 . a multiple of 3"),
        (("pgn-train", "--data", "good", "-o", "x", "--set", "bacth=4"), "Did you mean 'batch'"),
        (("pgn-train", "--data", "good", "-o", "x", "--recipe", "lite-gpv"), "Did you mean"),
        (("pgn-train", "--data", "good", "-o", "x", "--recipe", "gone.toml"), "no file gone.toml"),
        (("pgn-train", "--data", "good", "-o", "x", "--teacher", "os:path"), "os:path"),
        (("pgn-train", "--data", "good-{0..3}.tar", "-o", "x"), "good-0.tar"),
        (("pgn-train", "--data", "good"), "expected --data PHOTOS and -o RUN"),
        (("pgn-train", "--data", "good", "-o", "x", "--resume"), "Leave --resume out"),
        (("pgn-eval", "dip", "--images", "good", "-o", "x", "--count", "9"), "holds 1 photos"),
        (("pgn-eval", "dip", "--images", "gone", "-o", "x"), "no folder gone"),
        (
            ("pgn-eval", "dip", "--images", "good", "--count", "1", "--size", "64", "-o", "file/x"),
            "cannot write",
        ),
        (("pgn-eval", "alignment", "--images", "good", "--record", "file/card"), "cannot"),
    ],
)
def test_bad_input_leaves_with_2_and_a_message(
    words: tuple[str, ...],
    message: str,
    folder: Path,
    typed: Type,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    before = contents(folder)
    refused(typed(*words), message)
    assert contents(folder) == before, "something was left behind"


@pytest.mark.parametrize(  # in processes of their own, as all of the above are for a user
    ("words", "message"),
    [
        (("pgn-export", "--target", "tflight"), "Did you mean 'tflite'"),
        (("pgn-eval", "alignment", "--images", "gone"), "no folder gone"),
        (("pgn-train", "--data", "empty", "-o", "run"), "no .*jpg"),
        (("python", "-m", "pgn_bench.demo", "-o", "file"), "cannot write to file"),
        (("python", "-m", "pgn_runtime", "gone.onnx", "a.png", "b.png", "-o", "file"), "cannot"),
    ],
)
def test_a_process_leaves_with_2_and_no_traceback(
    words: tuple[str, ...], message: str, folder: Path
) -> None:
    before = contents(folder)
    refused(run(*words, cwd=folder), message)
    assert contents(folder) == before, "something was left behind"


def refused(done: Done, message: str) -> None:
    flat = " ".join(done.stderr.split())
    assert done.returncode == 2, flat
    assert re.search(message, flat), flat


def contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_photos_that_are_missing_are_told_before_the_settings(typed: Type) -> None:
    done = typed("pgn-train", "--data", "/none", "-o", "/none")
    assert done.stderr == "error: images: no folder /none. Check the path.\n"
    done = typed("pgn-train", "--data", "/none", "--dry-run")
    assert (done.returncode, done.stdout) == (2, "")


def test_images_that_are_no_whole_number_of_steps_are_told(typed: Type) -> None:
    done = typed("pgn-train", "--images", "200", "--dry-run")
    assert "images: 192 of 200 will be seen: 16 steps of 12" in done.stderr
    assert "of 192" not in typed("pgn-train", "--images", "192", "--dry-run").stderr


def test_an_interrupt_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()

    @app.command()
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as words, pytest.raises(SystemExit) as ended:
        words.setattr(sys, "argv", ["stop"])
        run_app(app)
    assert (ended.value.code, capfd.readouterr().err) == (130, "stopped\n")


def test_a_path_full_of_markup_is_printed_as_it_is(typed: Type) -> None:
    done = typed("pgn-eval", "alignment", "--images", r"no\[/]x[bold]")
    assert done.returncode == 2 and r"no\[/]x[bold]" in done.stderr.replace("\n", "")


HIDDEN = """
import sys
sys.modules[{module!r}] = None
from pgn_runtime import commands
sys.argv = [{command!r}, *{flags!r}]
commands.{command}()
"""


@pytest.mark.parametrize(
    ("command", "module", "flags", "extra"),
    [
        ("train", "torch", ["--help"], "train"),
        ("train", "lightning", ["--dry-run", "--data", "photos"], "train"),
        ("evaluate", "typer", ["--help"], "train"),
        ("bench", "torch", ["--help"], "bench"),
        ("export", "torch", ["--help"], "export"),
        ("export", "litert_torch", ["--target", "tflite"], "export"),
        ("export", "onnxruntime", ["--target", "onnx", "--size", "32"], "export"),
    ],
)
def test_a_missing_extra_leaves_with_5_and_the_install_line(
    command: str, module: str, flags: list[str], extra: str, tmp_path: Path
) -> None:
    photo_folder(tmp_path / "photos", 1, 32)
    code = HIDDEN.format(command=command, module=module, flags=flags)
    done = run("python", "-c", code, cwd=tmp_path)
    assert done.returncode == 5, done.stderr
    assert f'pip install "pgn-edge[{extra}]"' in done.stderr


@pytest.mark.slow
def test_what_could_be_exported_is_told_when_a_target_fails(tmp_path: Path) -> None:
    flags = ["--target", "all", "--size", "48", "--json"]
    code = HIDDEN.format(command="export", module="litert_torch", flags=flags)
    done = run("python", "-c", code, cwd=tmp_path)
    assert done.returncode == 5, done.stderr
    assert [result["target"] for result in json.loads(done.stdout)] == ["onnx", "coreml"]


@pytest.mark.slow
def test_export_prints_json_and_writes_the_target(tmp_path: Path) -> None:
    done = run("pgn-export", "--target", "tflite", "--size", "64", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)
    assert result["path"] == "exports/pgn-lite-64x64-fp32.tflite"
    assert (tmp_path / result["path"]).stat().st_size == result["bytes"]
    assert min(row["cosine"] for row in result["parity"]) >= 0.999


@pytest.mark.slow
def test_training_and_measuring_from_the_command_line(
    tmp_path: Path, typed: Type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loop, "INITIAL_PIXELS", 12 * 32**2)
    photo_folder(tmp_path / "photos", 4, 128)
    flags = ("--data", "photos", "--images", 24, "--set", "crop=32", "--set", "precision=fp32")
    done = typed("pgn-train", *flags, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert tomllib.loads(done.stdout)["crop"] == 32 and "about 0:0" in done.stderr
    assert not (tmp_path / "runs").exists()
    done = typed("pgn-train", *flags, "-o", "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "run/pgn-lite.safetensors"
    assert "cosine" in done.stderr
    measure = ("--checkpoint", "run/pgn-lite.safetensors", "--images", "photos", "--size", 64)
    done = typed(
        *("pgn-eval", "alignment", *measure, "--situation", "degraded"),
        *("--record", "card", "--json"),
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert list(dict.fromkeys(row["situation"] for row in measured["rows"])) == [
        *("blur 1.5", "blur 4", "noise 0.1", "JPEG 10", "half contrast", "mosaic 4", "shift 3")
    ]
    quality = pgn.load(tmp_path / "card" / "pgn-lite.safetensors").info["quality"]
    assert quality["mean_cosine"] == measured["mean_cosine"]["pgn-lite"]["mean"]


@pytest.mark.slow
def test_pictures_are_fitted_from_the_command_line(tmp_path: Path) -> None:
    from pgn.degrade import blur, to_pil
    from pgn_export.parity import photos

    photo = photos((64, 64))[0][0]
    to_pil(photo).save(tmp_path / "target.png")
    to_pil(blur(photo, 2.0)).save(tmp_path / "start.png")
    assert run("pgn-export", "--target", "onnx", "--size", "64", cwd=tmp_path).returncode == 0
    code = (
        "import sys; from pgn_runtime.__main__ import main\n"
        "code = main(['exports/pgn-lite-64x64-fp32.onnx', 'start.png', 'target.png', '-o', 'out',"
        " '--steps', '20'])\n"
        "sys.exit(code or ('torch' in sys.modules and 'torch was loaded'))"
    )
    done = run("python", "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["mse_last"] < json.loads(done.stdout)["mse_first"]
    with Image.open(tmp_path / "out" / "result.png") as picture:
        assert picture.size == (64, 64)
