"""The commands' entry points: each imports its package when called, so that a missing extra is
told in one line instead of a traceback. It lies here because the runtime is always installed."""

from __future__ import annotations

import sys
from importlib import import_module


def train() -> None:
    """`pgn-train`."""
    _start("pgn.distill.cli", "train")


def evaluate() -> None:
    """`pgn-eval`."""
    _start("pgn.evaluate.cli", "train")


def export() -> None:
    """`pgn-export`."""
    _start("pgn_export.cli", "export")


def bench() -> None:
    """`pgn-bench`."""
    _start("pgn_bench.cli", "bench")


def _start(module: str, extra: str) -> None:
    try:
        import_module(module).main()
    except ModuleNotFoundError as error:
        print(
            f'error: {error.name} is not installed. Install it: pip install "pgn-edge[{extra}]"',
            file=sys.stderr,
        )
        sys.exit(5)
    except KeyboardInterrupt:  # while it imports; later the command tells it itself
        print("stopped", file=sys.stderr)
        sys.exit(130)
