"""The alignment suite: who is compared with whom, the one figure, report, page and command."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import photo_folder
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

import pgn
from pgn import PgnError
from pgn.degrade import BESIDE, SUITE, to_pil
from pgn.evaluate import alignment_cli, situations
from pgn.evaluate.alignment import Row, alignment, suite_cosine, with_structure
from pgn.evaluate.alignment_page import write_alignment_page
from pgn.evaluate.alignment_report import Report, cell
from pgn.evaluate.cli import app
from pgn.evaluate.measures import MEASURES
from pgn.evaluate.peers import Pull, exact, mse, predicted
from pgn.evaluate.situations import Situation
from pgn.teachers import PerceptualLoss
from pgn_export.parity import photos


@pytest.fixture(scope="module")
def teacher() -> PerceptualLoss:
    return PerceptualLoss("vgg19")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two photos of 48 pixels in a folder."""
    return photo_folder(tmp_path / "photos", 2, 48)


def row(gradient: str, situation: str, size: int, cosines: list[float]) -> Row:
    return Row(gradient, situation, size, list(range(len(cosines))), {"cosine": cosines})


def test_every_gradient_sees_the_same_images_and_the_truth_is_computed_once(
    teacher: PerceptualLoss, folder: Path
) -> None:
    calls = {"target": 0, "generated": 0}

    def truth(target: Tensor) -> Pull:
        calls["target"] += 1

        def pull(generated: Tensor) -> Tensor:
            calls["generated"] += 1
            return generated - 0.5 * target

        return pull

    others: dict[str, Callable[[Tensor], Pull]] = {
        "same": lambda target: lambda generated: 2 * (generated - 0.5 * target),
        "opposed": lambda target: lambda generated: 0.5 * target - generated,
    }
    where = [
        Situation(situations.degraded, (32, 40)),
        Situation(lambda photo: {"dark": 0.5 * photo - 0.1}, (32,), 1),
    ]
    advanced: list[int] = []
    paths = sorted(folder.iterdir())
    rows = alignment(truth, others, where, paths, lambda: advanced.append(1))
    kinds = len(SUITE | BESIDE)
    assert calls == {"target": 4, "generated": 4 * kinds + 1} and len(advanced) == 4
    assert len(rows) == 2 * (kinds + kinds + 1)
    assert {r.situation for r in rows} == {*SUITE, *BESIDE, "dark"}
    for found in rows:
        sign, norm = (1, 2) if found.gradient == "same" else (-1, 1)
        assert found.photos == ([0] if found.situation == "dark" else [0, 1])
        assert found.values["cosine"] == pytest.approx([sign] * len(found.photos))
        assert found.values["norm ratio"] == pytest.approx([norm] * len(found.photos))


def test_photos_of_one_colour_do_not_count(tmp_path: Path, folder: Path) -> None:
    Image.new("RGB", (48, 48), "green").save(folder / "plain.png")
    assert [path.name for path in with_structure(sorted(folder.iterdir()))] == ["0.png", "1.png"]
    with pytest.raises(PgnError, match="no photo has any structure"):
        with_structure([folder / "plain.png"])
    picture = Image.new("RGB", (64, 64), "green")  # plain in the middle: blur leaves the crop
    picture.putpixel((0, 0), (0, 0, 0))
    picture.save(tmp_path / "corner.png")
    rows = alignment(
        mse, {"mse": mse}, [Situation(situations.degraded, (32,))], [tmp_path / "corner.png"]
    )
    assert "blur 4" not in {found.situation for found in rows}
    with pytest.raises(PgnError, match="every degradation of the suite"):
        suite_cosine(rows, "mse")


def test_a_gradient_that_is_not_finite_is_refused(folder: Path) -> None:
    def broken(target: Tensor) -> Pull:
        return lambda generated: generated / 0

    where = [Situation(situations.degraded, (32,))]
    with pytest.raises(PgnError, match="broken-net: .*NaN or infinite"):
        alignment(mse, {"broken-net": broken}, where, sorted(folder.iterdir()))


def test_the_one_figure_is_the_mean_over_the_suite_at_the_largest_size() -> None:
    cosines = {"blur 1.5": [0.9, 0.7], "blur 4": [0.5, 0.7], "noise 0.1": [0.8, 0.8]}
    cosines |= {"JPEG 10": [0.6, 0.2], "half contrast": [-1.0, -1.0]}
    rows = [row("net", name, 224, values) for name, values in cosines.items()]
    rows += [row("net", name, 128, [0.0, 0.0]) for name in cosines]
    rows += [row("mse", name, 224, [0.1, 0.1]) for name in cosines]
    found = suite_cosine(rows, "net")  # photos: 0.7 and 0.6
    assert found.mean == pytest.approx(0.65)
    assert found.half95 == pytest.approx(1.96 * 0.05)  # sd 0.1/sqrt(2), over sqrt(2)


@pytest.fixture(scope="module")
def measured(
    teacher: PerceptualLoss, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Report, list[Path]]:
    """pgn-lite and MSE on two photos at 32 and 48 pixels."""
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / "a.png", folder / "b.png"]
    for path, photo in zip(paths, photos((48, 48)), strict=False):
        to_pil(photo[0]).save(path)
    both = {"pgn-lite": predicted(pgn.load("pgn-lite")), "mse": mse}
    where = [Situation(situations.degraded, (32, 48))]
    rows = alignment(exact(teacher), both, where, paths)
    names = [path.name for path in paths]
    return Report("vgg19-oxford", names, ["pgn-lite"], ["mse"], {"vgg11": "<none>"}, rows), paths


