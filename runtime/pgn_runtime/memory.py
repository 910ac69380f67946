"""How much memory this process takes, as Linux and Android tell it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

_STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident_bytes() -> int | None:
    """What is in memory now (RSS); None where the system does not tell."""
    return _figure("VmRSS")


def peak_bytes() -> int | None:
    """The most that was in memory since the process began; None where the system does not tell."""
    return _figure("VmHWM")


def peak_of(work: Callable[[], object]) -> int | None:
    """The most that `work` takes above what was there before it; None where nothing tells."""
    before, highest = resident_bytes(), highest_during(work)
    return None if before is None or highest is None else max(highest - before, 0)


def highest_during(work: Callable[[], object]) -> int | None:
    """The most that is in memory while `work` runs; None where nothing tells.

    resource.getrusage is no help: a child begins with the peak of the process that started it.
    """
    told = RESET.exists()
    if told:
        RESET.write_text("5")  # 5: the peak
    work()
    return peak_bytes() if told else None


def _figure(name: str) -> int | None:
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
