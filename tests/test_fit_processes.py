"""`pgn-fit` as processes: kills change no bit of a fit, and two do not write to one folder."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx", reason="the extra export is not installed")

from test_fit_command import bits
from test_photos import faces, photos_of

from pgn_runtime import RuntimeInputError
from pgn_runtime.fit_cli import main
from pgn_runtime.locking import locked

HOLD = """
import sys, time
from pathlib import Path
from pgn_runtime.locking import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos_of(tmp_path_factory.mktemp("photos") / "anna", 60, 50, faces(4))


def test_a_folder_is_held_as_long_as_a_process_lives(
    pack: Path, photos: Path, tmp_path: Path, capsys: Any
) -> None:
    person = tmp_path / "person"
    words = [str(pack), str(photos), "-o", str(person), "--steps", "1"]
    assert main(words) == 0
    before = bits(person)
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(person)], stdout=subprocess.PIPE)
    try:
        assert process.stdout and process.stdout.readline() == b"held\n"
        assert main([*words, "--steps", "2", "--restart"]) == 2
        said = f"error: output: another process is writing to {person}. Wait until it has ended"
        assert said in capsys.readouterr().err
        assert bits(person) == before, "what is refused has changed the folder"
    finally:
        process.kill()
        process.communicate()
    assert main([*words, "--steps", "2"]) == 0, "a killed process still holds the folder"


def test_other_folders_and_later_blocks_are_free(tmp_path: Path) -> None:
    held, other = tmp_path / "held", tmp_path / "other"
    held.mkdir()
    other.mkdir()
    for _ in range(2):
        with locked(held), locked(other):
            for _ in range(2):  # who is refused does not let go what another holds
                refused(held, f"another process is writing to {held}")
    (other / ".lock").unlink()
    (other / ".lock").mkdir()
    for folder in (other, tmp_path / "gone"):
        refused(folder, f"cannot lock {folder}")


def refused(folder: Path, message: str) -> None:
    with pytest.raises(RuntimeInputError, match=message), locked(folder):
        pytest.fail("it was locked")


def started(words: list[str]) -> subprocess.Popen[bytes]:
    code = [sys.executable, "-m", "pgn_runtime.fit_cli"]
    return subprocess.Popen([*code, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_at_random_moments(
    words: list[str], folder: Path, kills: int, signals: list[signal.Signals]
) -> int:
    """Kill fits until `kills` are dead; all must end as an undisturbed one. Gives the fits' number.

    Every fit is started again until it ends by itself.
    """
    chance = random.Random(0)
    begin = time.monotonic()
    assert started([*words, "-o", str(folder / "calm")]).wait() == 0
    seconds = time.monotonic() - begin
    wanted, fits, dead = bits(folder / "calm"), 0, 0
    while dead < kills:
        fits += 1
        person = folder / f"person-{fits}"
        while True:
            process = started([*words, "-o", str(person)])
            try:
                process.wait(chance.uniform(0.1, 1.0) * seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(chance.choice(signals))
            if process.wait() == 0:
                break
            dead += 1
        assert bits(person) == wanted, f"fit {fits}, after {dead} kills"
    return fits


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
def test_ten_kills_at_random_moments_change_nothing(
    pairs: Path, photos: Path, tmp_path: Path
) -> None:
    words = [str(pairs), str(photos), "--steps", "60", "--threads", "1"]
    signals = [signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM]
    assert kill_at_random_moments(words, tmp_path, 10, signals) >= 1
