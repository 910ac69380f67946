"""Recipes: small TOML files of a run's options, shipped with the package or written by a user."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from importlib.resources.abc import Traversable
from pathlib import Path
from types import GenericAlias, UnionType
from typing import Any, get_type_hints

from pgn.distill.options import RunOptions
from pgn.errors import PgnError, unknown_name
from pgn.files import first_line

_OF_A_RUN = ("data", "output")  # given on the command line
_IN_WORDS = {float: "a number", int: "a whole number", str: "text"}


class Recipes:
    """The recipes of one kind of run.

    Args:
        options: the dataclass whose fields are the settings.
        folder: of the shipped TOML files.
    """

    def __init__(self, options: type[RunOptions], folder: Traversable) -> None:
        hints = get_type_hints(options)
        self._types = {key: kind for key, kind in hints.items() if key not in _OF_A_RUN}
        self._folder = folder
        self.names = tuple(sorted(path.name.removesuffix(".toml") for path in folder.iterdir()))

    def read(self, name_or_path: str) -> dict[str, Any]:
        """The settings of a recipe, each with a known name and the right type.

        Raises:
            PgnError: no such recipe, no TOML, an unknown setting or a value of another type.
        """
        if name_or_path in self.names:
            text = (self._folder / f"{name_or_path}.toml").read_text(encoding="utf-8")
        else:
            text = self._read_file(name_or_path)
        try:
            found = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise PgnError(
                f"recipe: {name_or_path} is no TOML file ({first_line(error)})."
            ) from None
        return {key: self._checked(key, value) for key, value in found.items()}

    def resolve(
        self, name_or_path: str, flags: Mapping[str, Any], settings: Iterable[str]
    ) -> dict[str, Any]:
        """A recipe's settings; over them the flags that were given, and over all `key=value`s.

        Raises:
            PgnError: as `read` and `setting`.
        """
        given = {key: value for key, value in flags.items() if value is not None}
        return self.read(name_or_path) | given | dict(map(self.setting, settings))

    def setting(self, text: str) -> tuple[str, Any]:
        """`key=value` of the command line; the value as in TOML, or bare text.

        Raises:
            PgnError: no `=`, an unknown setting or a value of another type.
        """
        key, equals, value = text.partition("=")
        if not equals:
            raise PgnError(f"--set: got '{text}', expected key=value, as --set batch=24.")
        try:
            parsed = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            parsed = value
        return key, self._checked(key, parsed)

    def _checked(self, key: str, value: Any) -> Any:
        """`value`, if the setting `key` exists and takes values of its type."""
        if key not in self._types:
            raise unknown_name("setting", key, self._types)
        wanted = self._types[key]
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if not _fits(value, wanted):
            expected = _IN_WORDS.get(wanted, str(wanted))
            raise PgnError(f"{key}: got {value!r}, expected {expected}.")
        return value

    def _read_file(self, name_or_path: str) -> str:
        path = Path(name_or_path)
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            if path.suffix:
                raise PgnError(f"recipe: no file {path}. Check the path.") from None
            raise unknown_name("recipe", name_or_path, self.names) from None
        except (OSError, UnicodeDecodeError) as error:
            raise PgnError(f"recipe: {path} cannot be read ({first_line(error)}).") from None


def to_toml(options: RunOptions) -> str:
    """The resolved settings, in the form of a recipe, one a line in the order of the fields."""
    values = {f.name: getattr(options, f.name) for f in fields(options)}
    return "\n".join(
        f"{key} = {_literal(value)}" for key, value in values.items() if value is not None
    )


def _fits(value: Any, wanted: Any) -> bool:
    """Is `value` of the type `wanted`: a class, a union, list[...] or dict[...] of these?"""
    if isinstance(wanted, UnionType):
        return any(_fits(value, kind) for kind in wanted.__args__)
    if isinstance(wanted, GenericAlias):
        *_, inner = wanted.__args__
        items = value.values() if isinstance(value, dict) else value
        return type(value) is wanted.__origin__ and all(_fits(item, inner) for item in items)
    if wanted is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, wanted) and not (wanted is int and isinstance(value, bool))


def _literal(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    if isinstance(value, (int, float)):
        return str(value)
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
