"""Export the bundled PGN, follow its gradient without torch, fit an avatar, show it on a page.

Each step is a command that a user could type; this file runs them in order and judges the result
with the true VGG-19 loss, which no step has seen.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image
from rich.console import Console
from rich.progress import track
from skimage import data
from torch import Tensor

import pgn
from pgn import command
from pgn.degrade import blur, from_pil, to_pil
from pgn.files import check_folder, read_image
from pgn.images import centre_crop
from pgn.model import closed_form
from pgn.pages import embed_png, plot_lines, write_page
from pgn.teachers import PerceptualLoss
from pgn_bench.demo.person import Person, fit_person
from pgn_export.parity import GATES
from pgn_runtime import FitOptions

SIZE = 256  # pixels
NAME = f"pgn-lite-{SIZE}x{SIZE}-fp32-cached"  # of the artifacts
BLUR = 4.0  # pixels, of the start
OPTIONS = FitOptions()  # what python -m pgn_runtime does by default
FREE_PIXELS = (
    "Free pixels can reach any target, so MSE alone gets there too; a generator cannot, and there "
    "the choice of loss decides."
)

Gradient = Callable[[Tensor], Tensor]  # (1, 3, H, W) pixels -> (1, 3, H, W)
Judge = Callable[[Tensor], list[float]]  # (N, 3, H, W) pixels -> N true losses

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Run:
    """One way to fit the picture; true losses at the kept steps."""

    name: str
    folder: Path
    seconds_per_step: float
    steps: list[int]
    vgg19: list[float]


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder.")] = Path("demo"),
) -> None:
    """Export, prove, fit on ONNX Runtime and LiteRT, personalise, and write index.html."""
    start = time.monotonic()
    target = centre_crop(from_pil(_photo()), SIZE)
    check_folder(output)
    to_pil(target).save(output / "target.png")
    to_pil(blur(target, BLUR)).save(output / "start.png")

    exports = output / "exports"
    words = ("--target", "all", "--size", SIZE, "--cached-target", "-o", exports)
    listing = _run("pgn_export.cli", *words)
    typer.echo(listing)
    teacher = PerceptualLoss("vgg19")
    features = teacher.features(target[None])

    def exact(image: Tensor) -> Tensor:
        return teacher.gradient(image, features)

    @torch.no_grad()
    def judge(images: Tensor) -> list[float]:
        return [float(teacher(image[None], features)) for image in images]

    runs = [
        _fit("pgn-lite, ONNX Runtime", exports / f"{NAME}.onnx", output, judge),
        _fit("pgn-lite, LiteRT", exports / f"{NAME}.tflite", output, judge),
        _fit_in_torch("VGG-19, exact, in PyTorch", output, judge, exact),
        _fit_in_torch("MSE alone, in PyTorch", output, judge, torch.zeros_like),
    ]
    person = fit_person(output, _run)
    _show(output, runs, exports, person)
    typer.echo(f"{output / 'index.html'} written, {time.monotonic() - start:.0f} s in all")


def _photo() -> Image.Image:
    return Image.fromarray(data.astronaut()).crop((66, 0, 386, 320)).resize((SIZE, SIZE))


def _run(module: str, *arguments: object) -> str:
    """Run `python -m module arguments`; its stdout, or our exit with its code."""
    words = [sys.executable, "-m", module, *map(str, arguments)]
    command.stderr.print("[dim]$ python " + " ".join(words[1:]) + "[/]", soft_wrap=True)
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


def _fit(name: str, model: Path, output: Path, judge: Judge) -> Run:
    folder = output / model.suffix.lstrip(".")
    pictures = (output / "start.png", output / "target.png")
    summary = json.loads(_run("pgn_runtime", model, *pictures, "-o", folder))
    with np.load(folder / "fit.npz") as fitted:
        steps, images = fitted["steps"].tolist(), torch.from_numpy(fitted["images"])
    return Run(name, folder, summary["seconds_per_step"], steps, judge(images))


def _fit_in_torch(name: str, output: Path, judge: Judge, gradient: Gradient) -> Run:
    """The same fit along another gradient plus MSE, in PyTorch, for comparison."""
    folder = output / name.split()[0].rstrip(",")
    folder.mkdir(exist_ok=True)
    start, target = (read_image(output / f"{word}.png")[None] for word in ("start", "target"))
    image = start.clone()
    optimiser = torch.optim.Adam([image], lr=OPTIONS.learning_rate)
    kept, steps, seconds = [start], [0], 0.0
    for step in track(range(1, OPTIONS.steps + 1), name, console=command.stderr):
        begin = time.perf_counter()
        mse = closed_form(image, target, image, 0.0, OPTIONS.mse_weight)
        image.grad = gradient(image) + mse
        optimiser.step()
        seconds += time.perf_counter() - begin
        if step % OPTIONS.keep_every == 0:
            kept.append(image.clone())
            steps.append(step)
    to_pil(image[0]).save(folder / "result.png")
    return Run(name, folder, seconds / OPTIONS.steps, steps, judge(torch.cat(kept)))


def _show(output: Path, runs: list[Run], exports: Path, person: Person) -> None:
    manifest = json.loads((exports / "manifest.json").read_text(encoding="utf-8"))
    pictures = [("start", output / "start.png"), ("target", output / "target.png")]
    pictures += [("proxy target of the start", runs[0].folder / "proxy.png")]
    pictures += [(f"result, {run.name}", run.folder / "result.png") for run in runs]
    for run in runs:
        Console(width=100).print(
            f"{run.name:26} true VGG-19 loss {run.vgg19[0]:.3f} -> {run.vgg19[-1]:.3f}, "
            f"{run.seconds_per_step * 1000:.1f} ms a step",
            highlight=False,
        )
    Console(width=100).print(FREE_PIXELS)
    Console(width=100).print(
        f"avatar fitted to {person.frames} frames: MSE {person.mse_first:.4f} -> "
        f"{person.mse_last:.4f}, {person.steps} steps, {person.seconds:.0f} s, "
        f"{person.megabytes:.0f} MB",
        highlight=False,
    )
    write_page(
        output / "index.html",
        Path(__file__).with_name("page.html"),
        {
            "pictures": [(caption, embed_png(path)) for caption, path in pictures],
            "curve": plot_lines(
                {run.name: (run.steps, run.vgg19) for run in runs}, "step", "true VGG-19 loss"
            ),
            "runs": runs,
            "free_pixels": FREE_PIXELS,
            "person": person,
            "proofs": _proofs(manifest["artifacts"]),
            "options": OPTIONS,
            "version": pgn.__version__,
            "size": SIZE,
            "gate": GATES["fp32"].min_cosine,
        },
    )


def _proofs(artifacts: dict[str, Any]) -> list[tuple[str, str, list[float]]]:
    """File, runtime, and the cosine at every distance."""
    rows: dict[tuple[str, str], list[float]] = {}
    for name, entry in artifacts.items():
        for figures in entry.get("parity", []):
            rows.setdefault((name, figures["runtime"]), []).append(figures["cosine"])
    return [(name, runtime, cosines) for (name, runtime), cosines in rows.items()]


if __name__ == "__main__":
    command.run(app)
