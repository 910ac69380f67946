"""The gate: artifacts with planted faults are rejected on every target, the right one passes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_network
from numpy.typing import NDArray
from torch import Tensor, nn

import pgn
from pgn import PGN, GateError
from pgn.images import MEAN, denormalise, normalise
from pgn_export import TARGETS, parity, proof
from pgn_export.exporting import convert
from pgn_export.graph import ProxyGraph, example, trace
from pgn_export.parity import GATES
from pgn_export.source import Options, Source

pytestmark = pytest.mark.filterwarnings("ignore")  # of converters and runtimes, not ours

SIZE = (48, 64)
Pixels = NDArray[np.float32]


class Fault(nn.Module):
    """ProxyGraph with a mistake in its inputs, its network, or its output."""

    def __init__(self, net: PGN, mistake: Callable[[PGN, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.net = ProxyGraph(net).net
        self.mistake = mistake

    def forward(self, generated: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {"proxy": self.mistake(self.net, generated, target)}


def right(net: PGN, generated: Tensor, target: Tensor) -> Tensor:
    return denormalise(net(normalise(generated), normalise(target)))


def swap_red_and_blue(image: Tensor) -> Tensor:
    return torch.cat((image[:, 2:], image[:, 1:2], image[:, :1]), dim=1)


def bgr(net: PGN, generated: Tensor, target: Tensor) -> Tensor:
    swapped = right(net, swap_red_and_blue(generated), swap_red_and_blue(target))
    return swap_red_and_blue(swapped)


def std_forgotten(net: PGN, generated: Tensor, target: Tensor) -> Tensor:
    mean = torch.tensor(MEAN).view(1, 3, 1, 1)
    proxy: Tensor = net(generated - mean, target - mean)
    return proxy + mean


def mean_shifted(net: PGN, generated: Tensor, target: Tensor) -> Tensor:
    u = net(normalise(generated) + 0.2, normalise(target) + 0.2) - 0.2
    return denormalise(u)


def rows_shifted(net: PGN, generated: Tensor, target: Tensor) -> Tensor:
    proxy = right(net, generated, target)
    return torch.cat((proxy[:, :, :1], proxy[:, :, :-1]), dim=2)


def without_bias(net: PGN) -> PGN:
    with torch.no_grad():
        net.backbone.get_parameter("convs.2.bias").zero_()
    return net


def with_a_nan(net: PGN) -> PGN:
    with torch.no_grad():
        net.backbone.get_parameter("transposed.0.weight")[0, 0, 0, 0] = torch.nan
    return net


FAULTS: dict[str, Callable[[PGN, Tensor, Tensor], Tensor]] = {
    "sign flipped": lambda net, g, t: 2 * g - right(net, g, t),
    "zero gradient": lambda net, g, t: g + 0 * t,
    "scale 0.9": lambda net, g, t: g - 0.9 * (g - right(net, g, t)),
    "channels BGR": bgr,
    "std forgotten": std_forgotten,
    "mean shifted": mean_shifted,
    "proxy shifted by 0.01": lambda net, g, t: right(net, g, t) + 0.01,
    "rows shifted by one pixel": rows_shifted,
    "proxy clamped to [0, 1]": lambda net, g, t: right(net, g, t).clamp(0, 1),
    "inputs swapped": lambda net, g, t: right(net, t, g),
}
CHANGED: dict[str, Callable[[PGN], PGN]] = {  # networks
    "weights of another checkpoint": lambda net: small_network(seed=1),
    "one layer's bias dropped": without_bias,
    "NaN": with_a_nan,
}


def faulty(name: str | None) -> nn.Module:
    net = small_network()
    if name in CHANGED:
        return ProxyGraph(CHANGED[name](net))
    return Fault(net, FAULTS[name]) if name else ProxyGraph(net)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_every_faulty_artifact_is_rejected_and_kept_apart(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = dict(list(proof.runtimes(target).items())[:1])  # one runtime is enough here
    monkeypatch.setattr(proof, "runtimes", lambda name: first)
    net, passed = small_network(), []
    right_cases = parity.cases(net, SIZE)
    for fault in (None, *FAULTS, *CHANGED):
        folder = tmp_path / (fault or "right").replace(" ", "-")
        source = Source(net, options=Options(SIZE))
        with torch.no_grad():
            graph = trace(faulty(fault), example(SIZE))
        vars(source).update(graphs={"": graph}, cases=right_cases)
        try:
            convert(source, target, "fp32", folder)
            passed.append(fault)
        except GateError as error:
            assert error.exit_code == 4 and "gives another gradient" in str(error)
            (kept,) = folder.iterdir()
            assert kept.name.endswith(".rejected"), "a rejected artifact has a usable name"
    assert passed == [None], f"faults that passed: {passed[1:]}"


@pytest.mark.parametrize("fault", [None, *FAULTS, *CHANGED])
def test_the_gate_sees_every_fault_in_pytorch(fault: str | None) -> None:
    graph = faulty(fault)

    @torch.no_grad()
    def proxy(generated: Pixels, target: Pixels) -> Pixels:
        found: Tensor = graph(torch.from_numpy(generated), torch.from_numpy(target))["proxy"]
        return found.numpy()

    rows = parity.measure("PyTorch", proxy, parity.cases(small_network(), SIZE))
    assert [row.distance for row in rows] == ["far", "mid", "near"]
    for gate in (GATES["fp32"], GATES["fp16"]):
        assert all(row.passes(gate) for row in rows) == (fault is None)


@pytest.mark.parametrize("factor", [3, -1])  # of the residual: too long, or the wrong way
def test_a_fault_on_one_photo_is_enough(factor: int) -> None:
    net = pgn.load("pgn-nano")
    spoilt = parity.photos(SIZE)[2].numpy()

    def proxy(generated: Pixels, target: Pixels) -> Pixels:
        good = net.proxy(torch.from_numpy(generated), torch.from_numpy(target)).numpy()
        spoil = factor if np.array_equal(target, spoilt) else 1
        spoilt_proxy: Pixels = generated - spoil * (generated - good)
        return spoilt_proxy

    rows = parity.measure("PyTorch", proxy, parity.cases(net, SIZE))
    assert not any(row.passes(GATES["fp32"]) for row in rows)


def test_figures_are_those_of_a_plain_computation() -> None:
    generator = torch.Generator().manual_seed(0)
    wanted = torch.randn(3, 5, 7, generator=generator, dtype=torch.float64)
    found = wanted + 0.1 * torch.randn(3, 5, 7, generator=generator, dtype=torch.float64)
    a, b = found.flatten().numpy(), wanted.flatten().numpy()
    error = np.sqrt(((a - b) ** 2).sum() / (b**2).sum())
    ratio = np.sqrt((a**2).sum() / (b**2).sum())
    cosine = (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())
    assert parity.compare(found, wanted) == pytest.approx((cosine, error, ratio), rel=1e-12)


def test_inputs_are_eight_bit_images_at_their_share_of_the_way() -> None:
    cases = parity.cases(pgn.load("pgn-nano"), SIZE, batch=2)
    assert {case.share for case in cases} == {1.0, 0.3, 0.05}
    for case in cases:
        generated, target = case.inputs()
        mixed = case.target.double() + case.share * (case.blurred.double() - case.target.double())
        assert torch.allclose(generated.double(), mixed / 255.0, atol=1e-6)
        assert torch.equal((target * 255).round().byte(), case.target) and len(target) == 2


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_smaller_dtypes_pass_and_keep_float32_outside(target: str, tmp_path: Path) -> None:
    source = Source(pgn.load("pgn-nano"), "n", Options(SIZE))
    whole = convert(source, target, "fp32", tmp_path)
    for dtype, least, share in (("fp16", 0.9999, 0.62), ("int8", 0.99, 0.45)):
        small = convert(source, target, dtype, tmp_path)
        assert small.path.name == f"n-48x64-{dtype}{whole.path.suffix}"
        assert small.manifest["inputs"] == whole.manifest["inputs"]
        assert min(row.cosine for row in small.parity) >= least
        assert stored_bytes(small.path) < share * stored_bytes(whole.path)


def stored_bytes(artifact: Path) -> int:
    """Of a file, or of all in a package."""
    return sum(f.stat().st_size for f in (artifact, *artifact.rglob("*")) if f.is_file())
