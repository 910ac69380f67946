"""The whole of `pgn-bench serve`: from the command line to a posted result and Ctrl-C."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from packs import write_pack
from test_serve import RESULT, package
from typer.testing import CliRunner

from pgn import PgnError
from pgn_bench import deployed, results, web
from pgn_bench.cli import app
from pgn_bench.deployed import Say
from pgn_bench.serve import jobs
from pgn_export.source import Source

Serving = subprocess.Popen[str]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return web.cache()


def words(folder: Path, *more: object) -> list[str]:
    given = ("--onnxruntime-web", folder / "package", "-o", folder / "results", *more)
    return ["serve", *map(str, given)]


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    package(tmp_path / "package")
    pack = write_pack(tmp_path / "tiny.pgnpack")
    script = "from pgn_bench.cli import main; main()"
    command = [sys.executable, "-c", script, *words(tmp_path, pack, "--json")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_a_result_is_posted_and_the_command_interrupted(serving: Serving, tmp_path: Path) -> None:
    assert serving.stdout
    address = json.loads(serving.stdout.readline())["address"]
    with urllib.request.urlopen(f"{address}plan.json") as reply:
        plan = json.load(reply)
    assert [job["provider"] for job in plan["jobs"]] == ["tiny, fitting step"]
    assert plan["rounds"] == 8 and "serve" in plan["command"]
    with urllib.request.urlopen(f"{address}results", json.dumps(RESULT).encode()) as reply:
        name = reply.read().decode()
    (path,) = (tmp_path / "results").iterdir()
    assert path.name == name and results.load(path).kind == "browser"
    assert json.loads(serving.stdout.readline()) == {"result": str(path)}
    serving.send_signal(signal.SIGINT)
    printed, told = serving.communicate(timeout=30)
    assert serving.returncode == 0 and printed == ""
    assert told.splitlines()[-1] == "results: 1, refused posts: 0"


def test_a_port_that_is_taken_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(tmp_path / "package")
    monkeypatch.setattr(jobs, "prepare", lambda *_: pytest.fail("work has begun"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = CliRunner().invoke(app, words(tmp_path, "--port", port)).exception
    assert isinstance(error, PgnError) and f"--port {port}: cannot be bound" in str(error)


@pytest.mark.parametrize("paper", [False, True])
def test_networks_are_exported_for_browsers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path, paper: bool
) -> None:
    made: list[tuple[str, str, str]] = []
    said: list[str] = []

    def convert(source: Source, target: str, dtype: str, folder: Path) -> Any:
        made.append((source.name, target, dtype))
        return SimpleNamespace(path=folder / f"{source.name}-{dtype}")

    def packed(avatar: str, network: str, folder: Path, say: Say) -> Path:
        return folder / f"{avatar}.pgnpack"

    monkeypatch.setattr(deployed, "convert", convert)
    monkeypatch.setattr(jobs, "packed", packed)
    monkeypatch.setattr(jobs, "find", list)
    found: list[Any] = jobs.prepare([], paper, said.append)
    bundled = [(name, "onnx", dtype) for name in ("pgn-lite", "pgn-nano") for dtype in jobs.DTYPES]
    assert made[:4] == bundled and {dtype for *_, dtype in made[4:]} <= {"fp32"}
    assert len(made) == len(said) == (10 if paper else 4)
    assert [path.suffix for path in found].index(".pgnpack") == 4
    made.clear()
    assert {path.parent for path in found} == {cache / "models"}
    found = jobs.prepare([tmp_path / "own.onnx"], paper, said.append)
    assert len(found) == 1 + len(made) and len(made) == (6 if paper else 0)
