"""What a client can take from `pgn-bench serve`: so many connections, each for so long."""

# ruff: noqa: F811  (fixtures are imported, and then named as arguments)

from __future__ import annotations

import http.client
import socket
import time
from contextlib import ExitStack

import pytest
from test_serve import ask, base, server, site  # noqa: F401  (server: a fixture)

from pgn_bench.serve import server as module
from pgn_bench.serve.server import Handler, Server

SOON = 5.0  # seconds, on a busy machine
EVERY = 0.05  # seconds between bytes


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> float:
    """The server's patience, seconds."""
    monkeypatch.setattr(Handler, "timeout", 0.3)
    return Handler.timeout


def client(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.server_address[1]), timeout=SOON)


def is_closed(connection: socket.socket) -> bool:
    """Whether the server closes it, before it is silent for the connection's timeout."""
    try:
        return not connection.recv(1)
    except ConnectionError:
        return True
    except TimeoutError:
        return False


def drip(connection: socket.socket, content: bytes) -> float:
    """Send a byte at a time until the server closes the connection; the seconds that took."""
    start = time.monotonic()
    connection.settimeout(EVERY)
    for byte in content:
        try:
            connection.sendall(bytes([byte]))
        except ConnectionError:
            break
        if is_closed(connection):
            break
    return time.monotonic() - start


@pytest.mark.parametrize("part", ["head", "body"])
def test_a_request_has_an_end_however_often_a_byte_comes(
    server: Server,
    hurry: float,
    part: str,
) -> None:
    slow = b"x" * 200
    with client(server) as connection:
        head = f"POST {base(server)}results HTTP/1.1\r\nContent-Length: {len(slow)}\r\n"
        connection.sendall(head.encode() + (b"\r\n" if part == "body" else b"X: "))
        took = drip(connection, slow)
    assert hurry / 2 < took < len(slow) * EVERY / 2
    assert site(server).refused == 0 and not site(server).output.exists()


def test_silence_has_an_end(server: Server, hurry: float) -> None:
    with client(server) as connection:
        assert is_closed(connection)


class Clock:
    """In place of the module time."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_time_begins_anew_with_every_request(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    lines = [f"GET {base(server)}plan.json HTTP/1.1\r\n", "Host: x\r\n", "\r\n"]
    with client(server) as connection:
        for _ in range(2):
            clock.now += 0.9 * module.PATIENCE  # of silence
            connection.sendall(lines[0].encode())
            time.sleep(EVERY)
            clock.now += 0.9 * module.PATIENCE
            for line in lines[1:]:
                connection.sendall(line.encode())
                time.sleep(EVERY)
            assert connection.recv(10_000).startswith(b"HTTP/1.1 200")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """As many connections as the server takes."""
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 3)
    return module.MAX_CONNECTIONS


def test_connections_too_many_are_closed_at_once(few: int, server: Server) -> None:
    with ExitStack() as stack:
        taken = [stack.enter_context(client(server)) for _ in range(few)]
        for _ in range(10):
            with client(server) as another:
                assert is_closed(another)
        taken.pop().close()
        deadline = time.monotonic() + SOON
        while (reply := answer(server)) is None and time.monotonic() < deadline:
            time.sleep(EVERY)  # until the server has seen it
        assert reply == 200


def answer(server: Server) -> int | None:
    """Status of the page; None where the connection is closed."""
    try:
        status: int = ask(server, "GET", base(server)).status
    except (ConnectionError, http.client.HTTPException):
        return None
    return status


def test_a_handful_of_browsers_fits() -> None:
    assert module.MAX_CONNECTIONS >= 8 * 6, "eight phones, with six connections each"
