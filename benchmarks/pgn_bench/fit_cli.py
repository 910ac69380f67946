"""`pgn-bench fit`: what a step of a fit to a person's photos costs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress
from rich.table import Table

from pgn import command
from pgn_bench import fit
from pgn_bench.fit import LOSSES, Agreement, Seconds, Setting, Work
from pgn_bench.flags import AsJson, Output, Threads, deliver
from pgn_bench.results import Result, Row, machine_name
from pgn_bench.timing import Timing, machine
from pgn_export.choices import parse_names
from pgn_runtime.apart import peak_apart
from pgn_runtime.artifact import MANIFEST
from pgn_runtime.pack import read_pack

RUNTIMES = {"onnxruntime": "ONNX Runtime", "litert": "LiteRT"}


@dataclass(frozen=True)
class Way:
    """One way to fit: a step's time is told by `run`, its memory measured with `prepare`."""

    setting: Setting
    provider: str
    runtime: str
    run: Seconds
    prepare: partial[Work]
    pack: Path | None = None  # of a device's way

    @property
    def name(self) -> str:
        return f"{self.provider}, {self.setting.preset}, {self.runtime}"


def fit_command(
    packs: Annotated[list[Path], typer.Argument(help="Made by pgn-export avatar.")],
    generator: Annotated[
        str, typer.Option(help="That of the packs, for PyTorch: bundled name or file.")
    ] = "avatar-demo",
    losses: Annotated[
        str, typer.Option(help="That PyTorch follows: vgg19, vgg11, pgn, mse, a list, or all.")
    ] = "all",
    photos: Annotated[int, typer.Option(help="Of the person.", min=1, max=64)] = 8,
    threads: Threads = 2,
    rounds: Annotated[int, typer.Option(help=f"Of {fit.STEPS} timed steps.", min=1)] = 5,
    steps: Annotated[
        int, typer.Option(help="After which a pack's fit is compared with PyTorch's.", min=1)
    ] = 50,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Time and memory of a step: packs on their runtimes, and eager PyTorch along other losses."""
    chosen = parse_names("--losses", losses, LOSSES)
    settings = {pack: _setting(pack, generator, photos, threads) for pack in packs}
    with command.stderr.status("opening"):
        ways = [way for pack, setting in settings.items() for way in _on_device(pack, setting)]
        presets = {setting.preset: setting for setting in settings.values()}
        ways += [_in_pytorch(setting, loss) for setting in presets.values() for loss in chosen]
    with Progress(console=command.stderr) as progress:
        timings = _timed(ways, rounds, progress)
        peaks = [peak_apart(way.prepare) for way in progress.track(ways, description="memory")]
        compared = {
            way.name: fit.agreement(way.setting, way.pack, way.runtime, steps)
            for way in progress.track(ways, description="agreement")
            if way.pack
        }
    rows = [_row(way, timings[way.name], peak) for way, peak in zip(ways, peaks, strict=True)]
    agreement = {name: asdict(found) for name, found in compared.items()}
    result = Result("fit", machine(), rows, {"photos": photos, "agreement": agreement})
    deliver(result, output, as_json, partial(_print, compared))


def _setting(pack: Path, generator: str, photos: int, threads: int) -> Setting:
    """What PyTorch needs to do the same as a pack."""
    opened = read_pack(pack)
    manifest = json.loads((pack / MANIFEST).read_text(encoding="utf-8"))
    setting = Setting(
        generator=generator,
        network=manifest["network"]["name"],
        preset=manifest["trainable"]["preset"],
        learning_rate=opened.learning_rate,
        mse_weight=manifest["mse_weight"],
        photos=photos,
        threads=threads,
    )
    fit.check_pack(setting, pack)
    return setting


def _on_device(pack: Path, setting: Setting) -> list[Way]:
    """A pack on each of its runtimes that can run here."""
    return [
        Way(
            setting,
            setting.network,
            backend,
            fit.on_device(setting, pack, backend),
            partial(fit.memory_on_device, setting, pack, backend),
            pack,
        )
        for backend in read_pack(pack).suffixes
        if backend in RUNTIMES
    ]


def _in_pytorch(setting: Setting, loss: str) -> Way:
    provider = {"pgn": setting.network, "mse": "mse"}.get(loss, f"exact {loss}")
    run, prepare = fit.in_pytorch(setting, loss), partial(fit.memory_in_pytorch, setting, loss)
    return Way(setting, provider, "torch", run, prepare)


def _timed(ways: Sequence[Way], rounds: int, progress: Progress) -> dict[str, Timing]:
    task = progress.add_task("rounds", total=rounds)
    runs = {way.name: way.run for way in ways}
    return fit.interleaved(runs, rounds, lambda: progress.advance(task))


def _row(way: Way, timing: Timing, peak: int | None) -> Row:
    return Row(
        provider=way.provider,
        runtime=way.runtime,
        device="cpu",
        size=way.setting.subject.size[0],
        batch=way.setting.photos,
        threads=way.setting.threads,
        dtype="fp32",
        median_ms=timing.median_ms,
        p10_ms=timing.p10_ms,
        p90_ms=timing.p90_ms,
        calls=timing.calls,
        peak_bytes=peak,
        joules=timing.joules,
        noisy=timing.noisy,
        details={"preset": way.setting.preset},
    )


def _print(compared: Mapping[str, Agreement], result: Result) -> None:
    table = Table("gradient of", "trained", "runtime", "ms a step", "p10", "p90", "J", "MB")
    for row in result.rows:
        times = (row.median_ms, row.p10_ms, row.p90_ms)
        memory = "-" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.0f}"
        runtime = RUNTIMES.get(row.runtime, "PyTorch")
        preset = str(row.details["preset"])
        energy = "-" if row.joules is None else f"{row.joules:.1f}"
        table.add_row(row.provider, preset, runtime, *(f"{t:.0f}" for t in times), energy, memory)
    command.stdout(110).print(table)
    for name, found in compared.items():
        typer.echo(
            f"{name}: after {found.steps} steps weights differ from PyTorch's by "
            f"{found.weights:.1e} ({found.change:.1e} of what the fit changed), images by "
            f"{255 * found.images:.3f}/255"
        )
    typer.echo(f"{machine_name(result.machine)}, {result.settings['photos']} photos, one step")
