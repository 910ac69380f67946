"""A fit that was stopped goes on as if nothing had happened, and with its own photos only."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the extra export is not installed")

from packs import loaded, noise

from pgn_runtime import Personalizer, RuntimeInputError
from pgn_runtime.fitting import DivergedError
from pgn_runtime.state import FILE, StateFile
from pgn_runtime.tensors import KEY, read_tensors

CONDITIONS, PHOTOS = noise(4)


class Kill(Exception):
    pass


def kill_at(number: int) -> Callable[[int, float], None]:
    """Stops a fit between a step and its saving."""

    def on_step(step: int, mse: float) -> None:
        if step == number:
            raise Kill

    return on_step


@pytest.fixture(scope="module")
def undisturbed(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    me = loaded(pairs)
    me.fit(CONDITIONS, PHOTOS, state=folder)
    me.save(folder / "me.safetensors")
    return folder


@pytest.mark.parametrize(("every", "lost"), [(1, 1), (5, 5)])
def test_a_stopped_fit_goes_on_as_if_nothing_had_happened(
    every: int, lost: int, pairs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    state = StateFile(tmp_path / "me", every)
    done = []
    for stop in (1, 2, 7, 12):
        with pytest.raises(Kill):
            loaded(pairs).fit(CONDITIONS, PHOTOS, on_step=kill_at(stop), state=state)
        done.append(read_tensors(state.file)[1]["step"] if state.file.exists() else 0)
    assert all(stop - step <= lost for stop, step in zip((1, 2, 7, 12), done, strict=True))
    me = loaded(pairs)
    report = me.fit(CONDITIONS, PHOTOS, state=state)
    assert report.step == 12 and len(report.seconds) == 12 - done[-1]
    me.save(tmp_path / "me" / "me.safetensors")
    for name in (FILE, "me.safetensors"):
        assert (tmp_path / "me" / name).read_bytes() == (undisturbed / name).read_bytes(), name


def test_a_finished_fit_goes_on_for_more_steps(pack: Path, tmp_path: Path) -> None:
    loaded(pack).fit(CONDITIONS, PHOTOS, 4, state=tmp_path / "a.safetensors")
    report = loaded(pack).fit(CONDITIONS, PHOTOS, 4, state=tmp_path / "a.safetensors")
    assert report.step == 4 and report.seconds == []
    more = loaded(pack).fit(CONDITIONS, PHOTOS, 6, state=tmp_path / "a.safetensors")
    assert more.mse == loaded(pack).fit(CONDITIONS, PHOTOS, 6).mse
    with pytest.raises(RuntimeInputError, match="steps: got 5, but 6 are done already"):
        loaded(pack).fit(CONDITIONS, PHOTOS, 5, state=tmp_path / "a.safetensors")


def test_what_killed_runs_left_half_written_is_removed(pack: Path, tmp_path: Path) -> None:
    (tmp_path / f".{FILE}.abcd_123.safetensors").write_bytes(b"half")
    (tmp_path / ".tmpAbc123").write_bytes(b"half")
    (tmp_path / "mine.safetensors").write_bytes(b"whole")
    (tmp_path / ".tmpFolder").mkdir()  # not safetensors'
    loaded(pack).fit(CONDITIONS, PHOTOS, 1, state=tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".tmpFolder", "mine.safetensors", FILE]

    (tmp_path / ".a[b].safetensors.abcd_123.safetensors").write_bytes(b"half")
    loaded(pack).fit(CONDITIONS, PHOTOS, 1, state=tmp_path / "a[b].safetensors")
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".tmpFolder", "a[b].safetensors", "mine.safetensors", FILE]


def test_another_version_of_the_runtime_goes_on_and_is_told(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(steps: int) -> tuple[str, ...]:
        report = loaded(pack).fit(CONDITIONS, PHOTOS, steps, state=tmp_path)
        assert report.step == steps
        return report.runtimes

    monkeypatch.setattr("onnxruntime.__version__", "1.0")
    assert fit(2) == fit(3) == ("onnxruntime 1.0",)
    monkeypatch.setattr("onnxruntime.__version__", "2.0")
    assert fit(3) == ("onnxruntime 1.0",), "nothing was computed"
    assert fit(4) == ("onnxruntime 1.0", "onnxruntime 2.0")
    monkeypatch.setattr("onnxruntime.__version__", "1.0")
    assert fit(5) == ("onnxruntime 1.0", "onnxruntime 2.0"), "it stays a mixture"


def test_a_restart_keeps_the_old_state_until_a_step_is_done(pack: Path, tmp_path: Path) -> None:
    loaded(pack).fit(CONDITIONS, PHOTOS, 4, state=tmp_path)
    before = (tmp_path / FILE).read_bytes()
    state = StateFile(tmp_path, restart=True)
    with pytest.raises(DivergedError):
        loaded(pack).fit(CONDITIONS, PHOTOS, 4, 1e38, state=state)
    with pytest.raises(Kill):
        loaded(pack).fit(CONDITIONS, PHOTOS, 4, on_step=kill_at(1), state=state)
    assert (tmp_path / FILE).read_bytes() == before
    report = loaded(pack).fit(CONDITIONS, PHOTOS, 2, 0.5, state=state)
    assert len(report.seconds) == report.step == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"photos": PHOTOS[::-1].copy()}, "is of a fit of other photos"),
        ({"conditions": 1 - CONDITIONS}, "is of a fit of other photos"),
        ({"photos": PHOTOS[:2], "conditions": CONDITIONS[:2]}, "is of a fit of other photos"),
        ({"learning_rate": 0.5}, "with learning_rate 0.02, not 0.5"),
    ],
)
def test_a_state_of_another_fit_is_refused(
    change: dict[str, Any], message: str, undisturbed: Path, pairs: Path
) -> None:
    arguments = {"conditions": CONDITIONS, "photos": PHOTOS} | change
    before = (undisturbed / FILE).read_bytes()
    with pytest.raises(RuntimeInputError, match=message + ".*another -o, or .*--restart"):
        loaded(pairs).fit(**arguments, state=undisturbed)
    assert (undisturbed / FILE).read_bytes() == before


def test_a_state_of_another_pack_or_of_other_threads_is_refused(
    undisturbed: Path, pack: Path, pairs: Path
) -> None:
    with pytest.raises(RuntimeInputError, match="is of a fit of other pack.*--restart"):
        loaded(pack).fit(CONDITIONS, PHOTOS, state=undisturbed)
    with pytest.raises(RuntimeInputError, match="with threads 1, not 2.*--restart"):
        Personalizer.load(pairs, threads=2).fit(CONDITIONS, PHOTOS, state=undisturbed)


def first_of(key: bytes, value: bytes, content: bytes) -> bytes:
    """A state with another first entry in a list of its metadata, as many bytes long."""

    def other(found: re.Match[bytes]) -> bytes:
        return found[1] + value.ljust(len(found[2]))

    return re.sub(rb'(%s\\": \[)([^],]+)' % key, other, content)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: content.replace(b"mean_of_bias", b"mean_of_bisa"),
        lambda content: content.replace(b'\\"step\\": 12', b'\\"step\\": 13'),
        lambda content: first_of(b"mse", b"1", content),
        lambda content: first_of(b"mse", b"NaN", content),
        lambda content: first_of(b"runtimes", b"1", content),
        lambda content: content.replace(b'"F32"', b'"I32"', 1),
        lambda content: content[:-4] + b"\xff\xff\xff\xff",
    ],
)
def test_a_damaged_state_is_refused(
    spoil: Callable[[bytes], bytes], undisturbed: Path, pairs: Path, tmp_path: Path
) -> None:
    content = (undisturbed / FILE).read_bytes()
    spoiled = spoil(content)
    assert spoiled != content
    (tmp_path / FILE).write_bytes(spoiled)
    with pytest.raises(RuntimeInputError, match="damaged.*another -o, or begin anew"):
        loaded(pairs).fit(CONDITIONS, PHOTOS, state=tmp_path)


def test_a_state_of_another_version_of_the_format_is_refused(
    undisturbed: Path, pairs: Path, tmp_path: Path
) -> None:
    content = (undisturbed / FILE).read_bytes()
    old = content.replace(b'\\"schema\\": 2', b'\\"schema\\": 1')
    (tmp_path / FILE).write_bytes(old)
    with pytest.raises(RuntimeInputError, match="of version 1 of the format, expected 2.*restart"):
        loaded(pairs).fit(CONDITIONS, PHOTOS, state=tmp_path)


def test_metadata_of_states_are_one_json(undisturbed: Path) -> None:
    """safetensors writes several keys in random order: other bytes in every process."""
    header = (undisturbed / FILE).read_bytes()
    assert header.count(f'"__metadata__":{{"{KEY}":'.encode()) == 1
    _, details = read_tensors(undisturbed / FILE)
    assert details.keys() == {
        *("schema", "step", "pack", "photos", "backend", "threads", "learning_rate", "mse"),
        "runtimes",
    }


# What is refused


def test_divergence_keeps_the_last_good_state(pack: Path, tmp_path: Path) -> None:
    """A rate so large that the third step leaves float32."""
    with pytest.raises(DivergedError, match="at step 2 the images or the weights.*Lower the"):
        loaded(pack).fit(CONDITIONS, PHOTOS, 50, 1e30, state=tmp_path)
    tensors, details = read_tensors(tmp_path / FILE)
    assert details["step"] == len(details["mse"]) == 1
    assert all(np.isfinite(array).all() for array in tensors.values())
