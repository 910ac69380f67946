"""What our commands share: errors become one message and an exit code, never a traceback."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from pgn.errors import PgnError

stderr = Console(stderr=True)


def run(app: typer.Typer) -> None:
    """Run a typer application; user errors leave with their exit code and one message."""
    try:
        app()
    except PgnError as error:
        stderr.print(f"[bold red]error:[/] {_escape(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        stderr.print("stopped")
        sys.exit(130)


def _escape(text: str) -> str:
    return text.replace("[", r"\[")
