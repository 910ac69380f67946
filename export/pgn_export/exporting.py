"""One verb: `export(net, target=...)` converts, proves, and writes the manifest."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pgn
from pgn import ConversionError, GateError, MissingExtraError
from pgn.errors import unknown_name
from pgn.files import check_folder, first_line
from pgn_export import coreml, manifest, onnx, parity, tflite
from pgn_export.graph import ProxyGraph, Size, check_size
from pgn_runtime import backends
from pgn_runtime.artifact import read_manifest
from pgn_runtime.errors import MissingBackendError

_TARGETS: dict[str, ModuleType] = {"onnx": onnx, "tflite": tflite, "coreml": coreml}
TARGETS = tuple(_TARGETS)
PARITY_THREADS = 2


@dataclass(frozen=True)
class ExportResult:
    """What an export made, and what was measured of it."""

    target: str
    path: Path
    manifest: dict[str, Any]  # the entry of this artifact
    seconds: float  # of conversion and proof
    parity: list[parity.Figures] = field(default_factory=list)  # empty where nothing can run it


def export(
    net: pgn.PGN,
    target: str,
    output: str | Path = "exports",
    size: int | Size = 256,
    name: str = "pgn",
) -> ExportResult:
    """Export a PGN as one artifact and prove that it gives the same gradient.

    Args:
        net: the network; evaluation mode and float32 are taken care of.
        target: onnx (any batch and size) | tflite | coreml (batch 1, fixed size).
        output: folder of the artifact and its manifest.json.
        size: side, or height and width, in pixels; at least 32.
        name: start of the file's name.

    Raises:
        PgnError: unknown target, impossible size, unwritable folder (exit code 2).
        ConversionError: the converter or the runtime failed (3); nothing is left behind.
        GateError: parity below the gate (4); the artifact is kept with the suffix .rejected.
        MissingExtraError: the converter is not installed (5).
    """
    if target not in _TARGETS:
        raise unknown_name("target", target, TARGETS)
    converter = _TARGETS[target]
    size = (size, size) if isinstance(size, int) else size
    check_size(net, size, available_memory())
    read_manifest(Path(output))  # a broken one is told before the work, not after it
    fixed = size if converter.FIXED_SIZE else None
    shown = f"{size[0]}x{size[1]}" if fixed else "dynamic"
    path = Path(output) / f"{name}-{shown}-fp32{converter.SUFFIX}"

    start = time.monotonic()
    check_folder(path.parent)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        made = Path(folder) / path.name
        with _failures(target, path.parent):
            converter.export(ProxyGraph(net), size, made)
            figures = _prove(net, converter, made, size)
        _reject(figures, made, path)
        entry = manifest.describe(net, made, fixed, figures, converter.PACKAGES)
        _replace(made, path)
        manifest.add(path.parent, path.name, entry)
    _forget_failures(path, target)
    return ExportResult(target, path, entry, time.monotonic() - start, figures)


def available_memory() -> float:
    """Bytes that programs can have, as Linux tells them; infinity where nothing tells."""
    info = Path("/proc/meminfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    found = re.search(r"MemAvailable:\s+(\d+) kB", text)
    return int(found[1]) * 1024.0 if found else float("inf")


def _prove(net: pgn.PGN, converter: ModuleType, made: Path, size: Size) -> list[parity.Figures]:
    if converter is coreml:
        coreml.check(made, size)
        return []
    session = backends.load(made, PARITY_THREADS)
    return parity.measure(net, session.run, size)


def _reject(figures: list[parity.Figures], made: Path, path: Path) -> None:
    failed = [row for row in figures if not row.passed]
    if failed:
        rejected = path.with_name(path.name + ".rejected")
        _replace(made, rejected)
        worst = min(failed, key=lambda row: row.cosine)
        raise GateError(
            f"parity: {path.name} gives another gradient than the network: cosine "
            f"{worst.cosine:.6f}, norm ratio {worst.norm_ratio:.4f} ({worst.distance}), expected "
            f"at least {parity.MIN_COSINE} and 1 +- {parity.MAX_SCALE_ERROR}. "
            f"It is kept as {rejected}; do not use it."
        )


def _forget_failures(path: Path, target: str) -> None:
    """Remove what earlier, failed exports of this artifact left to look at."""
    (path.parent / f"{target}.log").unlink(missing_ok=True)
    rejected = path.with_name(path.name + ".rejected")
    if rejected.is_dir():
        shutil.rmtree(rejected)
    rejected.unlink(missing_ok=True)


def _replace(source: Path, final: Path) -> None:
    """Move `source` to `final`; a folder there is moved aside first, so one of both is whole."""
    if final.is_dir():
        final.replace(source.with_name(f"old-{final.name}"))  # goes with the temporary folder
    source.replace(final)


@contextlib.contextmanager
def _failures(target: str, folder: Path) -> Iterator[None]:
    """Keep the converter's chatter out of the way; say it, and what failed, if it fails."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        try:
            with _redirected(log.fileno()):
                yield
        except MissingExtraError:
            raise
        except MissingBackendError as error:
            raise MissingExtraError(error.package, "export") from None
        except Exception as error:  # converters raise anything
            log.seek(0)
            text = f"{log.read()}\n{type(error).__name__}: {error}\n"
            note = folder / f"{target}.log"
            note.write_text(text, encoding="utf-8")
            raise ConversionError(
                f"{target}: {type(error).__name__}: {first_line(error)} "
                f"The converter's words are in {note}."
            ) from error


@contextlib.contextmanager
def _redirected(descriptor: int) -> Iterator[None]:
    """Send what Python and native code print to `descriptor`."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [(stream, os.dup(stream)) for stream in (1, 2)]
    try:
        for stream, _ in saved:
            os.dup2(descriptor, stream)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, copy in saved:
            os.dup2(copy, stream)
            os.close(copy)
