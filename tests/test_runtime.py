"""The runtime without torch: closed form, Adam, fitting, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_close
from numpy.typing import NDArray

import pgn_runtime.backends
from pgn.model import closed_form as reference_closed_form
from pgn_runtime import Artifact, FitOptions, MissingBackendError, RuntimeInputError, fit_pixels
from pgn_runtime.__main__ import main
from pgn_runtime.adam import Adam
from pgn_runtime.backends import Arrays, Session
from pgn_runtime.files import read_image, sha256, write_image
from pgn_runtime.gradient import closed_form, mean_squared

Pixels = NDArray[np.float32]


def images(count: int) -> list[Pixels]:
    random = np.random.default_rng(0)
    return list(random.random((count, 2, 3, 32, 40), dtype=np.float32))


def _halfway(inputs: Arrays, outputs: Arrays | None = None) -> dict[str, Pixels]:
    return {"proxy": (inputs["generated"] + inputs["target"]) * np.float32(0.5)}


def artifact(shape: tuple[int | None, ...] = (None, 3, None, None)) -> Artifact:
    """A stand-in graph whose proxy lies halfway to the target."""
    session = Session(_halfway, dict.fromkeys(("generated", "target"), shape), ("proxy",), "none")
    return Artifact(Path("none.onnx"), session, alpha=40.0)


def test_importing_the_runtime_and_its_backends_loads_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, pgn_runtime, pgn_runtime.__main__, pgn_runtime.backends.onnxruntime\n"
        "import pgn_runtime.backends.litert, onnxruntime, ai_edge_litert.interpreter\n"
        "bad = {'torch', 'pgn', 'pgn_export', 'tensorflow'} & set(sys.modules)\n"
        "sys.exit(f'loaded {bad}' if bad else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_closed_form_is_the_networks() -> None:
    generated, target, proxy = images(3)
    a, b, c = (torch.from_numpy(image).double() for image in (generated, target, proxy))
    wanted = reference_closed_form(a, b, c, 40.0, 20.0)
    found = closed_form(generated, target, proxy, 40.0, 20.0)
    assert found.dtype == np.float32
    assert_close(found, wanted, 1e-6)


def test_closed_form_is_the_slope_of_both_mean_squares() -> None:
    generated, target, proxy = (image[:1] for image in images(3))
    direction = np.random.default_rng(1).choice([-1, 1], generated.shape).astype(np.float32)
    step = np.float32(1 / 256) * direction
    rise = [
        40.0 * mean_squared(moved, proxy) + 2.0 * mean_squared(moved, target)
        for moved in (generated + step, generated - step)
    ]
    slope = (rise[0] - rise[1]) * 128  # exact for a quadratic, but for rounding
    gradient = closed_form(generated, target, proxy, 40.0, 2.0)
    assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-4)


def test_adam_is_torchs() -> None:
    start, *gradients = images(6)
    parameter = start.copy()
    reference = torch.from_numpy(start.copy()).double().requires_grad_()
    ours = Adam(parameter.shape, 0.01)
    theirs = torch.optim.Adam([reference], lr=0.01)
    for gradient in gradients:
        scaled = (gradient - 0.5) * 1e-5  # the size of an image's gradient
        ours.step(parameter, scaled)
        reference.grad = torch.from_numpy(scaled).double()
        theirs.step()
    assert_close(parameter, reference.detach(), 1e-5)


def test_fit_goes_to_the_target_and_reports_every_step() -> None:
    generated, target = images(2)
    seen: list[int] = []
    options = FitOptions(steps=60, learning_rate=0.02, keep_every=25)
    before = generated.copy()
    report = fit_pixels(artifact(), generated, target, options, lambda step, mse: seen.append(step))
    assert np.array_equal(generated, before), "the start was changed"
    assert seen == list(range(1, 61)) and len(report.mse) == 60
    assert [step for step, _ in report.kept] == [0, 25, 50, 60]
    assert np.abs(report.image - target).mean() < 0.1 * np.abs(generated - target).mean()
    assert report.mse[-1] < 0.05 * report.mse[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda image: image * 255, "0..255, divide by 255"),
        (lambda image: image * np.float32(np.nan), "from nan to nan.*diverged"),
        (lambda image: image[0], "got shape"),
        (lambda image: image[:, :, :20], "at least 32"),
        (lambda image: image[..., :-4], "expected that of generated"),
    ],
)
def test_what_is_no_image_is_refused(change: object, message: str) -> None:
    generated, target = images(2)
    assert callable(change)
    with pytest.raises(RuntimeInputError, match=message):
        artifact().proxy(generated, change(target))


def test_a_fixed_size_is_named_with_the_way_out() -> None:
    generated, target = images(2)
    with pytest.raises(RuntimeInputError, match=r"expected \(1, 3, 64, 64\).*pgn-export --size"):
        artifact((1, 3, 64, 64)).proxy(generated, target)


@pytest.mark.parametrize("field", ["steps", "learning_rate", "keep_every", "mse_weight"])
def test_fit_options_are_validated(field: str) -> None:
    with pytest.raises(RuntimeInputError, match=field):
        FitOptions(**{field: -1})


def test_pictures_survive_a_round_trip(tmp_path: Path) -> None:
    image = np.round(images(1)[0][:1] * 255) / np.float32(255)
    write_image(tmp_path / "new" / "picture.png", image)
    assert_close(read_image(tmp_path / "new" / "picture.png"), image, 1e-6)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["picture.png"]


@pytest.mark.parametrize("name", ["model.onnx", "model.tflite"])
def test_a_file_that_is_no_graph_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"no graph")
    with pytest.raises(RuntimeInputError, match="refuses"):
        pgn_runtime.backends.load(tmp_path / name, 1)


@pytest.mark.parametrize(
    ("name", "message"), [("model.h5", r"\.onnx, \.tflite, \.mlpackage"), ("gone.onnx", "no file")]
)
def test_unknown_and_missing_models_are_refused(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "model.h5").touch()
    with pytest.raises(RuntimeInputError, match=message):
        pgn_runtime.backends.load(tmp_path / name, 1)


@pytest.mark.parametrize(
    ("module", "name", "extra"),
    [
        ("onnxruntime", "m.onnx", "onnxruntime"),
        ("ai_edge_litert.interpreter", "m.tflite", "litert"),
    ],
)
def test_a_missing_runtime_gives_the_install_line(
    module: str, name: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).touch()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingBackendError, match=rf'pip install "pgn-edge\[{extra}\]"') as caught:
        pgn_runtime.backends.load(tmp_path / name, 1)
    assert caught.value.exit_code == 5


def test_the_command_reports_errors_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(tmp_path / "gone.onnx"), "a.png", "b.png", "-o", str(tmp_path)]
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: model: no file")


def test_a_manifest_of_another_schema_is_refused(tmp_path: Path) -> None:
    from pgn_runtime.artifact import read_entry, read_manifest

    (tmp_path / "m.onnx").write_bytes(b"x")
    with pytest.raises(RuntimeInputError, match="does not list m.onnx"):
        read_entry(tmp_path / "m.onnx")
    entry = {"sha256": sha256(tmp_path / "m.onnx"), "alpha": 40.0}
    for change in ({"alpha": -40}, {"alpha": "x"}, {"alpha": None}):
        manifest = {"schema": 1, "artifacts": {"m.onnx": {**entry, **change}}}
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(RuntimeInputError, match="no valid entry for m.onnx"):
            read_entry(tmp_path / "m.onnx")
    manifest = {"schema": 1, "artifacts": {"m.onnx": entry}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert read_entry(tmp_path / "m.onnx")
    (tmp_path / "m.onnx").write_bytes(b"y")
    with pytest.raises(RuntimeInputError, match="changed after its export"):
        read_entry(tmp_path / "m.onnx")
    (tmp_path / "manifest.json").write_text('{"schema": 9, "artifacts": {}}')
    with pytest.raises(RuntimeInputError, match="schema 9"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(RuntimeInputError, match="not readable"):
        read_manifest(tmp_path)


def test_the_targets_features_are_computed_when_the_target_changes() -> None:
    shape: tuple[int | None, ...] = (None, 3, None, None)
    seen = []

    def features(inputs: Arrays, outputs: Arrays | None = None) -> dict[str, Pixels]:
        seen.append(inputs["target"])
        return {"half": inputs["target"] * np.float32(0.5)}

    def proxy(inputs: Arrays, outputs: Arrays | None = None) -> dict[str, Pixels]:
        return {"proxy": inputs["generated"] * np.float32(0.5) + inputs["half"]}

    cached = Artifact(
        Path("none.onnx"),
        Session(proxy, {"generated": shape}, ("proxy",), "none"),
        40.0,
        Session(features, {"target": shape}, ("half",), "none"),
    )
    generated, target, other = images(3)
    for image in (target, target.copy(), other, target):
        assert_close(cached.proxy(generated, image), artifact().proxy(generated, image), 1e-6)
    assert len(seen) == 3, "computed at every call, or kept for another target"
    target += np.float32(0.1)  # in place: the same array, other pixels
    assert_close(cached.proxy(generated, target), artifact().proxy(generated, target), 1e-6)
