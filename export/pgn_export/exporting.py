"""One verb: `export(net, target=...)` converts, proves, and writes the manifest."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pgn
from pgn import GateError, PgnError
from pgn.errors import unknown_name
from pgn.files import check_folder
from pgn_export import coreml, manifest, onnx, parity, proof, tflite, vectors
from pgn_export.chatter import failures
from pgn_export.graph import Conversion, Size
from pgn_export.parity import GATES
from pgn_export.proof import Files
from pgn_export.replacing import move, remove
from pgn_export.source import TARGET_FEATURES, Options, Source
from pgn_runtime.artifact import read_manifest

CONVERTERS: dict[str, ModuleType] = {"onnx": onnx, "tflite": tflite, "coreml": coreml}
TARGETS = tuple(CONVERTERS)
DTYPES = tuple(GATES)
REJECTED = ".rejected"


@dataclass(frozen=True)
class ExportResult:
    """What an export made, and what was measured of it."""

    target: str
    dtype: str
    path: Path  # of the graph that gives the proxy
    manifest: dict[str, Any]  # the entry of this artifact
    seconds: float  # of conversion and proof; near 0 where the artifact was up to date
    parity: list[parity.Figures]
    target_features: Path | None = None  # the target's own graph, with --cached-target
    files: list[Path] = field(default_factory=list)


def export(
    net: pgn.PGN,
    target: str,
    output: str | Path = "exports",
    size: int | Size = 256,
    dtype: str = "fp32",
    **options: Any,
) -> ExportResult:
    """Export a PGN as one artifact and prove that it gives the same gradient.

    Args:
        net: the network; evaluation mode and float32 are taken care of.
        target: onnx | tflite | coreml.
        output: folder of the artifact, its manifest.json, test vectors and MODEL_CARD.md.
        size: side, or height and width, in pixels; at least 32.
        dtype: fp32 | fp16 | int8. Inputs and outputs are float32 always.
        options: `name` (start of the files' names), and the fields of
            `pgn_export.source.Options`: batch, dynamic, cached_target.

    Raises:
        PgnError: unknown target or dtype, impossible size, unwritable folder (exit code 2).
        ConversionError: the converter or the runtime failed (3); nothing is left behind.
        GateError: parity below the gate (4); the artifact is kept with the suffix .rejected.
        MissingExtraError: the converter is not installed (5).
    """
    name = options.pop("name", "pgn")
    shape = (size, size) if isinstance(size, int) else size
    return convert(Source(net, name, Options(shape, **options)), target, dtype, Path(output))


def convert(source: Source, target: str, dtype: str, output: Path) -> ExportResult:
    """`export` of a source that several exports share; up to date artifacts are left as they are.

    Raises:
        as `export`.
    """
    start = time.monotonic()
    check_combination(target, dtype, source.options)
    source.check()
    listed = manifest.check(output)
    files = _files(source, target, dtype, output)
    key = manifest.key(source.fingerprint, target, dtype, CONVERTERS[target].PACKAGES)
    if not manifest.up_to_date(output, files, key):
        _make(source, target, dtype, files, key)
        listed = read_manifest(output)["artifacts"]
    entry = listed[files.proxy.name]
    figures = [parity.Figures(**row) for row in entry["parity"]]
    seconds = time.monotonic() - start
    return ExportResult(
        target, dtype, files.proxy, entry, seconds, figures, files.target_features, files.all
    )


def check_combination(target: str, dtype: str, options: Options) -> None:
    """Refuse what a target does not have.

    Raises:
        PgnError: an unknown target or dtype, or a combination that does not exist.
    """
    if target not in CONVERTERS:
        raise unknown_name("target", target, TARGETS)
    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    if options.dynamic and not CONVERTERS[target].DYNAMIC:
        able = [name for name, module in CONVERTERS.items() if module.DYNAMIC]
        raise PgnError(
            f"--dynamic: {target} has fixed sizes only. Give the sizes that you need, "
            f"--size 256,512x384, or use --target {','.join(able)}."
        )


def _files(source: Source, target: str, dtype: str, output: Path) -> Files:
    stem, suffix = f"{source.name}-{source.shown_size}-{dtype}", CONVERTERS[target].SUFFIX
    if not source.options.cached_target:
        return Files(output / f"{stem}{suffix}")
    return Files(output / f"{stem}-cached{suffix}", output / f"{stem}{TARGET_FEATURES}{suffix}")


def _make(source: Source, target: str, dtype: str, files: Files, key: str) -> None:
    folder = files.proxy.parent
    check_folder(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as temporary:
        with failures(target, folder):
            made = _converted(source, target, dtype, Path(temporary), files)
            figures = proof.measure(made, target, source.cases)
        _judge(figures, dtype, made, files)
        vectors_name = f"{source.name}-{source.shown_size}-test_vectors.safetensors"
        vectors.save(source.cases, folder / vectors_name)
        details = manifest.Details(
            source, target, dtype, key, vectors_name, CONVERTERS[target].PACKAGES
        )
        entries = manifest.describe(details, made, figures)
        for path, final in zip(made.all, files.all, strict=True):
            move(path, final)
            remove(final.with_name(final.name + REJECTED))  # of an earlier, failed export
    manifest.add(folder, entries)
    remove(folder / f"{target}.log")


def _converted(source: Source, target: str, dtype: str, temporary: Path, files: Files) -> Files:
    """Every graph of `source` in a temporary folder, under its final name."""
    made = replace(
        files,
        proxy=temporary / files.proxy.name,
        target_features=files.target_features and temporary / files.target_features.name,
    )
    for (suffix, graph), path in zip(source.graphs.items(), made.all, strict=True):
        embedded = manifest.embedded(source, suffix, dtype)
        CONVERTERS[target].export(Conversion(graph, dtype, embedded), path)
    return made


def _judge(figures: list[parity.Figures], dtype: str, made: Files, files: Files) -> None:
    gate = GATES[dtype]
    failed = [row for row in figures if not row.passes(gate)]
    if not failed:
        return
    kept = [path.with_name(path.name + REJECTED) for path in files.all]
    for path, rejected in zip(made.all, kept, strict=True):
        move(path, rejected)
    worst = min(failed, key=lambda row: row.cosine)
    raise GateError(
        f"parity: {files.proxy.name} gives another gradient than the network: {worst}; expected "
        f"at least {gate.min_cosine}, at most {gate.max_relative_l2}, and 1 +- "
        f"{gate.max_scale_error}. "
        f"It is kept as {kept[-1]}; do not use it."
    )
