"""How much memory this process takes, as Linux and Android tell it."""

from __future__ import annotations

import re
from pathlib import Path

_STATUS = Path("/proc/self/status")


def resident_bytes() -> int | None:
    """What is in memory now (RSS); None where the system does not tell."""
    return _figure("VmRSS")


def peak_bytes() -> int | None:
    """The most that was in memory since the process began; None where the system does not tell."""
    return _figure("VmHWM")


def _figure(name: str) -> int | None:
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