def test_the_bundled_network_points_much_nearer_than_mse(
    measured: tuple[Report, list[Path]],
) -> None:
    report, _ = measured
    headline = report.headline()
    assert headline["pgn-lite"].mean > 0.7 > 0.45 > headline["mse"].mean


def test_means_can_be_computed_again_from_the_raw_values(
    measured: tuple[Report, list[Path]],
) -> None:
    report, _ = measured
    everything = json.loads(json.dumps(report.everything(), allow_nan=False))
    assert everything["photo_names"] == ["a.png", "b.png"]
    for found in everything["rows"]:
        assert found["photo_indices"] == [0, 1]
        for measure in MEASURES:
            assert found[measure]["mean"] == pytest.approx(np.mean(found["values"][measure]))
    suite = [
        found["cosine"]["mean"]
        for found in everything["rows"]
        if found["size"] == 48 and found["gradient"] == "pgn-lite" and found["situation"] in SUITE
    ]
    assert everything["mean_cosine"]["pgn-lite"]["mean"] == pytest.approx(np.mean(suite))
    assert report.card("pgn-lite")["mean_cosine"] == pytest.approx(np.mean(suite))


def test_the_page_needs_no_other_file_and_shows_every_figure(
    measured: tuple[Report, list[Path]], teacher: PerceptualLoss, tmp_path: Path
) -> None:
    report, paths = measured
    networks = {"pgn-lite": pgn.load("pgn-lite")}
    write_alignment_page(tmp_path / "index.html", report, teacher, networks, paths)
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
    sources = re.findall(r'(?:src|href)="([^"]*)', page)
    inside = [source.startswith(("data:image/png;base64,", "#")) for source in sources]
    assert all(inside) and page.count("data:image/png") == 2 * 6  # two photos, six pictures
    assert page.count("<svg") == 1 and "&lt;none&gt;" in page
    for measure in ("cosine", "sign agreement", "DC bias"):
        for found in report.rows:
            assert cell(found.interval(measure)) in page


def invoke(*words: object) -> Any:
    return CliRunner().invoke(app, ["alignment", *map(str, words)])


@pytest.mark.usefixtures("offline")
def test_the_command_prints_and_writes_what_it_measured(folder: Path, tmp_path: Path) -> None:
    out, card = tmp_path / "out", tmp_path / "card"
    flags = ("--images", folder, "--size", 32, "--situation", "degraded", "--count", 1)
    done = invoke(*flags, "-o", out, "--record", card, "--json")
    assert done.exit_code == 0, done.output
    assert "vgg11 is left out" in done.stderr
    printed = json.loads(done.stdout)
    written = json.loads((out / "alignment.json").read_text(encoding="utf-8"))
    assert printed["mean_cosine"] == written["mean_cosine"] and printed["photos"] == 1
    assert list(printed["mean_cosine"]) == ["pgn-lite", "mse", "vgg19-half"]
    quality = pgn.load(card / "pgn-lite.safetensors").info["quality"]
    assert quality["mean_cosine"] == printed["mean_cosine"]["pgn-lite"]["mean"]
    assert (out / "index.html").stat().st_size > 10_000
    told = invoke(*flags, "-o", out, "--record", card).stdout.splitlines()[-3:]
    wanted = (card / "pgn-lite.safetensors", out / "alignment.json", out / "index.html")
    assert told == list(map(str, wanted))


@pytest.mark.parametrize(
    ("flags", "message"),
    [(("--images", "gone"), "no folder gone"), (("-o", "/proc/none"), "cannot write to /proc")],
)
def test_folders_are_looked_at_before_any_weights(
    flags: tuple[str, ...], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alignment_cli, "PerceptualLoss", lambda *_: pytest.fail("too early"))
    done = invoke("--images", folder, *flags)
    assert isinstance(done.exception, PgnError) and message in str(done.exception)


@pytest.mark.usefixtures("offline")
def test_two_networks_of_one_name_stand_side_by_side(folder: Path, tmp_path: Path) -> None:
    copy = pgn.save(pgn.load("pgn-lite"), tmp_path / "pgn-lite.safetensors")
    flags = ("--images", folder, "--size", 32, "--situation", "degraded", "--count", 1)
    done = invoke(*flags, "--checkpoint", "pgn-lite", "--checkpoint", copy)
    assert done.exit_code == 0, done.output
    assert "alignment.json" not in done.stdout, "nothing was written"
    figures = re.findall(r"^(\S+)  (\S+)$", done.stdout, re.M)
    assert figures[0][0] == figures[1][0] and figures[1][1] == str(copy)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--situation", "degrade"), "Did you mean 'degraded'"),
        (("--peer", "vgg61"), "Did you mean 'vgg16'"),
        (("--peer", "vgg16=gone.safetensors"), "no file gone"),
        (("--record", "card", "--situation", "trajectory"), "expected degraded among them"),
        (
            ("--record", "card", "--checkpoint", "pgn-lite", "--checkpoint", "b/pgn-lite.pth"),
            "expected different names",
        ),
        (("--checkpoint", "pgn-light"), "Did you mean 'pgn-lite'"),
    ],
)
def test_wrong_flags_are_told_before_work_begins(
    flags: tuple[str, ...], message: str, folder: Path
) -> None:
    done = invoke("--images", folder, *flags)
    assert isinstance(done.exception, PgnError)
    assert re.search(message, str(done.exception)), done.exception
