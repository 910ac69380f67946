"""`pgn-fit PACK PHOTOS -o PERSON` fits a generator to a person; `pgn-fit render` draws them."""

from __future__ import annotations

import argparse
import io
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pgn_runtime.errors import RuntimeInputError
from pgn_runtime.files import Pixels, atomic_path, check_folder, exists, read_text, write_image
from pgn_runtime.landmarks import draw
from pgn_runtime.locking import locked
from pgn_runtime.pack import BACKENDS, Pack
from pgn_runtime.page import counted, figures, megabytes, strip, write_page
from pgn_runtime.personalizer import Personalizer
from pgn_runtime.photos import CROPS, read_photos, read_pictures, read_poses
from pgn_runtime.state import FILE, StateFile

WEIGHTS, REPORT, PAGE = "me.safetensors", "report.json", "index.html"
BEFORE, AFTER, PREVIEWS = "before.png", "after.png", "previews"
PREVIEW_EVERY = 10  # steps


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # odd file names
    try:
        if words[:1] == ["render"]:
            _render(_render_parser().parse_args(words[1:]))
        else:
            options = _fit_parser().parse_args(words)
            _check_places(options)
            with locked(options.output):
                _fit(options, shlex.join(["pgn-fit", *words]))
    except RuntimeInputError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nstopped. Started again, a fit goes on from its last saved step.", file=sys.stderr)
        return 130
    return 0


def _fit_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "pgn-fit",
        description="Fit a generator to a person's photos. A run that was stopped goes on.",
        epilog="Then draw the person: pgn-fit render --help",
    )
    parser.add_argument("pack", type=Path, help="NAME.pgnpack, made by pgn-export avatar")
    parser.add_argument("photos", type=Path, help="folder of photos, with landmarks.npz")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the person")
    parser.add_argument("--steps", type=int, help="of Adam; default: the pack's, often 50")
    parser.add_argument("--learning-rate", type=float, help="of Adam; default: the pack's")
    parser.add_argument(
        "--backend",
        choices=list(BACKENDS.values()),
        help="that runs the graphs; default: the first of these that is installed",
    )
    parser.add_argument(
        "--threads", type=int, default=2, help="of the backend; default: %(default)s"
    )
    parser.add_argument(
        "--crop",
        choices=list(CROPS),
        default="face",
        help="of each photo: a square around the face, or the central one; default: %(default)s",
    )
    parser.add_argument(
        "--conditions", type=Path, help="folder of pictures, one a photo, for packs without faces"
    )
    parser.add_argument(
        "--save-every",
        type=int,
        default=1,
        metavar="STEPS",
        help="steps that a fit which is stopped may lose; default: %(default)s",
    )
    parser.add_argument("--restart", action="store_true", help="forget the fit in the folder")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser


def _render_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "pgn-fit render", description="Draw a person who was fitted, for new conditions."
    )
    parser.add_argument("person", type=Path, help="folder of the person, written by pgn-fit")
    parser.add_argument("conditions", type=Path, help="folder with landmarks.npz, or of pictures")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--pack", type=Path, help="where the pack is, if it was moved")
    return parser


def _check_places(options: argparse.Namespace) -> None:
    """What is read is in folders. Results do not go there: the next time they would be read."""
    for name in ("photos", "conditions"):
        if not (read := getattr(options, name, None)):
            continue
        if exists(read) and not read.is_dir():
            raise RuntimeInputError(
                f"{name}: got the file {read}, expected a folder of pictures or landmarks.npz, as "
                f"{read.absolute().parent}"
            )
        if _is_same(options.output, read):
            raise RuntimeInputError(
                f"output: {options.output} is the folder of the {name}. Choose another."
            )
    check_folder(options.output)


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # one is missing
        return False


