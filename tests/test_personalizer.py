"""Fitting a person: the arithmetic, and what is refused; stopped fits are in test_fit_state.py."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assert_close

pytest.importorskip("onnx", reason="the extra export is not installed")

from packs import (
    GRAPHS,
    RATE,
    SIZE,
    START_SCALE,
    Pixels,
    loaded,
    noise,
    reference,
    seal,
    write_graph,
    write_pack,
)
from safetensors.numpy import load_file

import pgn
from pgn.avatar import Avatar, GeneratorConfig, PersonalGenerator, personalise, trainable
from pgn.avatar.finetune import FineTuneOptions, fine_tune
from pgn.avatar.guidance import predicted
from pgn_export.fitting.names import tensor_name
from pgn_export.fitting.pack import Packing, PackOptions, write
from pgn_export.fitting.subject import Start, Subject
from pgn_runtime import Personalizer, RuntimeInputError
from pgn_runtime.artifact import MANIFEST
from pgn_runtime.state import StateFile

CONDITIONS, PHOTOS = noise(4)


@pytest.mark.parametrize("name", ["pack", "pairs"])
def test_a_fit_is_torchs(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    me = loaded(request.getfixturevalue(name))
    told: list[tuple[int, float]] = []
    report = me.fit(CONDITIONS, PHOTOS, 30, on_step=lambda *step: told.append(step))
    weights, mse = reference(CONDITIONS, PHOTOS, 30)
    assert told == list(enumerate(report.mse, 1)) and report.step == len(report.seconds) == 30
    assert_close(np.array(report.mse), np.array(mse), 1e-6)
    me.save(tmp_path / "me.safetensors")
    found = load_file(tmp_path / "me.safetensors")
    assert found.keys() == {f"value_of_{key}" for key in weights}
    for key, value in weights.items():
        assert_close(found[f"value_of_{key}"], value, 1e-6)
    condition = noise(3, seed=5)[0]
    wanted = found["value_of_scale"] * (condition + found["value_of_tint"])
    assert_close(me.render(condition), wanted + found["value_of_bias"], 1e-6)


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_any_number_of_workers_gives_torchs_fit(threads: int, pack: Path) -> None:
    """Photos are dealt out; each worker's sums are its own, and all count."""
    fits = [Personalizer.load(pack, threads=threads).fit(CONDITIONS, PHOTOS, 10) for _ in range(2)]
    assert fits[0].mse == fits[1].mse, "not deterministic"
    _, wanted = reference(CONDITIONS, PHOTOS, 10)
    assert_close(np.array(fits[0].mse), np.array(wanted), 1e-6)


def test_epsilon_is_that_of_the_mean_of_all_photos(pairs: Path, tmp_path: Path) -> None:
    """Gradients of 1e-8, as large as Adam's epsilon."""
    conditions, photos = CONDITIONS * np.float32(1e-4), np.zeros_like(PHOTOS)
    me = loaded(pairs)
    me.fit(conditions, photos, 3)
    me.save(tmp_path / "me.safetensors")
    found = load_file(tmp_path / "me.safetensors")["value_of_scale"] - np.float32(START_SCALE)
    wanted = reference(conditions, photos, 3)[0]["scale"] - START_SCALE
    assert 0.1 < wanted.abs().max() / (3 * RATE) < 0.9
    assert_close(found, wanted, 1e-4)


def test_defaults_are_the_packs(pack: Path) -> None:
    me = loaded(pack)
    assert me.fit(CONDITIONS, PHOTOS).mse == loaded(pack).fit(CONDITIONS, PHOTOS, 12, RATE).mse
    assert me.fit(CONDITIONS, PHOTOS, 3, 2 * RATE).mse[1:] != me.fit(CONDITIONS, PHOTOS, 3).mse[1:]


def test_before_a_fit_a_person_is_what_photos_show(pack: Path) -> None:
    me = loaded(pack)
    me.begin(CONDITIONS, PHOTOS)
    weights, _ = reference(CONDITIONS, PHOTOS, 0)
    image = weights["scale"].numpy() * (CONDITIONS + weights["tint"].numpy())
    assert_close(me.render(CONDITIONS), image + weights["bias"].numpy(), 1e-6)


