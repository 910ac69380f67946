"""Errors that a user can cause; `exit_code` is what a command leaves with."""

from __future__ import annotations


class RuntimeInputError(ValueError):
    """Bad input: the message says what came, what was expected and the way out."""

    exit_code = 2


class MissingBackendError(RuntimeInputError):
    """The runtime that an artifact needs is not installed; the message holds the install line."""

    exit_code = 5

    def __init__(self, package: str, extra: str) -> None:
        self.package = package
        super().__init__(f'{package} is not installed. Install it: pip install "pgn-edge[{extra}]"')
