"""`pgn-bench serve` without a browser: what the server gives and takes, and npm's package."""

from __future__ import annotations

import http.client
import json
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packs import write_pack

from pgn import PgnError
from pgn_bench import results, web
from pgn_bench.serve import jobs
from pgn_bench.serve.server import MAX_POST, Server
from pgn_bench.serve.site import Site
from pgn_runtime.errors import RuntimeInputError

MEASURE = Path(__file__).with_name("browser_measure.mjs")
ROW: dict[str, Any] = {
    "provider": "a", "runtime": "onnxruntime-web wasm", "device": "cpu", "size": 224, "batch": 1,
    "threads": 2, "dtype": "fp32", "median_ms": 2.0, "p10_ms": 1.0, "p90_ms": 3.0, "calls": 9,
}  # fmt: skip
RESULT: dict[str, Any] = {
    "schema": 1, "kind": "browser", "machine": {"processor": "x"}, "command": "pgn-bench serve",
    "date": "2026-01-01T00:00:00Z", "settings": {}, "rows": [ROW],
}  # fmt: skip


def package(folder: Path, version: str = "1.2.3") -> Path:
    """An unpacked onnxruntime-web, with a byte in every file."""
    (folder / "dist").mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps({"version": version}))
    for name in web.FILES:
        (folder / "dist" / name).write_text("x")
    return folder


def site_of(folder: Path) -> Site:
    pack = jobs.of_pack(write_pack(folder / "tiny.pgnpack"))
    runtime = web.unpacked(package(folder / "package"))
    return Site([pack], runtime, {"rounds": 1}, folder / "results")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    yield from serve(site_of(tmp_path), "127.0.0.1")


