"""`pgn-export`: artifacts for mobile runtimes, each proved equal to the network."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

import pgn
from pgn import ConversionError, GateError, MissingExtraError, PgnError, command
from pgn_export.avatar_cli import avatar_command
from pgn_export.choices import parse_names
from pgn_export.conformance_cli import conformance_command
from pgn_export.doctor import diagnose, machine
from pgn_export.exporting import DTYPES, TARGETS, ExportResult, check_combination, convert
from pgn_export.parity import DISTANCES, Figures
from pgn_export.sizes import parse_sizes
from pgn_export.source import Options, Source
from pgn_export.verify import verify

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command(name="avatar")(avatar_command)
app.command(name="conformance")(conformance_command)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]


@app.callback(invoke_without_command=True)
def export_command(
    context: typer.Context,
    target: Annotated[str, typer.Option(help="onnx, tflite, coreml, a comma list, or all.")] = "",
    dtype: Annotated[str, typer.Option(help="fp32, fp16, int8, a comma list, or all.")] = "fp32",
    size: Annotated[str, typer.Option(help="Pixels: 256, HEIGHTxWIDTH, or a comma list.")] = "256",
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder.")] = Path("exports"),
    checkpoint: Annotated[str, typer.Option(help="Bundled name or file.")] = "pgn-lite",
    batch: Annotated[int, typer.Option(min=1, help="Images in one call.")] = 1,
    dynamic: Annotated[bool, typer.Option("--dynamic", help="Any batch and size.")] = False,
    cached_target: Annotated[
        bool,
        typer.Option(
            "--cached-target", help="Two graphs: the target's features are computed once a target."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Export a checkpoint and measure that every artifact gives the network's gradient."""
    if context.invoked_subcommand:
        return
    if not target:
        raise PgnError(
            f"--target: none given, expected one of {', '.join(TARGETS)}, a comma list, or all; "
            f"or a command: avatar, conformance, verify, doctor, import."
        )
    targets = parse_names("--target", target, TARGETS)
    dtypes = parse_names("--dtype", dtype, DTYPES)
    net, name = pgn.load(checkpoint), Path(checkpoint).stem
    sources = [
        Source(net, name, Options(shape, batch, dynamic, cached_target))
        for shape in parse_sizes(size)
    ]
    for source in sources:  # all of it is checked before the work
        source.check()
        for chosen in targets:
            for precision in dtypes:
                check_combination(chosen, precision, source.options)
    results, failures = _convert_all(sources, targets, dtypes, output)
    if as_json:
        typer.echo(json.dumps([_plain(result) for result in results], indent=2))
    elif results:
        _print(results, output)
    for failure in failures[1:]:
        command.stderr.print(f"error: {failure}", markup=False, soft_wrap=True)
    if failures:
        raise failures[0]


@app.command(name="verify")
def verify_command(
    folder: Annotated[Path, typer.Argument(help="Of artifacts and their manifest.json.")],
    as_json: Json = False,
) -> None:
    """Hash every artifact again and run it on its test vectors; exit code 4 where one differs."""
    verdicts = verify(folder)
    if as_json:
        typer.echo(json.dumps([asdict(verdict) for verdict in verdicts], indent=2))
    else:
        table = Table("file", _DISTANCES, "verdict")
        for verdict in verdicts:
            figures = _cosines(verdict.parity)
            table.add_row(verdict.name, figures, verdict.problem or "as its manifest says")
        command.stdout().print(table)
    if differ := [verdict.name for verdict in verdicts if verdict.problem]:
        raise GateError(f"verify: {', '.join(differ)} differ from the manifest. Export them again.")


@app.command(name="doctor")
def doctor_command(as_json: Json = False) -> None:
    """What works on this machine, which versions, and the install lines of what is missing."""
    found = diagnose()
    if as_json:
        typer.echo(json.dumps({**machine(), "targets": [asdict(row) for row in found]}, indent=2))
        return
    typer.echo(", ".join(f"{name} {value}" for name, value in machine().items()))
    table = Table("target", "works", "versions", "proved in", "advice")
    for row in found:
        shown = "\n".join(f"{name} {number}" for name, number in row.versions.items())
        works = "yes" if row.works else "no"
        table.add_row(row.target, works, shown, "\n".join(row.proved_in), row.advice)
    command.stdout().print(table)


@app.command(name="import")
def import_command(
    old: Annotated[Path, typer.Argument(help="Official .pth of version 0, 1 or 2.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="New .safetensors file.")],
    head: Annotated[
        str | None, typer.Option(help="Of versions 0 and 1, which do not record theirs.")
    ] = None,
) -> None:
    """Convert an official checkpoint once, without running code in it."""
    net = pgn.load(old, head=head)
    typer.echo(pgn.save(net, output))


def _convert_all(
    sources: list[Source], targets: list[str], dtypes: list[str], output: Path
) -> tuple[list[ExportResult], list[PgnError]]:
    """What succeeded and what failed: one failure does not hold up the others."""
    results: list[ExportResult] = []
    failures: list[PgnError] = []
    wanted = [(s, target, dtype) for s in sources for target in targets for dtype in dtypes]
    for source, target, dtype in wanted:
        command.stderr.print(
            f"{target} {dtype} {source.shown_size}: converting and measuring, unless up to date"
        )
        try:
            results.append(convert(source, target, dtype, output))
        except (ConversionError, GateError, MissingExtraError) as error:
            failures.append(error)
    return results, failures


def _plain(result: ExportResult) -> dict[str, object]:
    return {
        "target": result.target,
        "dtype": result.dtype,
        "path": str(result.path),
        "files": [str(path) for path in result.files],
        "seconds": round(result.seconds, 2),
        "bytes": sum(_bytes(path) for path in result.files),
        "parity": [asdict(figures) for figures in result.parity],
        "manifest": result.manifest,
    }


_DISTANCES = f"cosine {' / '.join(DISTANCES)}"


def _print(results: list[ExportResult], output: Path) -> None:
    table = Table("file", "MB", "seconds", _DISTANCES, "relative L2", "gate")
    table.columns[0].no_wrap = True  # names are what one copies
    for result in results:
        errors = _per_runtime(result.parity, lambda row: f"{row.relative_l2:.0e}")
        table.add_row(
            "\n".join(path.name for path in result.files),
            "\n".join(f"{_bytes(path) / 1e6:.2f}" for path in result.files),
            f"{result.seconds:.1f}",
            _cosines(result.parity),
            errors,
            "\n".join(f"passed in {name}" for name in _runtimes(result.parity)),
        )
    command.stdout().print(table)
    typer.echo(f"Next: pgn-export verify {output}")
    runnable = [result.path for result in results if result.target != "coreml"]
    if runnable:
        typer.echo(f"      python -m pgn_runtime {runnable[0]} START.png TARGET.png -o fitted")


def _cosines(parity: list[Figures]) -> str:
    return _per_runtime(parity, lambda row: f"{row.cosine:.5f}")


def _per_runtime(parity: list[Figures], show: Callable[[Figures], str]) -> str:
    return "\n".join(
        " / ".join(show(row) for row in parity if row.runtime == name) for name in _runtimes(parity)
    )


def _runtimes(parity: list[Figures]) -> list[str]:
    return list(dict.fromkeys(row.runtime for row in parity))


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(file.stat().st_size for file in files)


def main() -> None:
    """Entry point of `pgn-export`."""
    command.run(app)


if __name__ == "__main__":
    main()
