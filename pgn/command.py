"""What our commands share: errors become one message and an exit code, never a traceback."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

INTERRUPTED = 130  # exit code of Ctrl-C, which typer catches

stderr = Console(stderr=True)


def stdout(width: int = 150) -> Console:
    """Where tables go: as wide as the terminal, or `width` characters in a log or a pipe."""
    return Console(width=None if sys.stdout.isatty() else width)


def run(app: typer.Typer) -> None:
    """Run a typer application; user errors leave with their exit code and one message.

    User errors are those with an `exit_code`: PgnError, and pgn_runtime's, which pgn cannot name.
    """
    try:
        app()
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            stderr.print("stopped")
        raise
    except Exception as error:
        code = getattr(error, "exit_code", None)
        if not isinstance(code, int):
            raise
        stderr.print(f"error: {error}", soft_wrap=True, highlight=False, markup=False)
        sys.exit(code)
