"""npm's onnxruntime-web for the page: fetched once, of a known hash, from a local registry here."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest
from test_serve import package

from pgn import PgnError
from pgn_bench import web


def registry(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A local one, and a lock that pins what it has."""
    source = package(folder / "source" / "package")
    (source / "more.js").write_text("not for a page")
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        archive.add(source, "package")
        archive.add(source / "more.js", "../escaped.js")
    place = folder / web.PACKAGE / "-"
    place.mkdir(parents=True)
    (place / f"{web.PACKAGE}-1.2.3.tgz").write_bytes(data.getvalue())
    digest = base64.b64encode(hashlib.sha512(data.getvalue()).digest()).decode()
    pin = {"version": "1.2.3", "integrity": f"sha512-{digest}"}
    lock = folder / "package-lock.json"
    lock.write_text(json.dumps({"packages": {f"node_modules/{web.PACKAGE}": pin}}))
    monkeypatch.setattr(web, "LOCK", lock)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    return folder.as_uri()


def test_the_package_is_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = registry(tmp_path, monkeypatch)
    found = web.fetch(address)
    assert found.version == "1.2.3"
    names = {path.name for path in found.folder.rglob("*") if path.is_file()}
    assert names == {"package.json", *web.FILES}
    assert not list(tmp_path.rglob("escaped.js"))
    shutil.rmtree(tmp_path / web.PACKAGE)
    assert web.fetch(address) == found


def test_two_commands_may_download_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(archive: Path, folder: Path) -> None:
        monkeypatch.setattr(web, "_unpack", unpack)
        web.fetch(address)  # another command, in the meantime
        unpack(archive, folder)

    address, unpack = registry(tmp_path, monkeypatch), web._unpack
    monkeypatch.setattr(web, "_unpack", slowly)
    assert web.fetch(address).version == "1.2.3"


def test_another_package_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = registry(tmp_path, monkeypatch)
    (archive,) = tmp_path.rglob("*.tgz")
    archive.write_bytes(archive.read_bytes() + b"x")
    with pytest.raises(PgnError, match="expected sha512-.*not used"):
        web.fetch(address)
    assert not any((tmp_path / "cache" / "pgn-edge").iterdir())


def test_without_a_network_the_way_out_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry(tmp_path, monkeypatch)
    with pytest.raises(PgnError, match="cannot be downloaded .* --onnxruntime-web FOLDER"):
        web.fetch((tmp_path / "nothing").as_uri())
    (package(tmp_path / "half") / "dist" / web.FILES[1]).unlink()
    with pytest.raises(PgnError, match=f"holds no dist/{web.FILES[1]}"):
        web.unpacked(tmp_path / "half")


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff"])
def test_a_damaged_package_is_told(tmp_path: Path, content: bytes) -> None:
    (package(tmp_path / "odd") / "package.json").write_bytes(content)
    with pytest.raises(PgnError, match="package.json cannot be read .*Unpack"):
        web.unpacked(tmp_path / "odd")
