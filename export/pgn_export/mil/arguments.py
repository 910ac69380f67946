"""What an operation was given, by the names of coremltools' definitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from pgn import ConversionError
from pgn_export.mil.values import Value

T = TypeVar("T")


class Arguments:
    """Typed access to an operation's inputs; remembers which were asked for.

    Tensors come on `device` (float16 as float32, in which operations compute). On the meta device,
    where only shapes are computed, parameters still have their values.
    """

    def __init__(self, given: Mapping[str, Sequence[Value]], device: str) -> None:
        self._given = given
        self._device = device
        self._asked: set[str] = set()

    def unasked(self) -> set[str]:
        """Inputs that the operation did not look at: it does not do what they say."""
        return self._given.keys() - self._asked

    def has(self, name: str) -> bool:
        return name in self._given

    def tensors(self, name: str) -> list[Tensor]:
        """All values of a variadic input, at least one."""
        self._asked.add(name)
        values = self._given.get(name, ())
        if not values or not all(isinstance(value, Tensor) for value in values):
            raise ConversionError(f"input '{name}' is no tensor")
        return [self._wide(value) for value in values if isinstance(value, Tensor)]

    def tensor(self, name: str) -> Tensor:
        return _only(name, self.tensors(name))

    def optional(self, name: str) -> Tensor | None:
        self._asked.add(name)
        return self.tensor(name) if name in self._given else None

    def integers(self, name: str, default: Sequence[int] | None = None) -> list[int]:
        """A vector of integers, or a default."""
        value = self._known(name)
        if value is None:
            return list(_required(name, default))
        if value.dim() > 1 or value.is_floating_point():
            raise ConversionError(f"input '{name}' is no vector of integers")
        return [int(element) for element in value.reshape(-1).tolist()]

    def flags(self, name: str, default: Sequence[bool] | None = None) -> list[bool]:
        """A vector of truth values, or a default."""
        value = self._known(name)
        if value is None:
            return list(_required(name, default))
        if value.dim() > 1 or value.dtype != torch.bool:
            raise ConversionError(f"input '{name}' is no vector of truth values")
        return [bool(element) for element in value.reshape(-1).tolist()]

    def integer(self, name: str, default: int | None = None) -> int:
        return _only(name, self.integers(name, None if default is None else [default]))

    def flag(self, name: str, default: bool | None = None) -> bool:
        return _only(name, self.flags(name, None if default is None else [default]))

    def number(self, name: str, default: float | None = None) -> float:
        value = self._known(name)
        if value is None:
            return _required(name, default)
        return float(_only(name, value.reshape(-1).tolist()))

    def text(self, name: str, default: str | None = None) -> str:
        self._asked.add(name)
        if name not in self._given:
            return _required(name, default)
        value = _only(name, self._given[name])
        if not isinstance(value, str):
            raise ConversionError(f"input '{name}' is no text")
        return value

    def _known(self, name: str) -> Tensor | None:
        """A parameter's value, or None where it is not given."""
        self._asked.add(name)
        if name not in self._given:
            return None
        value = _only(name, self._given[name])
        if not isinstance(value, Tensor):
            raise ConversionError(f"input '{name}' is a text, expected numbers")
        if value.is_meta:
            raise ConversionError(f"input '{name}' is computed from data, expected a constant")
        return value

    def _wide(self, value: Tensor) -> Tensor:
        dtype = torch.float32 if value.dtype == torch.float16 else value.dtype
        return value.to(device=self._device, dtype=dtype)


def _required(name: str, value: T | None) -> T:
    if value is None:
        raise ConversionError(f"input '{name}' is missing")
    return value


def _only(name: str, values: Sequence[T]) -> T:
    if len(values) != 1:
        raise ConversionError(f"input '{name}' holds {len(values)} values, expected one")
    return values[0]
