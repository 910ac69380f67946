"""Peak memory of a piece of work: a process of its own does it and watches itself.

resource.getrusage is no help: a child begins with the peak of the process that started it. Linux
tells the peak of a process since it was last reset, in /proc. pgn_runtime.apart does the same for
what runs without torch; pgn does not import pgn_runtime.
"""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from pgn.errors import PgnError

Work = Callable[[], object]

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# freed blocks go back to the system at once, else they would hide what the work allocates
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def peak_memory(prepare: Callable[[], Work]) -> int:
    """Bytes that a piece of work takes above the process that is ready for it.

    Args:
        prepare: makes ready and gives the work; picklable, it is called in the new process.

    Raises:
        PgnError: preparing or working fails there, or the system does not tell.
    """
    done = subprocess.run(
        [sys.executable, "-m", "pgn.memory"],
        input=pickle.dumps(prepare),
        capture_output=True,
        env=os.environ | ENVIRONMENT,
    )
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        reason = last[0] if last else f"the process ended with {done.returncode}"
        raise PgnError(f"memory: it cannot be measured ({reason}). Linux alone tells it.")
    return int(done.stdout.split()[-1])


def _watch() -> None:
    """What the child does: `prepare` comes by stdin, bytes go to stdout."""
    work = pickle.load(sys.stdin.buffer)()
    before = _resident("VmRSS")
    RESET.write_text("5")  # 5: the peak
    work()
    print(_resident("VmHWM") - before)


def _resident(name: str) -> int:
    """A figure of /proc/self/status, bytes."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    assert found, f"{STATUS} tells no {name}"
    return 1024 * int(found[1])


if __name__ == "__main__":
    _watch()
