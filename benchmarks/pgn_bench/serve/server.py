"""The page's web server: Python's own, for one site, on one machine or in its own network.

Browsers give threads and WebGPU to secure pages only. This machine's own address is one; in a
network it takes TLS, for which a certificate is made at every start, that no browser knows yet.
"""

from __future__ import annotations

import io
import ipaddress
import math
import os
import re
import shutil
import socket
import ssl
import sys
import time
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Semaphore
from typing import Any

import trustme

from pgn import PgnError
from pgn_bench.serve.site import PLAN, Site

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".wasm": "application/wasm",
}
BYTES, JSON, TEXT = "application/octet-stream", "application/json", "text/plain; charset=utf-8"
HEADERS = {
    # both together isolate the page: without, a browser gives it no threads
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; img-src data:; "
    "style-src 'self'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
RESULTS = "results"  # where a page posts to
MAX_POST = 2**18  # bytes
PATIENCE = 30  # seconds: of silence, and of a request but for its last part
MAX_CONNECTIONS = 64  # at a time; a browser opens about six


class Server(ThreadingHTTPServer):
    """Serves one site at `address`."""

    daemon_threads = True

    def __init__(self, site: Site, host: str, port: int) -> None:
        """Bind; `host` is an IPv4 address or a name of this machine, port 0 any free one.

        Raises:
            PgnError: the address cannot be had.
        """
        try:
            super().__init__((host, port), partial(Handler, site))
        except (OSError, OverflowError) as error:
            raise PgnError(
                f"--host {host} --port {port}: cannot be bound ({error}). Expected an IPv4 address "
                f"of this machine, or 0.0.0.0 for all of them, and a free port, or 0 for any."
            ) from None
        bound = ipaddress.ip_address(str(self.server_address[0]))
        shown = _own_address() if bound.is_unspecified else str(bound)
        scheme = "http" if bound.is_loopback else "https"
        if not bound.is_loopback:
            self.socket = _secured(self.socket, shown)
        self._free = Semaphore(MAX_CONNECTIONS)
        self.address = f"{scheme}://{shown}:{self.server_address[1]}/{site.token}/"

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is a thread left for a connection; those too many are closed at once."""
        return self._free.acquire(blocking=False)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection, in a thread of its own."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that leave, are silent, or do not trust the certificate."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class Incoming(io.RawIOBase):
    """What a client sends until a deadline, however often a byte of it comes."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.deadline = math.inf  # of time.monotonic

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Raises TimeoutError after the deadline, or the connection's timeout."""
        if time.monotonic() > self.deadline:
            raise TimeoutError
        return self.connection.recv_into(buffer)


class Handler(BaseHTTPRequestHandler):
    """The requests of one connection."""

    rfile: io.BufferedReader
    timeout = PATIENCE
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "pgn-bench", ""

    def __init__(self, site: Site, *connection: Any) -> None:
        self.site = site
        super().__init__(*connection)

    def setup(self) -> None:
        """As http.server's, but what comes in has a deadline."""
        super().setup()
        self.rfile.close()
        self.incoming = Incoming(self.connection)
        self.rfile = io.BufferedReader(self.incoming)

    def handle_one_request(self) -> None:
        """A request; its time begins with its first byte. Raises TimeoutError if none comes."""
        self.incoming.deadline = math.inf
        self.rfile.peek(1)
        self.incoming.deadline = time.monotonic() + self.timeout
        super().handle_one_request()

    def do_GET(self) -> None:
        """A file of the site, or its plan."""
        name = self._name()
        if name == PLAN:
            self._answer(HTTPStatus.OK, self.site.plan, JSON)
        elif name in self.site.files:
            self._send(self.site.files[name])
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "Nothing is here. Is the address whole?")

    def do_POST(self) -> None:
        """A result."""
        if self._name() != RESULTS:
            self._refuse(HTTPStatus.NOT_FOUND, "Nothing is here.")
            return
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,9}", length) or int(length) > MAX_POST:
            self.site.refuse()
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"Expected at most {MAX_POST} bytes.")
            return
        try:
            path = self.site.receive(self.rfile.read(int(length)))
        except PgnError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        else:
            self._answer(HTTPStatus.CREATED, path.name.encode(), TEXT)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal shows results."""

    def _name(self) -> str | None:
        """What is asked for behind the token; None without the token."""
        prefix = f"/{self.site.token}/"
        return self.path.removeprefix(prefix) if self.path.startswith(prefix) else None

    def _send(self, path: Path) -> None:
        try:
            file = path.open("rb")
        except OSError as error:
            reason = f"{path.name} cannot be read any more ({error.strerror})."
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, reason)
            return
        with file:
            size = os.fstat(file.fileno()).st_size
            self._begin(HTTPStatus.OK, size, TYPES.get(path.suffix, BYTES))
            shutil.copyfileobj(file, self.wfile)

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        self.close_connection = True  # what else it sent is not read
        self._answer(status, reason.encode(), TEXT)

    def _answer(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self._begin(status, len(content), kind)
        self.wfile.write(content)

    def _begin(self, status: HTTPStatus, length: int, kind: str) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": length}.items():
            self.send_header(name, str(value))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()


def _own_address() -> str:
    """This machine's address in its network: where a packet for elsewhere would leave from."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            raise PgnError("--host: this machine is in no network. Leave it out.") from None
        return str(probe.getsockname()[0])


def _secured(listening: socket.socket, address: str) -> ssl.SSLSocket:
    """TLS, whose greetings happen in the connections' threads: no client can hold up others."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert(address).configure_cert(context)
    return context.wrap_socket(listening, server_side=True, do_handshake_on_connect=False)
