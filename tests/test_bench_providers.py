"""Ways to compute a gradient: each gives the right one, in the precision that it says."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_providers import TASK

from pgn import PgnError
from pgn.evaluate.peers import Pull
from pgn.teachers import PerceptualLoss
from pgn_bench import memory_forecast, precision, providers, providers_catalogue
from pgn_bench.gradient import check_gradient, cosine, photo_task
from pgn_bench.memory_forecast import within_memory
from pgn_bench.memory_formula import count
from pgn_bench.providers import RANDOM, Uncompiled, compiled_gradient, eager_loss, ssim
from pgn_bench.providers_catalogue import Wanted, catalogue
from pgn_bench.scaling import needed_bytes
from pgn_export.source import CACHED


def test_what_has_not_enough_memory_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    task = photo_task(512, 1, "cpu")
    small = Wanted(("pgn-nano",), losses=("vgg11",), runtimes=("torch",))
    vgg, nano = (
        needed_bytes(each.ways[0].cost.formula_bytes or 0, 4 * each.parameters, (512 / 64) ** 2)
        for each in catalogue(small, photo_task(64, 1, "cpu"), Path("unused"))
    )
    assert nano < vgg
    wanted = replace(small, runtimes=("onnxruntime",))
    monkeypatch.setattr(memory_forecast, "free_memory", lambda _: vgg - 1)
    kept, left_out = within_memory(wanted, task)
    assert kept == replace(wanted, losses=[], networks=["pgn-nano"])
    assert left_out.keys() == {"exact vgg11"} and "GiB" in str(left_out["exact vgg11"])
    monkeypatch.setattr(memory_forecast, "free_memory", lambda _: vgg)
    assert within_memory(wanted, task)[1] == {}


def test_weights_do_not_grow_with_the_image() -> None:
    assert needed_bytes(5_000_000, 4_000, 10.0) == 2 * (4_000 + 10 * (5_000_000 - 4_000))


def test_a_gpu_without_kernels_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise RuntimeError("CUDA error: no kernel image is available\nmore")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(providers, "_use_gpu", fails)
    with pytest.raises(PgnError, match=r"no kernel image is available\)\. Install"):
        providers.check_device("cuda")


def test_a_call_on_a_gpu_waits_for_its_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never run on a GPU: order of the calls only."""
    order: list[str] = []
    fake = SimpleNamespace(synchronize=lambda: order.append("synchronize"))
    monkeypatch.setattr(torch, "cuda", fake)
    monkeypatch.setattr(providers, "allow_tf32", lambda allowed: order.append(f"tf32 {allowed}"))
    call = lambda: order.append("call") or torch.zeros(1)  # type: ignore[func-returns-value] # noqa: E731
    providers._finished(call, replace(TASK, device="cuda"))()
    providers._finished(call, replace(TASK, device="cuda"), "tf32")()
    providers._finished(call, TASK)()
    timed = ["call", "synchronize"]
    assert order == ["tf32 False", *timed, "tf32 True", *timed, "call"]


def test_tf32_is_of_convolutions_and_products() -> None:
    flags: Any = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [flag.allow_tf32 for flag in flags]
    try:
        for allowed in (True, False):
            precision.allow_tf32(allowed)
            assert [flag.allow_tf32 for flag in flags] == [allowed, allowed]
    finally:
        for flag, allowed in zip(flags, before, strict=True):
            flag.allow_tf32 = allowed


def test_a_machine_without_bf16_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    emulated = SimpleNamespace(is_bf16_supported=lambda including_emulation: including_emulation)
    monkeypatch.setattr(torch, "cuda", emulated)
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    for device in ("cpu", "cuda"):
        with pytest.raises(PgnError, match="bf16: this machine does not compute in it"):
            precision.autocast("bf16", device)
        for dtype in ("fp32", "tf32"):
            with precision.autocast(dtype, device)():
                assert not torch.is_autocast_enabled(device)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_what_is_compiled_is_the_gradient(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "_compiled", lambda pull, mode: pull)
    loss = PerceptualLoss("vgg19", layers={"relu1_2": 1.0, "relu2_1": 1.0})
    wanted = loss.gradient(*providers.images(TASK))
    try:
        found = compiled_gradient(loss, dtype, TASK)()
    except PgnError as error:
        pytest.skip(str(error))
    assert found.dtype == torch.float32
    check_gradient(dtype, found, wanted, dtype)


