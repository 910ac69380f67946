"""What `pgn-bench serve` and `phone` keep in the user's cache, and when they make it again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from packs import write_pack

import pgn
from pgn import PGN, PgnError
from pgn_bench.deployed import kept_exports
from pgn_bench.serve import jobs
from pgn_runtime.errors import RuntimeInputError

AVATAR, NETWORK = "avatar-demo", "pgn-nano"


class Packer:
    """Packs the bundled avatar, with a small pack in place of the true one, and counts."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder / "models"
        self.folder.mkdir()
        self.assets = folder / "assets"
        shutil.copytree(jobs.ASSETS, self.assets)
        self.patch = monkeypatch
        self.said: list[str] = []
        monkeypatch.setattr(jobs, "ASSETS", self.assets)
        monkeypatch.setattr(jobs, "of_avatar", lambda name: None)
        monkeypatch.setattr(jobs, "Packing", lambda *parts: parts)
        monkeypatch.setattr(jobs, "write", lambda packing, targets, pack: write_pack(pack))

    def pack(self) -> Path:
        return jobs.packed(AVATAR, NETWORK, self.folder, self.said.append)

    @property
    def count(self) -> int:
        return self.said.count(f"packing {AVATAR}")


@pytest.fixture
def packer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packer:
    return Packer(tmp_path, monkeypatch)


def other_avatar(packer: Packer) -> None:
    with (packer.assets / f"{AVATAR}.safetensors").open("ab") as file:
        file.write(b"x")


def other_network(packer: Packer) -> None:
    def load(name: str) -> PGN:
        net = original(name)
        with torch.no_grad():
            next(net.parameters()).view(-1)[-1] += 1e-6
        return net

    original = pgn.load
    packer.patch.setattr(pgn, "load", load)


def other_version(packer: Packer) -> None:
    packer.patch.setattr(pgn, "__version__", "9.9")


def damaged(packer: Packer) -> None:
    with (packer.pack() / "gradient.onnx").open("ab") as file:
        file.write(b"x")


def test_a_pack_that_is_the_same_stays(packer: Packer) -> None:
    made = packer.pack()
    assert jobs.of_pack(made).description["provider"] == "tiny, fitting step"
    before = made.stat().st_ino
    assert packer.pack() == made and made.stat().st_ino == before and packer.count == 1


@pytest.mark.parametrize("change", [other_avatar, other_network, other_version, damaged])
def test_a_pack_of_something_else_is_made_again(
    packer: Packer, change: Callable[[Packer], None]
) -> None:
    packer.pack()
    change(packer)
    made = packer.pack()
    assert packer.count == 2
    jobs.of_pack(made)
    assert [*packer.folder.iterdir()] == [made], "the older one is gone"


def test_two_commands_do_not_write_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with kept_exports() as folder:
        assert folder == tmp_path / "pgn-edge" / "models"
        with pytest.raises(RuntimeInputError, match="another process .*models"), kept_exports():
            pass
    with kept_exports():
        pass


def test_a_cache_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(PgnError, match="cannot write to .*pgn-edge"), kept_exports():
        pass


def test_what_is_named_needs_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "kept_exports", lambda: pytest.fail("the cache is opened"))
    pack = write_pack(tmp_path / "tiny.pgnpack")
    said: list[Any] = []
    assert len(jobs.prepare([pack], paper=False, say=said.append)) == 1 and said == []
