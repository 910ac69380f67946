"""Packs as pgn-export writes them: proved, refused, rejected; fitted by the runtime."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assert_close
from safetensors.numpy import load_file
from torch import Tensor, nn
from typer.testing import CliRunner

import pgn
from pgn import GateError, PgnError
from pgn.avatar import Avatar, GeneratorConfig, save
from pgn.avatar.finetune import FineTuneOptions, fine_tune
from pgn.avatar.guidance import predicted
from pgn_export.cli import app
from pgn_export.fitting import rules, selftest
from pgn_export.fitting.pack import Packing, PackOptions, write
from pgn_export.fitting.subject import Subject, of_avatar, of_generator
from pgn_runtime import Personalizer

pytestmark = pytest.mark.filterwarnings("ignore")  # of the converters

RATE = 2e-3

Packs = Callable[[str], tuple[Packing, Path]]


def tiny_net() -> pgn.PGN:
    torch.manual_seed(3)
    net = pgn.PGN(pgn.PGNConfig("lite", options={"widths": ((4,), (6,), (8,))}))
    for parameter in net.parameters():
        parameter.data.mul_(2)  # residuals that are large enough to tell gradients apart
    return net.eval()


@pytest.fixture(scope="module")
def avatar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a small, untrained avatar at 64 pixels."""
    torch.manual_seed(0)
    made = Avatar(GeneratorConfig(64, (4, 5, 6), 1), (4, 6))
    return save(made, tmp_path_factory.mktemp("avatar") / "small.safetensors")


@pytest.fixture(scope="module")
def subject(avatar: Path) -> Subject:
    return of_avatar(avatar)


@pytest.fixture(scope="module")
def packs(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> Packs:
    """Writes the pack of a preset, two photos at a time, once; its folder is for reading."""

    @cache
    def written(preset: str) -> tuple[Packing, Path]:
        packed = packing(subject, trainable=preset, microbatch=2)
        folder = tmp_path_factory.mktemp(preset) / "me.pgnpack"
        write(packed, ["onnx"], folder)
        return packed, folder

    return written


def packing(subject: Subject, **options: Any) -> Packing:
    return Packing(subject, tiny_net(), "tiny", PackOptions(learning_rate=RATE, **options))


class Painter(nn.Module):
    """No avatar: a picture in, a picture out."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 3, 1)

    def forward(self, condition: Tensor) -> Tensor:
        return torch.sigmoid(self.second(torch.relu(self.first(condition))))


def make_painter() -> nn.Module:
    torch.manual_seed(0)
    return Painter()


def make_number() -> int:
    return 3


@pytest.mark.parametrize("preset", ["all", "last"])
def test_a_packs_fit_is_the_fit_in_pytorch(subject: Subject, preset: str, packs: Packs) -> None:
    """Ten steps on four photos, two at a time; of `last`, styles before it are given."""
    photos, conditions = selftest.examples(subject, 4)
    me = Personalizer.load(packs(preset)[1], threads=1)
    report = me.fit(conditions.numpy(), photos.numpy(), steps=10)

    person = Avatar(GeneratorConfig(64, (4, 5, 6), 1), (4, 6))
    person.generator.load_state_dict(_generator_state(subject, person))
    assert subject.start is not None
    person.embedder.load_state_dict(subject.start.embedder.state_dict())
    wanted = person.eval().person(photos, conditions)
    options = FineTuneOptions(steps=10, learning_rate=RATE, trainable=preset)
    told = fine_tune(wanted, conditions, photos, predicted(tiny_net(), 2.0), options)
    assert_close(np.array(report.mse), np.array(told.mse), 1e-4)
    with torch.no_grad():
        assert_close(me.render(conditions.numpy()), wanted(conditions), 1e-3)


def _generator_state(subject: Subject, avatar: Avatar) -> dict[str, Tensor]:
    """The personal generator's weights under the names of everybody's."""
    own = {name.replace(".block.", "."): v for name, v in subject.generator.state_dict().items()}
    return {name: own[name] for name in avatar.generator.state_dict()}


def test_the_reference_is_thinned_as_the_runtime_thins(packs: Packs) -> None:
    """`Personalizer.load` runs the self-test; here it is seen that the file holds the reference."""
    packed, folder = packs("all")
    manifest = json.loads((folder / "manifest.json").read_text())
    test = load_file(folder / "selftest.safetensors")
    assert_close(test["generated"], packed.reference["generated"], 1e-6)
    for row in manifest["agreement"]:
        assert row["cosine"] > 0.9999 and row["image_error"] < 1e-5
    first = packed.reference["new_sum_of_encoder__0__weight"].flatten()
    kept = first[:: max(1, len(first) // 256)][:256]
    assert_close(test["new_sum_of_encoder__0__weight"], kept, 1e-5)


def test_a_wrong_gradient_is_rejected_and_the_old_pack_stays(
    subject: Subject, packs: Packs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(packs("all")[1], tmp_path / "me.pgnpack"))
    packed = packing(subject, trainable="last")
    before = (folder / "manifest.json").read_bytes()
    wrong = dict(rules.RULES)
    relu = torch.ops.aten.relu.default
    wrong[relu] = (lambda g, out, x: g * -rules.RULES[relu][0](torch.ones_like(g), out, x),)
    with monkeypatch.context() as patch:
        patch.setattr("pgn_export.fitting.tape.RULES", wrong)
        with pytest.raises(GateError, match="another one than PyTorch's"):
            write(packed, ["onnx"], folder)
    assert (folder / "manifest.json").read_bytes() == before
    assert (tmp_path / "me.pgnpack.rejected" / "gradient.onnx").exists()
    write(packed, ["onnx"], folder)
    assert (folder / "manifest.json").read_bytes() != before
    assert not (tmp_path / "me.pgnpack.rejected").exists()


def test_nothing_but_an_older_pack_is_replaced(
    subject: Subject, packs: Packs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is replaced is deleted."""
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "me.jpg").write_bytes(b"photo")
    extended = Path(shutil.copytree(packs("all")[1], tmp_path / "extended.pgnpack"))
    (extended / "notes.txt").write_text("mine")
    (tmp_path / "x.pgnpack.rejected").write_text("mine")
    monkeypatch.chdir(photos)
    for path, message in {
        photos: "holds other files than an older pack, me.jpg",
        photos / "me.jpg": "is a file",
        Path(): "me.jpg",
        extended: "notes.txt",
        tmp_path / "x.pgnpack": "is a file",
    }.items():
        with pytest.raises(PgnError, match=message):
            write(packing(subject), ["onnx"], path)
    assert [path.name for path in photos.iterdir()] == ["me.jpg"]
    assert (extended / "notes.txt").read_text() == "mine"


