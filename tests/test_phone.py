"""`pgn-bench phone` against an adb that plays recorded answers; it was never run on a phone."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_adb
import pytest
from typer.testing import CliRunner

from pgn import PgnError
from pgn_bench import deployed, phone, phone_adb
from pgn_bench.cli import app
from pgn_bench.report import statements
from pgn_bench.report.settings import find_settings
from pgn_bench.results import load
from pgn_export.source import Source
from pgn_runtime.files import sha256

PLAY = Path(fake_adb.__file__)


class Desk:
    """A folder with the fake adb, both programs and two artifacts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.adb = folder / "adb"
        self.adb.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -S {PLAY} "$@"\n')
        self.adb.chmod(0o755)
        self.log = folder / "log"
        for name in ("benchmark_model", "perf_test"):
            (folder / name).write_bytes(b"\x7fELF")
        self.models: list[Path] = []
        (folder / "manifest.json").write_text(json.dumps({"schema": 1, "artifacts": {}}))
        self.add("net-cached.tflite", "net")
        self.add("net.onnx", "net", target_recomputed=True)

    def add(self, file: str, name: str, **more: Any) -> None:
        """One more artifact."""
        path = self.folder / file
        path.write_bytes(path.suffix.encode() * 100)
        self.models.append(path)
        entry = {
            "sha256": sha256(path), "name": name, "precision": "fp16", "graph": "proxy",
            "alpha": 40.0, "layout": "NCHW", "colour": "RGB", "gradient": "g", "parity": [],
            "network": {"backbone": "lite"}, "inputs": {"generated": [1, 3, 224, 192]},
            "outputs": {"proxy": []}, **more,
        }  # fmt: skip
        manifest = json.loads((self.folder / "manifest.json").read_text())
        manifest["artifacts"][file] = entry
        (self.folder / "manifest.json").write_text(json.dumps(manifest))

    def change(self, name: str, changes: dict[str, Any]) -> None:
        path = self.folder / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["artifacts"][name].update(changes)
        path.write_text(json.dumps(manifest))

    def words(self, *more: object, models: bool = True) -> list[str]:
        words = [
            "phone", "--adb-path", self.adb, "--litert-benchmark", self.folder / "benchmark_model",
            "--onnxruntime-perf-test", self.folder / "perf_test", "--runs", 20, *more,
        ]  # fmt: skip
        return list(map(str, words + (self.models if models else [])))

    @property
    def asked(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    made = Desk(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("FAKE_ADB_LOG", str(made.log))
    monkeypatch.setenv("FAKE_ADB", "good")
    return made


def bench(words: list[str]) -> Any:
    return CliRunner().invoke(app, words)


def refused(words: list[str]) -> str:
    """The message of an error that leaves with 2."""
    done = bench(words)
    assert isinstance(done.exception, PgnError) and done.exception.exit_code == 2, done.output
    return str(done.exception)


def test_both_programs_are_run_and_read(desk: Desk) -> None:
    output = desk.folder / "phone.json"
    done = bench(desk.words("-o", output, "--threads", 3))
    assert done.exit_code == 0, done.output
    result = load(output)
    litert, onnxruntime = result.rows
    assert result.kind == "phone" and result.machine["processor"] == "Google Pixel 8, Tensor G3"
    assert (result.machine["cores"], result.machine["system"]) == (9, "Android 14")
    assert (litert.provider, litert.runtime, litert.dtype) == ("net", "litert", "fp16")
    assert (litert.median_ms, litert.load_ms, litert.size, litert.threads) == (2.781, 6.395, 224, 3)
    assert litert.calls == 5 * 337 and litert.file_bytes == 700 and litert.noisy is False
    assert litert.peak_bytes == round(40.8281 * 2**20)
    assert litert.details["max_ms"] == 20.356
    assert litert.details["process_bytes"] == round(45.0859 * 2**20)
    assert onnxruntime.provider == "net, target recomputed" and onnxruntime.peak_bytes is None
    assert onnxruntime.median_ms == pytest.approx(99.5086)
    assert onnxruntime.load_ms == pytest.approx(217.932)
    assert onnxruntime.details["process_bytes"] == 271122432
    assert result.settings["thermal_status"] == {"before": "none", "after": "none"}
    assert "Pixel 8" in done.stdout and "271.1" in done.stdout and "hot" not in done.stderr


def test_programs_take_turns_and_nothing_is_left_on_the_phone(desk: Desk) -> None:
    assert bench(desk.words()).exit_code == 0
    runs = [line for line in desk.asked if "./" in line]
    assert ["litert" in line for line in runs] == [True, False] * 6
    assert ["peak_memory" in line for line in runs] == [False] * 10 + [True, False]
    assert "--num_runs=4 " in runs[0] and "--num_threads=4" in runs[0] and "-r 4 -x 4" in runs[1]
    assert all("model0.tflite" in line for line in runs[::2])
    last = next(line for line in reversed(desk.asked) if "thermalservice" not in line)
    assert f"rm -rf {phone.FOLDER};" in last
    assert all(line.startswith(("devices", "-s SERIAL1")) for line in desk.asked)


def test_json_is_the_result(desk: Desk) -> None:
    done = bench(desk.words("--json"))
    assert [row["runtime"] for row in json.loads(done.stdout)["rows"]] == ["litert", "onnxruntime"]


def test_a_hot_phone_is_told(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_ADB", "hot")
    done = bench(desk.words())
    assert "hot after the measurement (thermal status: severe)" in done.stderr
    assert "hot before" not in done.stderr


@pytest.mark.parametrize(
    ("scene", "message"),
    [
        ("none", "found: none"),
        ("offline", "SERIAL1 is not ready: offline. Unplug it"),
        ("unauthorized", "unauthorized. Unlock it and allow"),
        ("several", r"SERIAL1 \(device\), emulator-5554 \(device\).*--adb SERIAL"),
        ("full", "No space left on device"),
        ("unplugged", "SERIAL1 was lost in the middle of the work"),
    ],
)
def test_a_phone_that_cannot_be_used(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, scene: str, message: str
) -> None:
    monkeypatch.setenv("FAKE_ADB", scene)
    output = desk.folder / "phone.json"
    assert re.search(message, refused(desk.words("-o", output)))
    assert not output.exists()
    if scene == "full":
        assert "rm -rf" in desk.asked[-1]


def test_one_of_several_phones_is_chosen(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_ADB", "several")
    assert "got 'SERIAL2', found: SERIAL1" in refused(desk.words("--adb", "SERIAL2"))
    assert bench(desk.words("--adb", "emulator-5554")).exit_code == 0
    assert desk.asked[-1].startswith("-s emulator-5554")


@pytest.mark.parametrize(
    ("scene", "message"),
    [
        ("crash", "failed with code 139.*XNNPACK delegate. / Segmentation fault"),
        ("unreadable", "printed cannot be read: Hello from a new version"),
        ("slow", "took too long, and was ended"),
        ("hung", "took too long, and was ended"),
    ],
)
def test_a_program_that_fails_leaves_the_other(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, scene: str, message: str
) -> None:
    monkeypatch.setenv("FAKE_ADB", scene)
    if scene in ("slow", "hung"):
        monkeypatch.setattr(phone, "SECONDS", 0.6)
        monkeypatch.setattr(phone, "SPARE", 0.6 if scene == "slow" else 0)
    output = desk.folder / "phone.json"
    done = bench(desk.words("-o", output))
    assert done.exit_code == 0, done.output
    result = load(output)
    assert [row.runtime for row in result.rows] == ["onnxruntime"]
    (reason,) = result.settings["left_out"].values()
    assert re.search(message, reason)
    assert "net, litert, fp16 is left out" in done.stderr.replace("\n", " ")
    assert f"rm -rf {phone.FOLDER}" in next(
        line for line in reversed(desk.asked) if "thermalservice" not in line
    )


def test_nothing_measured_is_an_error(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_ADB", "crash")
    desk.models = desk.models[:1]
    assert "nothing was measured" in refused(desk.words())


def test_no_adb(desk: Desk) -> None:
    desk.adb = desk.folder / "gone"
    assert "cannot be run (No such file" in refused(desk.words())
    desk.adb = desk.folder / "perf_test"  # not executable
    assert "--adb-path PATH" in refused(desk.words())


def test_an_adb_that_hangs(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.adb.write_text("#!/bin/sh\nexec sleep 5\n")
    monkeypatch.setattr(phone_adb, "SECONDS", 0.1)
    assert "adb kill-server" in refused(desk.words())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outputs": {"features_0": []}}, "gives no gradient of one size"),
        ({"inputs": {"generated": [None, 3, None, None]}}, "gives no gradient of one size"),
        ({"inputs": 3}, "gives no gradient of one size"),
        ({"inputs": {"generated": [1, 3, 0, 10**30]}}, "gives no gradient of one size"),
        ({"precision": "fp7"}, "gives no gradient of one size"),
        ({"precision": None, "name": None, "network": 3}, "damaged"),
        ({"sha256": "0"}, "changed after its export"),
    ],
)
def test_a_wrong_artifact(desk: Desk, changes: dict[str, Any], message: str) -> None:
    desk.change("net.onnx", changes)
    done = bench(desk.words())
    assert getattr(done.exception, "exit_code", None) == 2 and message in str(done.exception)
    assert not any("push" in line for line in desk.asked)


def test_wrong_words(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployed, "convert", lambda *_: pytest.fail("work has begun"))
    assert "Give --litert-benchmark FILE" in refused(["phone"])
    only = ["phone", "--adb-path", str(desk.adb), "--litert-benchmark", str(desk.models[0])]
    assert "ends in .tflite" in refused([*only, str(desk.models[1])])
    assert "gone.tflite" in refused([*only, "gone.tflite", "--paper"])
    done = bench(["phone", "--litert-benchmark", "gone"])
    assert done.exit_code == 2 and "does not exist" in done.stderr


PEERS = (  # in the order of their times and memory: name, parameters, MACs
    ("pgn-resnet4", 1_335_875, 19_680), ("pgn-unet", 1_765_891, 1_943),
    ("pgn-resnet6", 1_927_235, 27_080), ("pgn-resnet8", 2_518_595, 34_480),
    ("exact vgg11", 6_860_672, 14_046), ("exact vgg19", 12_944_960, 36_240),
)  # fmt: skip


def test_the_statements_of_the_paper_are_judged(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_ADB", "paper")
    desk.models.clear()
    for name, parameters, macs in PEERS:
        random = {"weights": "random, time only"} if name != "exact vgg19" else {}
        network = {"backbone": name, **random}
        counted = {"parameters": parameters, "macs": macs}
        desk.add(f"{name}.tflite", name, precision="fp32", network=network, **counted)
    output = desk.folder / "phone.json"
    assert bench(desk.words("-o", output)).exit_code == 0
    result = load(output)
    assert [(row.provider, row.parameters, row.macs) for row in result.rows] == list(PEERS)
    assert ["weights" in row.details for row in result.rows] == [True] * 5 + [False]
    assert [row.median_ms for row in result.rows] == [1, 2, 3, 4, 5, 6]
    found = statements.check(find_settings([result]))
    holds, fails = statements.HOLDS, statements.FAILS
    # the ResNets take 10, 30 and 40 MiB; UNet takes 2 ms, ResNet-8 takes 4
    assert [each.verdict for each in found] == [holds, holds, fails, fails, holds, holds]


@pytest.mark.parametrize("paper", [False, True])
def test_networks_are_exported_for_the_given_program(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, paper: bool
) -> None:
    asked = []

    def convert(source: Source, target: str, dtype: str, folder: Path) -> Any:
        assert folder == desk.folder / "cache" / "pgn-edge" / "models"
        asked.append((source.name, target, dtype, source.options.cached_target))
        return SimpleNamespace(path=desk.models[0])

    monkeypatch.setattr(deployed, "convert", convert)
    words = ["phone", "--adb-path", str(desk.adb), "--litert-benchmark", str(desk.models[0])]
    assert bench([*words, "--paper"] if paper else words).exit_code == 0
    cached = ("pgn-lite", "pgn-nano", *(("exact vgg11", "exact vgg19") if paper else ()))
    whole = ("pgn-resnet4", "pgn-resnet6", "pgn-resnet8", "pgn-unet") if paper else ()
    assert {each[0] for each in asked if each[3]} == {*cached}
    assert {each[0] for each in asked if not each[3]} == {*whole}
    assert {each[1:3] for each in asked} == {("tflite", "fp32")}
