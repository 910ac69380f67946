"""`pgn-bench`: what a perceptual gradient and its training cost."""

from __future__ import annotations

import typer

from pgn import command
from pgn_bench.front_cli import front_command
from pgn_bench.gradient_cli import gradient_command
from pgn_bench.train_cli import train_command

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def bench() -> None:
    """What a perceptual gradient and its training cost."""


app.command("gradient")(gradient_command)
app.command("train")(train_command)
app.command("front")(front_command)


def main() -> None:
    """Entry point of `pgn-bench`."""
    command.run(app)
