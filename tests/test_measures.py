"""The measures of a gradient against values by hand, waves of known period, and identities."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from kornia.geometry.transform import pyrup
from torch import Tensor

from pgn.evaluate.alignment_report import cell
from pgn.evaluate.measures import (
    BAND_COSINES,
    BANDS,
    Interval,
    compare,
    interval,
    laplacian_bands,
)


def gradients(seed: int, height: int = 32, width: int = 48) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    predicted, true = torch.randn(2, 1, 3, height, width, generator=generator)
    return predicted, true


@given(st.integers(0, 1000), st.sampled_from([32, 37, 50]))
@settings(max_examples=10, deadline=None)
def test_a_gradient_is_aligned_with_itself_and_opposed_to_its_negative(
    seed: int, width: int
) -> None:
    gradient, _ = gradients(seed, 33, width)
    same, opposed = compare(gradient, gradient), compare(-gradient, gradient)
    for measure in ("cosine", "norm ratio", "sign agreement", *BAND_COSINES):
        assert same[measure] == pytest.approx(1, abs=1e-12)
    assert same["DC bias"] == 0
    for measure in ("cosine", *BAND_COSINES):
        assert opposed[measure] == pytest.approx(-1, abs=1e-12)
    assert opposed["sign agreement"] == 0 and opposed["norm ratio"] == pytest.approx(1)


@given(st.integers(0, 1000), st.floats(1e-6, 1e6))
@settings(max_examples=10, deadline=None)
def test_measures_are_those_computed_by_hand_and_know_no_unit(seed: int, unit: float) -> None:
    predicted, true = gradients(seed)
    p, g = (tensor.double().numpy().ravel() for tensor in (predicted, true))
    found = compare(predicted.double() * unit, true)
    assert found["cosine"] == pytest.approx(p @ g / math.sqrt((p @ p) * (g @ g)), rel=1e-9)
    assert found["norm ratio"] == pytest.approx(unit * math.sqrt((p @ p) / (g @ g)), rel=1e-9)
    assert found["sign agreement"] == np.mean(
        [(a > 0) == (b > 0) for a, b in zip(p, g, strict=True)]
    )
    equal = p * math.sqrt((g @ g) / (p @ p))
    offsets = [(equal - g).reshape(3, -1)[c].mean() for c in range(3)]
    wanted = math.sqrt(sum(o * o for o in offsets) / 3) / math.sqrt((g @ g) / len(g))
    assert found["DC bias"] == pytest.approx(wanted, rel=1e-9)


def test_a_constant_changes_dc_bias_and_low_pass_but_no_band_pass() -> None:
    _, true = gradients(5)
    true = true - true.mean(dim=(2, 3), keepdim=True)
    offset = torch.tensor([0.3, -0.2, 0.1]).view(1, 3, 1, 1)
    found = compare(true + offset, true)
    *band_pass, low_pass = (found[name] for name in BAND_COSINES)
    assert band_pass == pytest.approx([1] * 4, abs=1e-6)
    assert low_pass < 0.9
    rms = float(true.square().mean().sqrt())
    length = math.sqrt(rms**2 + 0.14 / 3)  # RMS of true + offset; 0.14 = .3^2 + .2^2 + .1^2
    assert found["DC bias"] == pytest.approx(math.sqrt(0.14 / 3) / length, rel=1e-5)


def test_a_gradient_of_zeros_has_cosine_0() -> None:
    _, true = gradients(0)
    found = compare(torch.zeros_like(true), true)
    assert [found[name] for name in ("cosine", "norm ratio", *BAND_COSINES)] == [0.0] * 7
    assert found["DC bias"] < 0.1 and found["sign agreement"] == 0


@pytest.mark.parametrize(("period", "band"), [(4, 0), (11, 1), (22, 2), (45, 3), (130, 4)])
def test_a_wave_lies_in_the_band_of_its_period(period: float, band: int) -> None:
    x = torch.arange(512, dtype=torch.float64)
    wave = torch.cos(2 * math.pi * x / period).expand(1, 3, 32, 512)
    bands = laplacian_bands(wave)
    energies = [float(part.square().mean()) for part in bands]
    assert max(range(5), key=energies.__getitem__) == band, energies


@pytest.mark.parametrize("shape", [(32, 32), (37, 50), (224, 130)])
def test_bands_sum_back_to_the_image(shape: tuple[int, int]) -> None:
    image = torch.rand(1, 3, *shape, dtype=torch.float64)
    *band_pass, total = laplacian_bands(image)
    assert len(band_pass) + 1 == len(BANDS)
    for band in reversed(band_pass):
        total = band + pyrup(total)
    height, width = (side // 16 * 16 for side in shape)
    assert_close(total, image[..., :height, :width], 1e-12)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=30))
def test_the_interval_is_the_normal_one(values: list[float]) -> None:
    found = interval(values)
    array = np.array(values)
    assert found.mean == pytest.approx(array.mean(), abs=1e-12)
    wanted = 1.96 * array.std(ddof=1) / math.sqrt(len(values))
    assert found.half95 == pytest.approx(wanted, abs=1e-12)


def test_one_photo_has_no_interval() -> None:
    assert interval([0.5]) == Interval(0.5, None)
    assert [cell(v) for v in (None, Interval(0.5, None), Interval(0.5, 0.1))] == [
        "",
        "0.500",
        "0.500 ±0.100",
    ]