@pytest.mark.parametrize("name", ["pgn-nano", "resnet4"])
def test_networks_give_their_gradient(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eager and compiled; the branch of the target, where one has it, is computed before."""
    monkeypatch.setattr(providers, "_compiled", lambda pull, mode: pull)
    net = providers.load_network(name)
    wanted = net.gradient(*providers.images(TASK))
    eager, compiled = (
        build(TASK)
        for build in (
            partial(providers.eager_network, name),
            partial(providers.compiled_network, name, "fp32"),
        )
    )
    monkeypatch.setattr(
        type(net.backbone), "target_features", lambda *_: pytest.fail("at a call"), raising=False
    )
    for call in (eager, compiled):
        found = call()
        assert not found.requires_grad
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-8)


def test_networks_cost_what_their_exports_do() -> None:
    net = providers.load_network("pgn-nano")
    graph = providers_catalogue._source(net, TASK).graphs[CACHED]
    exported = count(lambda: graph.module(**graph.inputs))[0]
    assert count(providers.eager_network("pgn-nano", TASK))[0] == exported
    assert count(lambda: net.gradient(*providers.images(TASK)))[0] > exported


def test_what_is_compiled_shares_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what exceeds PyTorch's limit of 8 runs uncompiled, and shapes become dynamic."""
    graphs: list[torch.fx.GraphModule] = []
    shapes: list[int | torch.SymInt] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(graph)
        shapes.extend(side for each in inputs for side in each.shape)
        return graph.forward

    def pull(scale: float) -> Pull:
        return lambda generated: generated * scale

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    images = [torch.rand(1, 3, size, size) for size in range(2, 7) for _ in range(2)]
    compiled = [providers._compiled(pull(2.0), "default") for _ in images]
    for _ in range(2):  # the second time they have their code
        for call, image in zip(compiled, images, strict=True):
            assert torch.equal(call(image), image * 2)
        assert len(graphs) == len(images) > 8 and {type(side) for side in shapes} == {int}


def test_cuda_graphs_that_are_not_recorded_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = torch._dynamo.utils.counters["inductor"]

    def skips(pull: Any, mode: str) -> Any:
        def call(generated: torch.Tensor) -> Any:
            counted["cudagraph_skips"] += mode == "reduce-overhead"
            return pull(generated)

        return call

    monkeypatch.setattr(providers, "_compiled", skips)
    providers.compiled_network("resnet4", "fp32", TASK)
    with pytest.raises(Uncompiled, match="CUDA graphs"):
        providers.compiled_network("resnet4", "fp32", TASK, mode="reduce-overhead")


def test_without_a_compiler_it_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(pull: object, mode: str) -> Any:
        def call(*_: object, **__: object) -> None:
            raise torch._dynamo.exc.TorchDynamoException("no such file: g++\nmore")

        return call

    monkeypatch.setattr(providers, "_compiled", fails)
    loss = PerceptualLoss("vgg19", layers={"relu1_1": 1.0})
    with pytest.raises(Uncompiled, match=r"used here: .*no such file: g\+\+ \(.*Triton"):
        compiled_gradient(loss, "fp32", TASK)


def test_an_older_pytorch_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_(pull: object, dynamic: bool, mode: str) -> None:
        pytest.fail("not apart")

    monkeypatch.setattr(torch, "compile", compile_)
    with pytest.raises(Uncompiled, match="2.13 or newer"):
        providers.compiled_network("resnet4", "fp32", TASK)


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


def test_on_a_gpu_the_strongest_forms_are_measured() -> None:
    wanted = Wanted(("nano",), losses=("vgg19", "vgg11"), runtimes=("torch",))
    vgg19, vgg11, nano = catalogue(wanted, replace(TASK, device="cuda"), Path("unused"))
    compiled = [("torch.compile", dtype) for dtype in ("fp32", "tf32", "bf16")]
    compiled += [("torch.compile, CUDA graphs", "fp32")]
    for each, more in ((vgg19, [("torch, channels last", "fp32")]), (nano, [])):
        ways = [(way.runtime, way.dtype) for way in each.ways]
        assert ways == [("torch", "fp32"), *more, *compiled]
    assert [way.runtime for way in vgg11.ways] == ["torch", "torch.compile"]


def test_two_checkpoints_of_one_name_are_refused(tmp_path: Path) -> None:
    wanted = Wanted(("a/x.safetensors", "b/x.safetensors"), losses=())
    with pytest.raises(PgnError, match="got x twice"):
        list(catalogue(wanted, TASK, tmp_path))
