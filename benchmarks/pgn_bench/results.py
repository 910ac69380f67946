"""Result files: what one command measured on one machine, as JSON that a report merges.

They come from other machines, phones and browsers, so nothing in them is trusted: every field is
checked against the types below, sizes are limited, and numbers are finite.
"""

from __future__ import annotations

import json
import shlex
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from pgn.errors import PgnError
from pgn.files import atomic_path

SCHEMA = 1
KINDS = ("gradient", "operators", "scaling", "fit", "train", "phone", "browser")
EXACT = "exact vgg19"  # the provider that all others are held against
MAX_BYTES = 16 * 2**20
MAX_ROWS = 10_000
MAX_TEXT = 2000  # characters of any text
MAX_DEPTH = 8  # of lists and dictionaries inside each other
MAX_ENTRIES = 1000  # of one of those

Plain = dict[str, Any]  # of JSON's own types
Part = TypeVar("Part", "Row", "Result")


@dataclass(frozen=True)
class Row:
    """One provider of a gradient, measured in one setting. Times in milliseconds.

    Fields that are None were not measured.
    """

    provider: str
    runtime: str  # torch, torch.compile, onnxruntime, litert, ...
    device: str  # cpu, cuda, or a phone's
    size: int  # pixels of each side
    batch: int
    threads: int
    dtype: str
    median_ms: float
    p10_ms: float
    p90_ms: float
    calls: int
    cpu_ms: float | None = None  # of all threads, median of a call
    joules: float | None = None  # of the processor, of a call, where the system tells
    load_ms: float | None = None  # from a process's start until it can be called
    peak_bytes: int | None = None  # weights and working memory, highest
    formula_bytes: int | None = None  # weights and live activations, by counting tensors
    file_bytes: int | None = None
    parameters: int | None = None
    macs: int | None = None  # of one call
    cosine: float | None = None  # with the exact gradient of VGG-19
    noisy: bool | None = None  # other programs disturbed it
    details: Plain = field(default_factory=dict)  # what this kind of result has besides


@dataclass(frozen=True)
class Result:
    """All that a report needs of one run."""

    kind: str
    machine: Plain
    rows: list[Row]
    settings: Plain = field(default_factory=dict)
    command: str = field(default_factory=lambda: shlex.join(sys.argv))
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def plain(self) -> Plain:
        """As it is written; what was not measured is left out."""
        rows = [
            {key: value for key, value in asdict(row).items() if value not in (None, {})}
            for row in self.rows
        ]
        return {"schema": SCHEMA, **asdict(self), "rows": rows}


