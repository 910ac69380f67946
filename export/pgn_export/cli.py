"""`pgn-export`: artifacts for mobile runtimes, each proved equal to the network."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

import pgn
from pgn import ConversionError, GateError, MissingExtraError, PgnError, command
from pgn.errors import unknown_name
from pgn_export.exporting import TARGETS, ExportResult, export
from pgn_export.graph import Size

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(name="export")
def main_command(
    target: Annotated[str, typer.Option(help="onnx, tflite, coreml, a comma list, or all.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder.")] = Path("exports"),
    size: Annotated[str, typer.Option(help="Pixels: 256 or HEIGHTxWIDTH.")] = "256",
    checkpoint: Annotated[str, typer.Option(help="Bundled name or file.")] = "pgn-lite",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Export a checkpoint and measure that every artifact gives the network's gradient."""
    targets, shape = parse_targets(target), parse_size(size)
    net = pgn.load(checkpoint)
    results: list[ExportResult] = []
    failures: list[PgnError] = []
    for chosen in targets:
        command.stderr.print(f"{chosen}: converting and measuring")
        try:
            results.append(export(net, chosen, output, shape, Path(checkpoint).stem))
        except (ConversionError, GateError, MissingExtraError) as error:
            failures.append(error)  # the other targets may well succeed
    if as_json:
        typer.echo(json.dumps([_plain(result) for result in results], indent=2))
    elif results:
        _print(results)
    for failure in failures[1:]:
        command.stderr.print(f"error: {failure}", markup=False, soft_wrap=True)
    if failures:
        raise failures[0]


def parse_targets(text: str) -> list[str]:
    """A comma list or "all" to names of targets, in order, each once."""
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in (*TARGETS, "all"):
            raise unknown_name("--target", name, [*TARGETS, "all"])
    return list(TARGETS) if "all" in names else list(dict.fromkeys(names))


def parse_size(text: str) -> Size:
    """ "256" or "256x192" to height and width."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match:
        raise PgnError(f"--size: got '{text}', expected pixels: 256, or 256x192 (height x width).")
    height = int(match[1])
    return height, int(match[2] or height)


def _plain(result: ExportResult) -> dict[str, object]:
    return {
        "target": result.target,
        "path": str(result.path),
        "seconds": round(result.seconds, 2),
        "bytes": _bytes(result.path),
        "parity": [asdict(figures) for figures in result.parity],
        "manifest": result.manifest,
    }


def _print(results: list[ExportResult]) -> None:
    table = Table("file", "MB", "seconds", "cosine far / mid / near", "relative L2", "gate")
    table.columns[0].no_wrap = True  # names are what one copies
    for result in results:
        cosines = " / ".join(f"{figures.cosine:.5f}" for figures in result.parity)
        errors = " / ".join(f"{figures.relative_l2:.0e}" for figures in result.parity)
        table.add_row(
            result.path.name,
            f"{_bytes(result.path) / 1e6:.2f}",
            f"{result.seconds:.1f}",
            cosines or "not run: needs a Mac",
            errors,
            "passed" if result.parity else "interface, fp32",
        )
    width = None if sys.stdout.isatty() else 125  # of a log or a pipe
    Console(width=width).print(table)
    runnable = [result.path for result in results if result.parity]
    if runnable:
        typer.echo(f"Next: python -m pgn_runtime {runnable[0]} START.png TARGET.png -o fitted")


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(file.stat().st_size for file in files)


def main() -> None:
    """Entry point of `pgn-export`."""
    command.run(app)


if __name__ == "__main__":
    main()