def _fit(options: argparse.Namespace, command: str) -> None:
    folder: Path = options.output
    state = StateFile(folder / FILE, options.save_every, options.restart)
    me = Personalizer.load(options.pack, options.backend, options.threads)
    names, conditions, photos = _read(me.pack, options)
    me.begin(conditions, photos)
    before = me.render(conditions)
    show = _progress(me, me.pack.steps if options.steps is None else options.steps)

    def on_step(step: int, mse: float) -> None:
        show(step, mse)
        if step % PREVIEW_EVERY == 0:
            preview = strip([photos, me.render(conditions)])
            write_image(folder / PREVIEWS / f"{step:04}.png", preview)

    report = me.fit(conditions, photos, options.steps, options.learning_rate, on_step, state)
    if len(report.runtimes) > 1:
        print(
            f"  computed by {', then '.join(report.runtimes)}: bits differ from those of one alone",
            file=sys.stderr,
        )
    after = me.render(conditions)
    for name, drawn in ((BEFORE, before), (AFTER, after)):
        write_image(folder / name, strip([photos, drawn]))
    me.save(folder / WEIGHTS)
    content = {
        "command": command,
        "pack": str(options.pack.resolve()),
        "pack_sha256": me.pack.digest,
        "name": me.pack.name,
        "backend": me.backend,
        "threads": me.threads,
        "learning_rate": options.learning_rate or me.pack.learning_rate,
        "crop": options.crop,
        "photos": names,
        **asdict(report),
    }
    with atomic_path(folder / REPORT) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    write_page(folder / PAGE, content, (photos, before, after))
    if options.json:
        print(json.dumps(content))
    else:
        print(f"{folder / PAGE}: {'; '.join(map(' '.join, figures(content).items()))}")


def _read(pack: Pack, options: argparse.Namespace) -> tuple[list[str], Pixels, Pixels]:
    """Names, conditions and photos."""
    if (options.conditions is None) != (pack.condition == "landmarks"):
        raise RuntimeInputError(
            "conditions: this pack draws faces from landmarks, found in the photos' "
            "landmarks.npz. Leave --conditions out."
            if options.conditions
            else "conditions: this pack draws from pictures. Name their folder: --conditions."
        )
    if options.conditions:
        names, photos = read_pictures(options.photos, pack.size)
        return names, read_pictures(options.conditions, pack.size)[1], photos
    found = read_photos(options.photos, pack.size[0], options.crop)
    for photo in found.skipped:
        print(f"  skipped: {photo}", file=sys.stderr)
    return list(found.names), draw(found.landmarks, pack.size[0]), found.images


def _progress(me: Personalizer, steps: int) -> Callable[[int, float], None]:
    """Tells on stderr how far a fit is: one line that changes, or a line a step in a log."""
    times = [time.perf_counter()]

    def show(step: int, mse: float) -> None:
        times.append(time.perf_counter())
        left = (times[-1] - times[0]) / (len(times) - 1) * (steps - step)
        line = (
            f"  step {step}/{steps}  {times[-1] - times[-2]:.2f} s  MSE {mse:.5f}  "
            f"{megabytes(me.peak_bytes())}  {left:.0f} s left"
        )
        stays = step == steps or not sys.stderr.isatty()
        end, clear = ("\n", "") if stays else ("\r", " " * 8)  # of a longer line before
        print(line + clear, end=end, file=sys.stderr, flush=True)

    return show


def _render(options: argparse.Namespace) -> None:
    _check_places(options)
    report = _report(options.person)
    pack = options.pack or Path(report["pack"])
    if not exists(pack):
        raise RuntimeInputError(
            f"pack: {options.person} was fitted with {pack}, which is not there any more. Say "
            f"where it is: --pack"
        )
    me = Personalizer.load(pack, report["backend"], report["threads"], options.person / WEIGHTS)
    if me.pack.condition == "landmarks":
        names, poses = read_poses(options.conditions, report["crop"])
        # one at a time: a clip has thousands
        conditions: Iterable[Pixels] = (draw(pose[None], me.pack.size[0]) for pose in poses)
    else:
        names, pictures = read_pictures(options.conditions, me.pack.size)
        conditions = (picture[None] for picture in pictures)
    for name, condition in zip(names, conditions, strict=True):
        write_image(options.output / f"{name}.png", me.render(condition))
    print(f"{options.output}: {counted(len(names), 'picture')}")


def _report(person: Path) -> dict[str, Any]:
    """How a person was fitted."""
    path = person / REPORT
    if not exists(path):
        raise RuntimeInputError(
            f"person: no {REPORT} in {person}, expected the folder of a finished fit: pgn-fit PACK "
            f"PHOTOS -o {person}"
        )
    types = {"pack": str, "backend": str, "threads": int, "crop": str}
    try:
        report: dict[str, Any] = json.loads(read_text(path))
        damaged = not all(isinstance(report[key], kind) for key, kind in types.items())
        damaged |= report["crop"] not in CROPS
    except (ValueError, KeyError, TypeError, RecursionError):
        damaged = True
    if damaged:
        raise RuntimeInputError(f"person: {path} is damaged. Fit the person again.")
    return report


if __name__ == "__main__":
    sys.exit(main())
