"""`pgn-bench`: what a perceptual gradient and its training cost."""

from __future__ import annotations

from importlib import import_module

import typer

from pgn import MissingExtraError, command

COMMANDS = {  # and the modules of their functions, {name}_command
    "gradient": "pgn_bench.gradient_cli",
    "operators": "pgn_bench.operators_cli",
    "scaling": "pgn_bench.scaling_cli",
    "fit": "pgn_bench.fit_cli",
    "train": "pgn_bench.train_cli",
    "front": "pgn_bench.front_cli",
    "serve": "pgn_bench.serve.cli",
    "phone": "pgn_bench.phone_cli",
    "report": "pgn_bench.report.cli",
}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def bench() -> None:
    """What a perceptual gradient and its training cost."""


def _add(name: str, module: str) -> None:
    """A command whose packages are missing says so when it is called; the others work."""
    try:
        app.command(name)(getattr(import_module(module), f"{name}_command"))
    except ModuleNotFoundError as error:
        package = (error.name or name).partition(".")[0]
        if package.startswith("pgn"):
            raise

        @app.command(
            name, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
        )
        def missing() -> None:
            """Needs packages that are not installed: the extra `bench`."""
            raise MissingExtraError(package, "bench")


for _name, _module in COMMANDS.items():
    _add(_name, _module)


def main() -> None:
    """Entry point of `pgn-bench`."""
    command.run(app)
