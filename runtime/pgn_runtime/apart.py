"""A function in a process of its own, where the memory it takes is its alone.

What it needs travels as a pickle, what it gives as JSON.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from pgn_runtime.errors import RuntimeInputError
from pgn_runtime.memory import peak_of

# freed blocks go back to the system at once, else they would hide what the function allocates
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


class Crashed(RuntimeInputError):
    """A signal ended the process: what it ran would end this one, too."""


def call_apart(function: Callable[..., Any], *arguments: object) -> Any:
    """What `function` gives in a fresh process; both it and `arguments` can be pickled.

    Raises:
        Crashed: a signal ended that process.
        RuntimeInputError: it failed; with its last words.
    """
    done = subprocess.run(
        [sys.executable, "-m", "pgn_runtime.apart"],
        input=pickle.dumps((function, arguments)),
        capture_output=True,
        env=os.environ | ENVIRONMENT,
    )
    last = "; ".join(done.stderr.decode(errors="replace").strip().splitlines()[-1:])
    if done.returncode < 0:
        raise Crashed(
            f"a process that ran it ended by signal {-done.returncode}; 9 is often too little "
            f"memory. {last:.300}"
        )
    if done.returncode:
        raise RuntimeInputError(f"memory: not measured ({last:.300}).")
    return json.loads(done.stdout.splitlines()[-1])


def peak_apart(prepare: Callable[[], Callable[[], object]]) -> int | None:
    """Bytes that a piece of work takes above the process that is ready for it; None off Linux.

    Args:
        prepare: makes ready and gives the work; can be pickled. Errors as `call_apart`.
    """
    found: int | None = call_apart(_peak, prepare)
    return found


def _peak(prepare: Callable[[], Callable[[], object]]) -> int | None:
    return peak_of(prepare())


if __name__ == "__main__":
    called, given = pickle.load(sys.stdin.buffer)
    print(json.dumps(called(*given)))