def test_weights_are_loaded_again(pack: Path, pairs: Path, tmp_path: Path) -> None:
    me = loaded(pack)
    me.fit(CONDITIONS, PHOTOS, 5)
    me.save(tmp_path / "a" / "me.safetensors")
    again = loaded(pack, weights=tmp_path / "a" / "me.safetensors")
    assert np.array_equal(me.render(CONDITIONS), again.render(CONDITIONS))
    again.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a" / "me.safetensors").read_bytes() == (
        tmp_path / "b.safetensors"
    ).read_bytes()
    with pytest.raises(RuntimeInputError, match="were not fitted with .*pairs.pgnpack"):
        loaded(pairs, weights=tmp_path / "b.safetensors")
    for content in (b"", (tmp_path / "b.safetensors").read_bytes()[:-4]):
        (tmp_path / "b.safetensors").write_bytes(content)
        with pytest.raises(RuntimeInputError, match="b.safetensors is damaged"):
            loaded(pack, weights=tmp_path / "b.safetensors")
    for name in ("gone", "x" * 5000, "a\0b"):
        with pytest.raises(RuntimeInputError, match=f"{name} is missing"):
            loaded(pack, weights=tmp_path / name)


def test_the_peak_of_memory_is_that_of_the_process(pack: Path) -> None:
    me = loaded(pack)
    before = me.peak_bytes()
    if before is None:
        pytest.skip("this system does not tell")
    block = np.ones((before + 100_000_000) // 8)
    report = me.fit(CONDITIONS, PHOTOS, 1)
    assert report.peak_bytes is not None and report.peak_bytes > 0.9 * block.nbytes


# What is refused


@pytest.mark.parametrize(
    ("conditions", "photos", "message"),
    [
        (CONDITIONS[:3], PHOTOS[:3], "got 3 and 3 conditions.*a multiple of 2.*--microbatch 1"),
        (CONDITIONS[:2], PHOTOS, "got 4 and 2 conditions, expected as many"),
        (CONDITIONS[:0], PHOTOS[:0], "N at least 1"),
        (CONDITIONS[..., 1:], PHOTOS[..., 1:], r"got shape .* expected \(N, 3, 32, 32\)"),
        (CONDITIONS, PHOTOS[0], "photos: got shape"),
        (CONDITIONS, PHOTOS * 255, "photos: got values from .* Divide 8-bit pixels by 255"),
        (CONDITIONS * np.float32(np.nan), PHOTOS, "conditions: got values from nan to nan"),
    ],
)
def test_what_are_no_photos_is_refused(
    conditions: Pixels, photos: Pixels, message: str, pairs: Path
) -> None:
    with pytest.raises(RuntimeInputError, match=message):
        loaded(pairs).fit(conditions, photos)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: got 0"),
        ({"learning_rate": 0.0}, "learning-rate: got 0.0"),
        ({"learning_rate": float("nan")}, "learning-rate: got nan"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str, pack: Path) -> None:
    with pytest.raises(RuntimeInputError, match=message):
        loaded(pack).fit(CONDITIONS, PHOTOS, **options)
    with pytest.raises(RuntimeInputError, match="save-every: got 0"):
        StateFile(Path("x"), 0)
    with pytest.raises(RuntimeInputError, match="threads: got 0"):
        Personalizer.load(pack, threads=0)


def test_nobody_is_drawn_or_saved_before_there_is_a_person(pack: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeInputError, match="render: no person yet. Fit one, or load"):
        loaded(pack).render(CONDITIONS)
    with pytest.raises(RuntimeInputError, match="save: no person yet"):
        loaded(pack).save(tmp_path / "me.safetensors")


OTHER_DRAWINGS = {
    "another name": GRAPHS["render"].replace("generated", "drawn"),
    "another shape": """render (IMAGES condition, float[1,3,1,1] value_of_scale,
        float[1,3,1,1] value_of_bias, float[1,3,1,1] value_of_tint)
        => (float[1,1,32,32] generated) {
        channels = Constant <value = int64[1] {1}> ()
        generated = ReduceMean (condition, channels)
    }""",
}


@pytest.mark.parametrize("kind", OTHER_DRAWINGS)
def test_a_graph_that_draws_something_else_is_told(kind: str, tmp_path: Path) -> None:
    folder = write_pack(tmp_path / "tiny.pgnpack")
    write_graph(folder / "render.onnx", OTHER_DRAWINGS[kind])
    me = loaded(seal(folder, json.loads((folder / MANIFEST).read_text())))
    me.begin(CONDITIONS, PHOTOS)
    with pytest.raises(RuntimeInputError, match="cannot run render of .*outputs: got"):
        me.render(CONDITIONS)


def test_a_missing_backend_gives_the_install_line(
    pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RuntimeInputError, match=r'pip install "pgn-edge\[onnxruntime\]"') as caught:
        loaded(pack)
    assert caught.value.exit_code == 5


def test_a_fit_loads_no_torch(pack: Path, tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np\n"
        "from pgn_runtime import Personalizer\n"
        "me = Personalizer.load(sys.argv[1])\n"
        "images = np.random.default_rng(0).random((2, 2, 3, 32, 32), dtype=np.float32)\n"
        "me.fit(*images, steps=2, state=sys.argv[2]); me.render(images[0]); me.save('me')\n"
        "bad = {'torch', 'pgn', 'pgn_export', 'onnx', 'typer', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'loaded {bad}' if bad else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(pack), str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


# Against PyTorch's fine-tuning of an avatar


def avatar_subject() -> Subject:
    """A tiny avatar of every kind of block."""
    torch.manual_seed(0)
    avatar = Avatar(GeneratorConfig(SIZE, (3, 4, 6), 2), embedder_widths=(4, 6)).eval()
    generator = personalise(avatar.generator, torch.zeros(avatar.generator.style_size)).eval()
    names = [name for name, _ in generator.named_parameters() if name.endswith(".style")]
    start = Start(avatar, names).eval()
    return Subject("tiny", generator, (SIZE, SIZE), "landmarks", start, names)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the converters
@pytest.mark.parametrize(
    ("target", "backend", "preset"),
    [("onnx", "onnxruntime", "all"), ("tflite", "litert", "decoder")],
)
def test_an_exported_avatar_is_fitted_as_in_pytorch(
    target: str, backend: str, preset: str, tmp_path: Path
) -> None:
    """Ten steps, four photos, two at a time, against float64; `decoder` has given values."""
    subject = avatar_subject()
    net = pgn.PGN(pgn.PGNConfig("lite", options={"widths": ((4,), (6,), (8,))})).eval()
    packing = Packing(subject, net, "tiny", PackOptions(preset, microbatch=2, learning_rate=1e-3))
    made = write(packing, [target], tmp_path / "tiny.pgnpack")["versions"]
    assert made["pgn-edge"] == pgn.__version__ and made["torch"] == torch.__version__
    assert "pgn" not in made, "it is there twice"
    me = loaded(tmp_path / "tiny.pgnpack", backend=backend)
    report = me.fit(CONDITIONS, PHOTOS, 10)
    me.save(tmp_path / "me.safetensors")

    conditions, photos = (torch.from_numpy(images).double() for images in (CONDITIONS, PHOTOS))
    assert subject.start
    generator = copy.deepcopy(subject.generator).double()
    assert isinstance(generator, PersonalGenerator)
    styles = copy.deepcopy(subject.start).double()(photos, conditions)
    for name in subject.personal:
        generator.get_parameter(name).data = styles["value_of_" + tensor_name(name)].detach()
    options = FineTuneOptions(10, 1e-3, preset)
    guidance = predicted(copy.deepcopy(net).double(), packing.options.mse_weight)
    wanted = fine_tune(generator, conditions, photos, guidance, options)
    assert_close(np.array(report.mse), np.array(wanted.mse), 1e-3)
    assert wanted.mse[-1] < 0.95 * wanted.mse[0], "it is no fit"
    found = load_file(tmp_path / "me.safetensors")
    for name in trainable(generator, preset):
        value = generator.get_parameter(name).detach()
        assert_close(found["value_of_" + tensor_name(name)], value, 1e-3)
    assert_close(me.render(CONDITIONS), generator(conditions).detach(), 1e-3)
