"""Peak memory of a loss: a process of its own computes one gradient and watches itself.

resource.getrusage is no help: a child begins with the peak of the process that started it. Linux
tells the peak of a process since it was last reset, in /proc.
"""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from pgn import command
from pgn.avatar.guidance import Guidance

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# freed blocks go back to the system at once, else they would hide what the loss allocates
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def peak_memory(build: Callable[[], Guidance], frames: int, size: int) -> int | None:
    """Bytes that guidance takes above its weights, for `frames` images of size x size pixels.

    Features of the target that it keeps are among them. None where it cannot be measured: the
    reason is told on stderr.
    """
    words = [sys.executable, "-m", "pgn.evaluate.heads_memory", str(frames), str(size)]
    done = subprocess.run(
        words, input=pickle.dumps(build), capture_output=True, env=os.environ | ENVIRONMENT
    )
    if done.returncode:
        last = done.stderr.decode().strip().splitlines()[-1:]
        command.stderr.print("memory is not measured:", *last, soft_wrap=True, markup=False)
        return None
    return int(done.stdout)


def _watch() -> None:
    """What the child does: guidance comes by stdin, bytes go to stdout."""
    guidance = pickle.load(sys.stdin.buffer)()
    frames, size = map(int, sys.argv[1:])
    generated, target = torch.rand(2, frames, 3, size, size)
    before = _resident("VmRSS")
    RESET.write_text("5")  # 5: the peak
    for _ in range(2):  # the second with what is kept
        guidance(generated, target)
    print(_resident("VmHWM") - before)


def _resident(name: str) -> int:
    """A figure of /proc/self/status, bytes."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    assert found, f"{STATUS} tells no {name}"
    return 1024 * int(found[1])


if __name__ == "__main__":
    _watch()
