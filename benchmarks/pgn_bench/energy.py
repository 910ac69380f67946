"""Energy of the processor, where Linux tells it (RAPL, Intel and AMD): all of a package, idle part
included. Since 2020 only root may read it. Phones on a cable are being charged: they tell nothing.
"""

from __future__ import annotations

from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


class Meter:
    """Joules since it was made.

    The counters are of microjoules, and begin anew at `max_energy_range_uj`.
    """

    def __init__(self) -> None:
        self.start = _read()

    def joules(self) -> float | None:
        """Of all packages together; None where nothing tells."""
        now = _read()
        if not self.start or now.keys() != self.start.keys():
            return None
        used = [(now[zone] - begun) % (_range(zone) + 1) for zone, begun in self.start.items()]
        return sum(used) / 1e6


def _read() -> dict[Path, int]:
    """Counters of all packages; their parts (cores, memory) are zones inside them."""
    try:
        return {
            zone: int((zone / "energy_uj").read_text())
            for zone in POWERCAP.glob("intel-rapl:*")
            if (zone / "name").read_text().startswith("package")
        }
    except (OSError, ValueError):  # no permission, or no such kernel
        return {}


def _range(zone: Path) -> int:
    return int((zone / "max_energy_range_uj").read_text())