def save(result: Result, path: Path) -> None:
    """Write it, by rename.

    Raises:
        PgnError: it would be refused by `load`, or the folder cannot be written.
    """
    text = json.dumps(result.plain(), indent=2)
    parse(json.loads(text), str(path))
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def load(path: Path) -> Result:
    """Read a result file.

    Raises:
        PgnError: no such file, too large, no JSON, or no result of ours.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise PgnError(f"result: {path} cannot be read ({error.strerror}). Check it.") from None
    if len(content) > MAX_BYTES:
        raise PgnError(f"result: {path} has more than {MAX_BYTES} bytes; it is no result of ours.")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise PgnError(f"result: {path} is no JSON ({error}).") from None
    return parse(value, str(path))


def parse(value: object, source: str) -> Result:
    """A result from parsed JSON; `source` is named in errors.

    Raises:
        PgnError: another schema or kind, a missing, unknown or impossible field.
    """
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise PgnError(f"result: {source} is of no schema {SCHEMA}. Write it with pgn-bench.")
    if value.get("kind") not in KINDS:
        kind = value.get("kind")
        raise PgnError(f"result: {source}: kind {kind!r:.50}, expected one of {', '.join(KINDS)}.")
    rows = value.get("rows")
    if not isinstance(rows, list) or len(rows) > MAX_ROWS:
        raise PgnError(f"result: {source}: rows, expected a list of at most {MAX_ROWS}.")
    found = [_build(Row, row, f"{source}, row {k}") for k, row in enumerate(rows)]
    for k, row in enumerate(found):
        _check_row(row, f"{source}, row {k}")
    rest = {key: part for key, part in value.items() if key != "schema"}
    return _build(Result, rest | {"rows": found}, source)


def _build(kind: type[Part], value: object, source: str) -> Part:
    """A dataclass from a dictionary whose types fit."""
    if not isinstance(value, dict):
        raise PgnError(f"result: {source}: got {type(value).__name__}, expected named fields.")
    types_of = typing.get_type_hints(kind)
    if unknown := [key for key in value if key not in types_of]:
        raise PgnError(
            f"result: {source}: unknown field {unknown[0]!r:.50}. Was it written by a newer "
            f"pgn-bench? Then update this one."
        )
    required = {f.name for f in fields(kind) if f.default is MISSING is f.default_factory}
    if missing := sorted(required - value.keys()):
        raise PgnError(f"result: {source}: field '{missing[0]}' is missing.")
    for name, part in value.items():
        if not _fits(part, types_of[name]):
            raise PgnError(f"result: {source}: {name} is {part!r:.80}, expected {types_of[name]}.")
    return kind(**value)


def _fits(value: object, wanted: Any) -> bool:
    if isinstance(wanted, types.UnionType):
        return any(_fits(value, each) for each in typing.get_args(wanted))
    if wanted is float:
        return _is_number(value)
    if wanted == Plain:
        return isinstance(value, dict) and _is_plain(value)
    if typing.get_origin(wanted) is list:
        return isinstance(value, list)  # of rows, which are checked one by one
    if isinstance(value, bool) and wanted is not bool:
        return False
    return isinstance(value, wanted) and _is_plain(value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and _is_plain(value)


def _is_plain(value: object, depth: int = 0) -> bool:
    """Of JSON's types, finite, and of sane length."""
    if isinstance(value, (dict, list)):
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        small = depth < MAX_DEPTH and len(value) <= MAX_ENTRIES
        return small and all(_is_plain(part, depth + 1) for part in parts)
    if isinstance(value, str):
        return len(value) <= MAX_TEXT
    if isinstance(value, (int, float)):
        return abs(value) < 2**63  # which NaN is not
    return value is None


def _check_row(row: Row, source: str) -> None:
    positive = {"size": row.size, "batch": row.batch, "calls": row.calls, "threads": row.threads}
    for name, count in positive.items():
        if count < 1:
            raise PgnError(f"result: {source}: {name} is {count}, expected at least 1.")
    for name, number in asdict(row).items():
        if name != "cosine" and isinstance(number, (int, float)) and number < 0:
            raise PgnError(f"result: {source}: {name} is {number}, expected no negative number.")
    if not row.p10_ms <= row.median_ms <= row.p90_ms:
        raise PgnError(f"result: {source}: p10, median and p90 are in no order.")
    if row.cosine is not None and not abs(row.cosine) <= 1 + 1e-6:
        raise PgnError(f"result: {source}: cosine is {row.cosine}, expected -1 to 1.")


def setting_of(row: Row) -> tuple[object, ...]:
    """What two rows of one run must share to have a ratio."""
    return row.device, row.size, row.batch, row.threads, str(row.details.get("preset"))


def fastest_exact(rows: Sequence[Row]) -> dict[tuple[object, ...], float]:
    """Milliseconds of exact VGG-19 in its best float32 form, by setting."""
    found: dict[tuple[object, ...], float] = {}
    for row in rows:
        if row.provider == EXACT and row.dtype == "fp32":
            key = setting_of(row)
            found[key] = min(row.median_ms, found.get(key, row.median_ms))
    return found


def machine_name(machine: Mapping[str, Any]) -> str:
    """How tables call a machine: its GPU, or its processor."""
    return str(machine.get("gpu") or machine.get("processor") or "unknown machine")
