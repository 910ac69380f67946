"""`pgn-eval`: measure how good a PGN's gradient is."""

from __future__ import annotations

import typer

from pgn import command
from pgn.evaluate.alignment_cli import alignment_command
from pgn.evaluate.dip_cli import dip_command
from pgn.evaluate.heads_cli import heads_command

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def evaluate() -> None:
    """Measure how good a PGN's gradient is."""


app.command("alignment")(alignment_command)
app.command("dip")(dip_command)
app.command("heads")(heads_command)


def main() -> None:
    """Entry point of `pgn-eval`."""
    command.run(app)
