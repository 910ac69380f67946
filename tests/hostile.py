"""What stands in place of an honest file, and what every refusal of it must be."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pgn import PgnError
from pgn_runtime import RuntimeInputError

OURS = (PgnError, RuntimeInputError)
NAME, VECTORS, MANIFEST = "mean.onnx", "mean-test_vectors.safetensors", "manifest.json"
SECONDS, MEGABYTES = 10.0, 100.0  # that a refusal may take, also on a busy machine
GIANT = 2**35  # bytes of sparse files: they take no room on the disk


@contextmanager
def refused(message: str) -> Iterator[None]:
    """An error of ours that says `message`, soon, and without much memory."""
    before, start = peak(), time.monotonic()
    with pytest.raises(OURS, match=message) as caught:
        yield
    assert getattr(caught.value, "exit_code", None) in (2, 3, 4)
    assert len(str(caught.value)) < 2000, "nobody reads such a message"
    assert time.monotonic() - start < SECONDS
    assert peak(reset=False) - before < MEGABYTES


def peak(reset: bool = True) -> float:
    """Megabytes of memory that this process had at most, since the last reset; 0 off Linux."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not status.exists() or not os.access(clear, os.W_OK):
        return 0.0
    if reset:
        clear.write_text("5")
    line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
    return float(line.split()[1]) / 1000


def pipe(path: Path) -> None:
    """A FIFO in place of a file. Who reads it waits; after some seconds it is let go."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    timer = threading.Timer(SECONDS + 1, os.close, [writer])
    timer.daemon = True
    timer.start()


def sparse(path: Path, head: bytes = b"") -> None:
    path.write_bytes(head)
    os.truncate(path, GIANT)


def folder_in_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


def ring(path: Path) -> None:
    """A link to itself."""
    path.unlink()
    path.symlink_to(path.name)


def locked(path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything; the other cases are its twins")
    path.chmod(0)


IN_PLACE_OF_A_FILE = [pipe, sparse, folder_in_place, ring, locked]