def test_any_generator_is_packed_by_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    out = tmp_path / "painter.pgnpack"
    words = ["avatar", "--generator", "test_fitting_pack:make_painter", "--size", "32x48"]
    result = CliRunner().invoke(app, [*words, "--trainable", "second.*", "-o", str(out), "--json"])
    assert result.exit_code == 0, result.output
    manifest = json.loads(result.stdout)
    assert manifest["condition"] == "image" and manifest["size"] == [32, 48]
    assert manifest["trainable"]["parameters"] == ["second__weight", "second__bias"]
    assert manifest["graphs"] == ["prefix", "target_features", "gradient", "update", "render"]
    conditions = np.random.default_rng(0).random((2, 3, 32, 48), dtype=np.float32)
    me = Personalizer.load(out, threads=1)
    report = me.fit(conditions, 1 - conditions, steps=3, learning_rate=0.05)
    assert report.mse[-1] < report.mse[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trainable", "lsat"], "Did you mean 'last'"),
        (["--target", "onxx"], "Did you mean 'onnx'"),
        (["--generator", "avatar-dmo"], "avatar-demo"),
        (["--generator", "test_fitting_pack:make_number"], "expected a torch.nn.Module"),
        (["--generator", "test_fitting_pack:make_paiter"], "Did you mean 'make_painter'"),
        (["--generator", "nowhere:f"], "No module named 'nowhere'"),
        (["--size", "64"], "an avatar has its own"),
        (["--generator", "test_fitting_pack:make_painter", "--size", "32,64"], "a pack has one"),
        (["--learning-rate", "0"], "learning_rate: got 0"),
        (["--mse-weight", "nan"], "mse_weight: got nan"),
    ],
)
def test_bad_input_is_refused(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    result = CliRunner().invoke(app, ["avatar", *words, "-o", str(tmp_path / "x.pgnpack")])
    assert isinstance(result.exception, PgnError), result.output
    assert result.exception.exit_code == 2
    assert message in str(result.exception)
    assert not list(tmp_path.iterdir())


def test_a_generator_that_gives_no_image_is_refused(tmp_path: Path) -> None:
    subject = of_generator(nn.Conv2d(3, 4, 1), "four", (32, 32))
    with pytest.raises(PgnError, match="expected an image of the same shape"):
        write(packing(subject), ["onnx"], tmp_path / "x.pgnpack")
    assert not list(tmp_path.glob("*.pgnpack*"))
