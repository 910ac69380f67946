"""One process at a time in a folder.

The system holds the lock and drops it with the process, however that ends: the file stays, and
means nothing by itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pgn_runtime.errors import RuntimeInputError

FILE = ".lock"

if sys.platform == "win32":
    import msvcrt

    BUSY = PermissionError

    def _lock(handle: int) -> None:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    BUSY = BlockingIOError

    def _lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder that exists until the block ends.

    Raises:
        RuntimeInputError: another process holds it; it cannot be locked.
    """
    try:
        handle = os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise RuntimeInputError(f"output: cannot lock {folder} ({error.strerror}).") from None
    try:
        _acquire(handle, folder)
        yield
    finally:
        os.close(handle)  # which unlocks it


def _acquire(handle: int, folder: Path) -> None:
    try:
        _lock(handle)
    except BUSY:
        raise RuntimeInputError(
            f"output: another process is writing to {folder}. Wait until it has ended, or choose "
            f"another folder."
        ) from None
    except OSError as error:  # file systems of some networks have no locks
        raise RuntimeInputError(
            f"output: {folder} cannot be locked ({error.strerror}). Choose a folder on a local "
            f"disk."
        ) from None