def serve(site: Site, host: str) -> Iterator[Server]:
    with Server(site, host, 0) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(
    server: Server, method: str, path: str, body: bytes = b"", length: str | None = None
) -> Any:
    """The reply to a request, its path taken as it is; `.content` is its body."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    headers = {} if length is None else {"Content-Length": length}
    connection.request(method, path, body or None, headers)
    reply: Any = connection.getresponse()
    reply.content = reply.read()
    connection.close()
    return reply


def base(server: Server) -> str:
    return f"/{site(server).token}/"


def site(server: Server) -> Site:
    found: Site = server.RequestHandlerClass.args[0]  # type: ignore[attr-defined]
    return found


def post(server: Server, content: bytes) -> Any:
    return ask(server, "POST", base(server) + "results", content)


# --- what is given


def test_every_file_of_the_plan_is_given(server: Server) -> None:
    plan = json.loads(ask(server, "GET", base(server) + "plan.json").content)
    (job,) = plan["jobs"]
    assert plan["runtime_version"] == "1.2.3" and job["provider"] == "tiny, fitting step"
    assert "render" not in job["graphs"] and {*job["graphs"]} < {*job["files"]}
    for name, address in job["files"].items():
        wanted = site(server).jobs[0].files[name].read_bytes()
        assert ask(server, "GET", base(server) + address).content == wanted
    page = ask(server, "GET", base(server))
    assert page.headers["Content-Type"].startswith("text/html") and b"page.js" in page.content
    assert page.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert page.headers["Cross-Origin-Embedder-Policy"] == "require-corp"


@pytest.mark.parametrize(
    "path",
    [
        *("/", "//", "/plan.json", "plan.json", "page.js", "/../etc/passwd"),
        *("BASE../", "BASE..%2f..%2fetc/passwd", "BASEjobs/", "BASE//etc/passwd"),
        *("BASEpackage.json", "BASEresults", "BASE%00", "BASEpage.js?x"),
    ],
)
def test_nothing_else_is_given(server: Server, path: str) -> None:
    reply = ask(server, "GET", path.replace("BASE", base(server)))
    assert reply.status == 404 and b"root:" not in reply.content


def test_a_file_that_is_gone_is_told(server: Server) -> None:
    (name,) = (name for name in site(server).files if name.endswith("/gradient"))
    site(server).files[name].unlink()
    reply = ask(server, "GET", base(server) + name)
    assert reply.status == 500 and b"gradient.onnx cannot be read any more" in reply.content


def test_tokens_are_never_the_same(tmp_path: Path) -> None:
    runtime = web.unpacked(package(tmp_path))
    tokens = {Site([], runtime, {}, tmp_path).token for _ in range(20)}
    assert len(tokens) == 20 and min(map(len, tokens)) >= 20


# --- what is taken


def test_a_result_is_written_once(server: Server) -> None:
    content = json.dumps(RESULT).encode()
    for _ in range(2):
        reply = post(server, content)
        assert reply.status == 201
    (path,) = site(server).output.iterdir()
    assert reply.content.decode() == path.name and site(server).saved == {path}
    assert results.load(path).rows[0].median_ms == 2.0


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "gradient"}, {"kind": "../../x"}, {"schema": 2}, {"rows": [ROW | {"calls": 0}]},
        {"rows": [ROW | {"median_ms": "<script>"}]}, {"unknown": 1}, {"machine": []},
        {"rows": [ROW | {"p90_ms": 0.5}]},
    ],
)  # fmt: skip
def test_what_is_no_result_is_refused_and_counted(server: Server, change: dict[str, Any]) -> None:
    reply = post(server, json.dumps(RESULT | change).encode())
    assert reply.status == 400 and reply.content.startswith(b"result: ")
    assert site(server).refused == 1 and not site(server).output.exists()


@settings(max_examples=30, deadline=None)
@given(content=st.one_of(st.binary(max_size=200), st.text(max_size=100).map(str.encode)))
def test_junk_is_refused(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("junk")
    receiver = Site([], web.WebRuntime(folder, ""), {}, folder / "results")
    with pytest.raises(PgnError, match="^result: "):
        receiver.receive(content)
    assert receiver.refused == 1 and not any(folder.iterdir())


def test_large_posts_are_refused_unread(server: Server) -> None:
    reply = ask(server, "POST", base(server) + "results", length=str(MAX_POST + 1))
    assert reply.status == 413 and reply.headers["Connection"] == "close"
    for length in ("-1", "x", "1e3", "9" * 5000):
        assert ask(server, "POST", base(server) + "results", length=length).status == 413
    assert site(server).refused == 5


def test_posts_to_other_places_are_refused(server: Server) -> None:
    content = json.dumps(RESULT).encode()
    for path in ("/results", base(server), base(server) + "results/../x"):
        assert ask(server, "POST", path, content).status == 404
    assert ask(server, "PUT", base(server) + "results", content).status == 501
    assert not site(server).output.exists()


def test_results_have_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgn_bench.serve.site.MAX_RESULTS", 1)
    receiver = Site([], web.WebRuntime(tmp_path, ""), {}, tmp_path / "results")
    receiver.receive(json.dumps(RESULT).encode())
    receiver.receive(json.dumps(RESULT).encode())  # the same file
    with pytest.raises(PgnError, match="1 came already"):
        receiver.receive(json.dumps(RESULT | {"date": "later"}).encode())


# --- where


def test_beyond_this_machine_it_takes_tls(tmp_path: Path) -> None:
    for server in serve(site_of(tmp_path), "0.0.0.0"):
        assert server.address.startswith("https://")
        unknown = ssl.create_default_context()
        host, port = "127.0.0.1", server.server_address[1]
        with pytest.raises(ssl.SSLError):
            http.client.HTTPSConnection(host, port, context=unknown).request("GET", "/")
        unknown.check_hostname, unknown.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, port, context=unknown)
        connection.request("GET", base(server) + "plan.json")
        assert connection.getresponse().status == 200
        connection.close()


@pytest.mark.parametrize("host", ["192.0.2.77", "no-such-host.invalid"])
def test_an_address_that_cannot_be_had_is_told(host: str, tmp_path: Path) -> None:
    runtime = web.unpacked(package(tmp_path))
    with pytest.raises(PgnError, match=f"--host {host} --port 0: cannot be bound"):
        Server(Site([], runtime, {}, tmp_path), host, 0)


# --- models


def test_what_is_no_model_is_told(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(PgnError, match="models: got .*notes.txt, expected an .onnx file"):
        jobs.find([tmp_path / "notes.txt"])
    with pytest.raises(PgnError, match="models: .* is no folder of ONNX exports"):
        jobs.find([tmp_path])
    with pytest.raises(RuntimeInputError, match="pack: "):
        jobs.find([tmp_path / "missing.pgnpack"])


def test_a_changed_pack_is_refused(tmp_path: Path) -> None:
    pack = write_pack(tmp_path / "tiny.pgnpack")
    with (pack / "gradient.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(RuntimeInputError, match="was changed"):
        jobs.find([pack])


# --- how the page measures


def test_blocks_are_in_turn_and_what_fails_is_left_out() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    samples = [[3.0], [5.0, 1.0, 2.0], np.random.default_rng(0).random(17).tolist()]
    words = [node, str(MEASURE), json.dumps(samples)]
    printed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    found = json.loads(printed)
    opens: list[list[object]] = []
    for k, runtime in enumerate("xyz"):
        opens += [[runtime, "open", job, None, None] for job in ("a", "wrong")]
        opens.append([runtime, "close", 2 * k + 1, None, None])
    warm = [[r, "block", k, 1, 0] for r, k in (("x", 0), ("y", 2), ("z", 4))]
    first, later = ([[r, "block", k, 1, 2] for r, k in turn] for turn in ROUNDS)
    assert found["order"] == opens + warm + first + [["z", "close", 4, None, None]] + later
    assert [row["runtime"] for row in found["rows"]] == ["x", "y"]
    assert [row["calls"] for row in found["rows"]] == [4, 4]
    # p90 / p10 is 1.33 and 1.30
    assert [row["noisy"] for row in found["rows"]] == [True, False]
    assert found["rows"][0]["macs"] == 7
    assert found["rows"][0]["details"] == {"relative_l2": {"near": 0.05}, "weights": "w"}
    reasons = [(each["runtime"], each["reason"][:12]) for each in found["failed"]]
    assert reasons == [(r, "wrong result") for r in "xy"] + [
        ("z", "too little m"), ("z", "wrong result"),
    ]  # fmt: skip
    for sample, summary in zip(samples, found["summaries"], strict=True):
        wanted = np.percentile(sample, (10, 50, 90))
        got = [summary[name] for name in ("p10_ms", "median_ms", "p90_ms")]
        assert np.abs(np.array(got) - wanted).max() < 1e-12


ROUNDS = ((("x", 0), ("y", 2), ("z", 4)), (("x", 0), ("y", 2)))
