"""The repository's promises: layout, import rules that really bite, README that really runs."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from conftest import REPOSITORY

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
        "pgn/py.typed",
        "pgn_export/photos/astronaut.jpg",
        "pgn_bench/demo/page.html",
    ):
        assert data in names


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_readme_begins_with_what_a_newcomer_needs() -> None:
    head = "\n".join(README.splitlines()[:40])
    assert "make demo" in head and "make test" in head and "import pgn" in head
    assert "| target " in head or "| format " in head


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_readme_python_gives_the_output_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    snippets = blocks("python")
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), {})
        printed = capsys.readouterr().out.split()
        expected = re.findall(r"# prints (.*)", snippet)
        assert printed == " ".join(expected).split(), (printed, expected)


@pytest.mark.slow
def test_readme_commands_run(tmp_path: Path) -> None:
    commands = [
        line
        for block in blocks("console")
        for line in block.splitlines()
        if line.startswith(("pgn-export", "pgn-eval", "pgn-bench", "python -m"))
    ]
    assert any(line.startswith("pgn-export --target tflite") for line in commands)
    for line in commands:
        done = subprocess.run(
            f"PATH={BIN}:$PATH {line.split('#')[0]}", shell=True, cwd=tmp_path,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}: {done.stderr[-2000:]}"


@pytest.mark.slow
def test_readme_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        if not link.startswith("http"):
            assert (REPOSITORY / link).exists(), link
