"""The report's statements and costs against figures worked out by hand, and the networks."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from pgn import backbones
from pgn.teachers.trunk import TORCHVISION, VGGTrunk
from pgn_bench.memory_formula import count
from pgn_bench.report import paper
from pgn_bench.report.settings import find_settings
from pgn_bench.report.statements import CLOSE, FAILS, HOLDS, MISSING, STATEMENTS, check
from pgn_bench.results import Result, Row

ROW = Row("exact vgg19", "torch", "cpu", 224, 1, 2, "fp32", 400.0, 390.0, 410.0, 18)
# provider: ms, peak MB, million parameters, GMACs
FIGURES = {
    "exact vgg19": (400, 90, 12.94, 36.24), "exact vgg11": (190, 60, 6.86, 14.05),
    "pgn-resnet4": (160, 50, 1.34, 19.68), "pgn-resnet6": (210, 51, 1.93, 27.08),
    "pgn-resnet8": (240, 55, 2.52, 34.48), "pgn-unet": (220, 70, 1.77, 2.1),
}  # fmt: skip


def row(provider: str, figures: tuple[float, ...], **changes: Any) -> Row:
    time, memory, parameters, macs = figures
    return replace(
        ROW, provider=provider, median_ms=time, p10_ms=0.98 * time, p90_ms=1.02 * time,
        peak_bytes=round(memory * 1e6), parameters=round(parameters * 1e6),
        macs=round(macs * 1e9), **changes,
    )  # fmt: skip


def gradient(**changed: tuple[float, ...]) -> Result:
    """FIGURES, some of them others: names with _ for the space or dash."""
    others = {name: changed.get(re.sub("[ -]", "_", name)) for name in FIGURES}
    rows = [row(name, others[name] or figures) for name, figures in FIGURES.items()]
    return Result("gradient", {"processor": "a machine"}, rows)


def verdicts(result: Result) -> list[str]:
    return [finding.verdict for finding in check(find_settings([result]))]


def test_every_statement_can_hold() -> None:
    assert verdicts(gradient()) == [HOLDS] * len(STATEMENTS) == [HOLDS] * 6


@pytest.mark.parametrize(
    ("changed", "fails"),
    [
        ({"pgn_resnet4": (200, 50, 1.34, 19.68)}, 0),
        ({"exact_vgg11": (190, 47, 6.86, 14.05)}, 1),
        ({"pgn_resnet8": (240, 64, 2.52, 34.48)}, 2),  # 1.28 times ResNet-4's
        ({"pgn_resnet8": (280, 55, 2.52, 34.48)}, 3),  # 1.27 times UNet's
        ({"pgn_unet": (220, 70, 12.95, 2.1)}, 4),
        ({"pgn_unet": (220, 70, 12.94, 2.1)}, 4),  # as many are not fewer
        ({"pgn_unet": (220, 95, 1.77, 2.1)}, 5),
    ],
)
def test_every_statement_can_fail_alone(changed: dict[str, Any], fails: int) -> None:
    found = verdicts(gradient(**changed))
    assert found == [FAILS if index == fails else HOLDS for index in range(6)]


@pytest.mark.parametrize(
    ("changed", "close"),
    [
        ({"pgn_resnet4": (183, 50, 1.34, 19.68)}, 0),  # up to 186.7, from 186.2 on
        ({"pgn_resnet4": (197, 50, 1.34, 19.68)}, 0),
        ({"exact_vgg11": (190, 52, 6.86, 14.05)}, 1),  # 4 % more
        ({"exact_vgg11": (190, 48, 6.86, 14.05)}, 1),
        ({"pgn_resnet8": (240, 58, 2.52, 34.48)}, 2),  # 1.16 times ResNet-4's
        ({"pgn_resnet8": (240, 62, 2.52, 34.48)}, 2),
        ({"pgn_resnet8": (256, 55, 2.52, 34.48)}, 3),  # 1.16 times UNet's
        ({"pgn_resnet8": (272, 55, 2.52, 34.48)}, 3),
        ({"pgn_unet": (220, 87, 1.77, 2.1)}, 5),
        ({"pgn_unet": (220, 93, 1.77, 2.1)}, 5),
    ],
)
def test_what_noise_may_turn_is_too_close(changed: dict[str, Any], close: int) -> None:
    found = verdicts(gradient(**changed))
    assert found == [CLOSE if index == close else HOLDS for index in range(6)]


def test_intervals_are_those_of_the_rows_that_decide() -> None:
    result = gradient()
    cases: list[tuple[str, dict[str, Any], int | None]] = [
        ("pgn-resnet4", {"p90_ms": 186.1}, None),  # exact VGG-11's begins at 186.2
        ("pgn-resnet4", {"p90_ms": 186.3}, 0),
        ("exact vgg11", {"p10_ms": 163.1}, 0),  # ResNet-4's ends at 163.2
        ("pgn-resnet6", {"p10_ms": 1.0, "p90_ms": 1e6}, None),  # of which no statement tells times
    ]
    for name, changes, index in cases:
        rows = [replace(e, **changes) if e.provider == name else e for e in result.rows]
        found = verdicts(replace(result, rows=rows))
        assert found == [CLOSE if k == index else HOLDS for k in range(6)], (name, changes)


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"peak_bytes": None}, [1, 2, 5]),
        ({"parameters": None}, [4]),
        ({"macs": None}, [3]),
        ({"dtype": "fp16"}, range(6)),
    ],
)
def test_what_was_not_measured_is_told(changes: dict[str, Any], missing: list[int]) -> None:
    result = gradient()
    rows = [replace(each, **changes) for each in result.rows]
    found = verdicts(replace(result, rows=rows))
    assert found == [MISSING if index in missing else HOLDS for index in range(6)]


def test_runs_devices_sizes_and_runtimes_are_not_mixed() -> None:
    slow, fast = FIGURES["pgn-resnet4"], (1.0, 1.0, 1.0, 1.0)
    vgg11 = row("exact vgg11", FIGURES["exact vgg11"])
    for other in ({"device": "cuda"}, {"size": 128}, {"batch": 2}, {"threads": 1}):
        rows = [vgg11, row("pgn-resnet4", fast, **other)]
        assert set(verdicts(Result("gradient", {}, rows))) == {MISSING}
    rows = [vgg11, row("pgn-resnet4", fast, runtime="onnxruntime"), row("pgn-resnet4", slow)]
    first, *_ = check(find_settings([Result("gradient", {}, rows)]))
    assert (first.runtime, first.figures) == ("torch", "pgn-resnet4 160 ms, exact vgg11 190 ms")
    runs = [Result("gradient", {}, [each]) for each in (vgg11, row("pgn-resnet4", fast))]
    assert {each.verdict for each in check(find_settings(runs))} == {MISSING}


def test_each_runtime_has_its_verdict_and_noise_is_told() -> None:
    faster = [replace(each, runtime="onnxruntime", noisy=True) for each in gradient().rows]
    result = gradient(pgn_resnet4=(999, 50, 1.34, 19.68))
    first, second, *_ = check(find_settings([replace(result, rows=[*result.rows, *faster])]))
    assert (first.runtime, first.verdict) == ("torch", FAILS)
    assert (second.runtime, second.verdict) == ("onnxruntime", HOLDS)
    assert second.figures == "pgn-resnet4 160 ms ~, exact vgg11 190 ms ~"
    assert second.setting == "Run 1: a machine, cpu, 224x224, batch 1, 2 threads"


def test_phones_and_browsers_are_checked_other_kinds_are_not() -> None:
    for kind, number in (("phone", 1), ("browser", 1), ("fit", 0), ("train", 0), ("scaling", 0)):
        assert len(find_settings([replace(gradient(), kind=kind)])) == number


def test_honest_passes_are_those_of_the_layers() -> None:
    for name, each in (("vgg19", paper.PUBLISHED[0]), ("vgg11", paper.PUBLISHED[1])):
        trunk = VGGTrunk(name, TORCHVISION)
        side, macs, parameters = paper.SIZE, 0, 0
        for conv, pooled in zip(trunk.convs, trunk.pooled, strict=True):
            side //= 2 if pooled else 1
            assert isinstance(conv, torch.nn.Conv2d)
            weights = 9 * conv.in_channels * conv.out_channels
            macs, parameters = macs + weights * side**2, parameters + weights + conv.out_channels
        assert each.one_pass == pytest.approx(macs / 1e9, rel=5e-4)
        assert each.parameters == parameters
        assert each.gmacs == pytest.approx(6 * macs / 1e9, rel=3e-3), "six passes were published"


def test_networks_are_counted_once() -> None:
    for each in paper.PUBLISHED[2:]:
        with torch.device("meta"):
            net = backbones.build(each.provider.removeprefix("pgn-")).eval()
            image = torch.empty(1, 3, paper.SIZE, paper.SIZE)
        macs, _ = count(partial(net, image, image))
        assert each.one_pass == pytest.approx(macs / 1e9, rel=5e-4)
        assert each.gmacs == pytest.approx(each.one_pass, rel=0.09), "one pass was published"
        assert each.parameters == sum(parameter.numel() for parameter in net.parameters())


def test_published_and_honest_costs_stand_side_by_side() -> None:
    lite = row("pgn-lite", (35, 9, 0.5, 2.93))
    result = gradient(pgn_resnet4=(160, 50, 1.35, 19.7))
    drawn = paper.costs([replace(result, rows=[*result.rows, lite])]).rows
    assert drawn[0] == [
        "VGG-19 to conv5_1", "12.94", "12.94", "108.84", "54.36", "36.24", "36.24", "1.0", "1.0",
        "1.0",
    ]  # fmt: skip
    assert drawn[2] == [
        "PGN ResNet-4", "1.34", "1.35", "19.79", "19.68", "19.68", "19.70", "5.5", "2.8", "1.8"
    ]  # fmt: skip
    assert drawn[6] == ["pgn-lite", "", "0.50", "", "", "", "2.93", "", "", "12.4"]
    small = [replace(each, size=128) for each in result.rows]
    assert paper.costs([replace(result, rows=small)]).rows[0][6] == "", "another size counts less"


def test_the_least_of_a_provider_is_counted_whatever_the_order() -> None:
    """With the target's features kept, and computed again at every call."""
    kept, again = (row("exact vgg19", (400, 90, 12.94, gmacs)) for gmacs in (36.24, 54.36))
    runs = [Result("gradient", {}, [each]) for each in (kept, again)]
    other = Result("gradient", {}, [replace(again, provider="new"), replace(kept, provider="new")])
    for order in ([*runs, other], [other, *reversed(runs)]):
        drawn = paper.costs(order).rows
        assert drawn[0][6] == drawn[-1][6] == "36.24"
        assert drawn[-1][0] == "new" and drawn[-1][-1] == "1.0"
