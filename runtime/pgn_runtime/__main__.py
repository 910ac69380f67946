"""`python -m pgn_runtime MODEL GENERATED TARGET -o DIR`: fit a picture's pixels, without torch."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from pgn_runtime.artifact import Artifact
from pgn_runtime.errors import RuntimeInputError
from pgn_runtime.files import atomic_path, check_folder, read_image, write_image
from pgn_runtime.fit import FitOptions, FitReport, fit_pixels


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    try:
        _fit(_parser().parse_args(arguments))
    except RuntimeInputError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    defaults = FitOptions()
    parser = argparse.ArgumentParser("python -m pgn_runtime", description=__doc__)
    parser.add_argument("model", type=Path, help="exported .onnx or .tflite, manifest beside it")
    parser.add_argument("generated", type=Path, help="picture to start from")
    parser.add_argument("target", type=Path, help="picture to reach, of the same size")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--steps", type=int, default=defaults.steps, help="%(default)s")
    parser.add_argument("--learning-rate", type=float, default=defaults.learning_rate)
    parser.add_argument("--mse-weight", type=float, default=defaults.mse_weight)
    parser.add_argument("--threads", type=int, default=2, help="%(default)s")
    return parser


def _fit(options: argparse.Namespace) -> None:
    check_folder(options.output)
    artifact = Artifact.load(options.model, options.threads)
    generated, target = read_image(options.generated), read_image(options.target)
    settings = FitOptions(options.steps, options.learning_rate, options.mse_weight)

    def show(step: int, mse: float) -> None:
        end = "\n" if step == settings.steps else "\r"
        print(f"  step {step}/{settings.steps}  mse {mse:.4f}", end=end, file=sys.stderr)

    report = fit_pixels(artifact, generated, target, settings, show)
    _write(options.output, report)
    summary = {
        "backend": artifact.session.backend,
        "seconds_per_step": report.seconds / settings.steps,
        "mse_first": report.mse[0],
        "mse_last": report.mse[-1],
    }
    print(json.dumps(summary))


def _write(folder: Path, report: FitReport) -> None:
    write_image(folder / "result.png", report.image)
    write_image(folder / "proxy.png", report.proxy)
    with atomic_path(folder / "fit.npz") as temporary:
        steps = np.array([step for step, _ in report.kept])
        images = np.concatenate([image for _, image in report.kept])
        np.savez(temporary, mse=np.array(report.mse), steps=steps, images=images)


if __name__ == "__main__":
    sys.exit(main())
