"""`pgn-bench fit`: what a step of a fit to a person's photos costs."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress
from rich.table import Table

from pgn import command
from pgn_bench import fit
from pgn_bench.fit import EXACT_LOSSES, LOSSES, Agreement, Seconds, Setting, Work
from pgn_bench.flags import AsJson, Output, Threads, deliver
from pgn_bench.results import Result, Row, machine_name
from pgn_bench.timing import Timing, machine
from pgn_export.choices import parse_names
from pgn_runtime.apart import peak_apart
from pgn_runtime.artifact import MANIFEST
from pgn_runtime.pack import read_pack

RUNTIMES = {"onnxruntime": "ONNX Runtime", "litert": "LiteRT"}
OF_EXACT = "onnxruntime"  # runs packs that follow exact losses


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
    """Time and memory of a step: packs on their runtimes, PyTorch along other losses, and packs
    that follow exact losses in ONNX Runtime, which are made first, a minute each.
    """
    chosen = parse_names("--losses", losses, LOSSES)
    settings = {pack: _setting(pack, generator, photos, threads) for pack in packs}
    with tempfile.TemporaryDirectory() as folder, Progress(console=command.stderr) as progress:
        ways = list(_ways(settings, chosen, Path(folder), progress))
        timings = _timed(ways, rounds, progress)
        peaks = [peak_apart(way.prepare) for way in progress.track(ways, description="memory")]
        compared = {
            way.name: fit.agreement(way.setting, way.pack, way.runtime, steps)
            for way in progress.track(ways, description="agreement")
            if way.pack in settings
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
        microbatch=opened.microbatch,
    )
    fit.check_pack(setting, pack)
    return setting


def _ways(
    settings: Mapping[Path, Setting], losses: Sequence[str], folder: Path, progress: Progress
) -> Iterator[Way]:
    """Packs on each of their runtimes that can run here; packs of exact losses, made in `folder`;
    PyTorch."""
    for pack, setting in settings.items():
        for backend in read_pack(pack).suffixes:
            if backend in RUNTIMES:
                yield _on_device(pack, setting, setting.network, backend)
    asked = list(product({s.preset: s for s in settings.values()}.values(), losses))
    exact = [(setting, loss) for setting, loss in asked if loss in EXACT_LOSSES]
    for setting, loss in progress.track(exact, description="packing exact losses"):
        made = fit.pack_exact(setting, loss, folder)
        yield _on_device(made, setting, f"exact {loss}", OF_EXACT)
    for setting, loss in asked:
        yield from _in_pytorch(setting, loss)


def _on_device(pack: Path, setting: Setting, provider: str, backend: str) -> Way:
    """A pack on one of its runtimes."""
    run = fit.on_device(setting, pack, backend)
    prepare = partial(fit.memory_on_device, setting, pack, backend)
    return Way(setting, provider, backend, run, prepare, pack)


def _in_pytorch(setting: Setting, loss: str) -> list[Way]:
    """All photos at once, and as few at a time as the pack takes."""
    provider = {"pgn": setting.network, "mse": "mse"}.get(loss, f"exact {loss}")
    found = []
    for own in (replace(setting, microbatch=None), setting):
        runtime = f"torch, {own.microbatch} at a time" if own.microbatch else "torch"
        run, prepare = fit.in_pytorch(own, loss), partial(fit.memory_in_pytorch, own, loss)
        found.append(Way(own, provider, runtime, run, prepare))
    return found


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
        runtime = RUNTIMES.get(row.runtime, row.runtime.replace("torch", "PyTorch"))
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
