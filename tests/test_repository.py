"""The repository's promises: layout, import rules that really bite, README that really runs."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from conftest import REPOSITORY, Type

BIN = Path(sys.executable).parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("folder", "banned"),
    [
        ("runtime/pgn_runtime", "torch"),
        ("runtime/pgn_runtime", "pgn"),
        ("runtime/pgn_runtime", "pgn_export"),
        ("pgn", "pgn_export"),
        ("pgn", "pgn_runtime"),
        ("pgn", "torchvision"),
        ("export/pgn_export", "pgn_bench"),
        ("tests", "export"),
    ],
)
def test_a_forbidden_import_is_caught_by_the_linter(folder: str, banned: str) -> None:
    words = [str(BIN / "ruff"), "check", "--stdin-filename", f"{folder}/planted.py", "-"]
    done = subprocess.run(
        words, input=f"import {banned}\n\n{banned}.x()\n", cwd=REPOSITORY, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "TID251" in done.stdout, done.stdout


def test_extras_and_commands_are_those_of_the_design() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert {"train", "export", "teacher", "bench", "all"} <= project["optional-dependencies"].keys()
    names = {re.split(r"[><=]", line)[0] for line in project["dependencies"]}
    assert names == {"numpy", "pillow", "safetensors"}
    for command in project["scripts"]:
        done = subprocess.run([BIN / command, "--help"], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr


def test_every_dependency_is_pinned() -> None:
    pins = (REPOSITORY / "constraints.txt").read_text()
    pinned = {_canonical(line.split("==")[0]) for line in pins.splitlines() if "==" in line}
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    lines = [*project["dependencies"], *(line for extra in extras for line in extra)]
    wanted = {_canonical(re.split(r"[><=;\[]", line)[0].strip()) for line in lines}
    assert wanted - {"pgn-edge"} <= pinned, wanted - pinned


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.slow
def test_the_wheel_holds_the_four_packages_and_their_data(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "build", "--wheel", "-o", str(tmp_path), str(REPOSITORY)]
    subprocess.run(words, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert top - {f"{wheel.name.split('-py3')[0]}.dist-info"} == {
        "pgn", "pgn_export", "pgn_runtime", "pgn_bench",
    }  # fmt: skip
    for data in (
        "pgn/assets/pgn-lite.safetensors",
        "pgn/assets/avatar-demo.safetensors",
        "pgn/py.typed",
        "pgn_export/photos/astronaut.jpg",
        "pgn_bench/demo/page.html",
        "pgn_bench/report/page.html",
        "pgn_bench/serve/page/index.html",
        "pgn_bench/serve/page/package-lock.json",
        "pgn_runtime/page.html",
    ):
        assert data in names


def test_readme_begins_with_what_a_newcomer_needs() -> None:
    head = "\n".join(README.splitlines()[:40])
    assert "make demo" in head and "make test" in head and "import pgn" in head
    assert "| target " in head


@pytest.fixture
def wide(typed: Type, monkeypatch: pytest.MonkeyPatch) -> Type:
    """Types commands whose help is not cut."""
    monkeypatch.setenv("COLUMNS", "200")
    return typed


def run_console(block: str, folder: Path, typed: Type) -> int:
    """Run the block's commands of ours; those with a PLACEHOLDER only as far as --help."""
    count = 0
    for line in block.splitlines():
        if not line.startswith(("pgn-", "python -m")):
            continue
        line = line.split("#")[0].strip()
        if re.search(r"[A-Z]{4}", line):
            check_flags(line, typed)
        else:
            run_shell(line, folder)
        count += 1
    return count


def check_flags(line: str, typed: Type) -> None:
    """A command of ours exists, and has the flags that `line` gives it."""
    flags = re.findall(r"(?<= )--?[a-z][a-z-]*", line)
    words = itertools.takewhile(lambda word: word[0] != "-", line.split())
    command = [word for word in words if word.islower() and "." not in word]
    shown = typed(*command, "--help").stdout
    assert all(flag in shown for flag in flags), f"{line}: {flags} in {shown}"


def run_shell(line: str, folder: Path) -> str:
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "COLUMNS": "200"}
    done = subprocess.run(
        line, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{line}: {done.stderr[-2000:]}"
    return done.stdout


@pytest.mark.slow
def test_readme_runs_from_top_to_bottom(tmp_path: Path, wide: Type) -> None:
    blocks = re.findall(r"```(console|python)\n(.*?)```", README, flags=re.DOTALL)
    commands = sum(
        run_console(block, tmp_path, wide) if language == "console" else run_python(block, tmp_path)
        for language, block in blocks
    )
    assert commands >= 8 and [language for language, _ in blocks].count("python") == 2


def run_python(block: str, folder: Path) -> int:
    """Run a snippet; it prints what its comments say."""
    (folder / "snippet.py").write_text(block)
    printed = run_shell("python snippet.py", folder).split()
    expected = " ".join(re.findall(r"# prints (.*)", block)).split()
    assert expected and printed == expected, (printed, expected)
    return 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["export", "distillation", "avatar", "fitting", "benchmarking"])
def test_commands_of_the_docs_exist_with_their_flags(name: str, tmp_path: Path, wide: Type) -> None:
    text = (REPOSITORY / "docs" / f"{name}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    for line in lines:
        check_flags(line, wide)
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        run_python(block, tmp_path)
    assert len(lines) >= 3


@pytest.mark.slow
def test_readme_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        if not link.startswith("http"):
            assert (REPOSITORY / link).exists(), link
