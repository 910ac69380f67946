"""Augmentation on the device: crops, flips and degradations, against ramps, Pillow and numpy."""

from __future__ import annotations

import random as python_random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from pgn.degrade import jpeg
from pgn.distill import augment
from pgn.distill.augment import KINDS, crop_and_flip, degrade
from pgn_export.parity import photos

SCALES = (0.75, 2.0)
SEEDS = st.integers(0, 2**40)


def ramps(count: int, canvas: int = 256) -> Tensor:
    """Red is the column, green the row, uint8 (count, 3, canvas, canvas)."""
    line = torch.arange(canvas, dtype=torch.uint8)
    columns, rows = line.expand(canvas, -1), line[:, None].expand(-1, canvas)
    return torch.stack([columns, rows, rows]).repeat(count, 1, 1, 1)


def slopes(crops: Tensor) -> tuple[Tensor, Tensor]:
    """Of crops of `ramps`: columns and rows of the canvas that one pixel of the crop spans."""
    inner = crops[..., 8:-8, 8:-8] * 255
    across = (inner[:, 0, :, -1] - inner[:, 0, :, 0]).mean(1)
    down = (inner[:, 1, -1] - inner[:, 1, 0]).mean(1)
    return across / (inner.shape[-1] - 1), down / (inner.shape[-1] - 1)


def random_states() -> tuple[object, ...]:
    state = np.random.get_state(legacy=False)
    return torch.get_rng_state().tolist(), python_random.getstate(), str(state)


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.integers(1, 5), st.integers(16, 64), st.integers(32, 80))
def test_crops_and_degradations_are_functions_of_the_seed_alone(
    seed: int, count: int, size: int, canvas: int
) -> None:
    images = torch.randint(
        0, 256, (count, 3, canvas, canvas), generator=torch.Generator().manual_seed(seed)
    ).byte()
    before = random_states()
    crops = crop_and_flip(images, size, SCALES, seed)
    degraded = degrade(crops, seed)
    assert random_states() == before
    torch.manual_seed(seed + 1)
    assert torch.equal(crops, crop_and_flip(images, size, SCALES, seed))
    assert torch.equal(degraded, degrade(crops, seed))
    assert crops.shape == degraded.shape == (count, 3, size, size)
    assert crops.dtype == degraded.dtype == torch.float32
    assert crops.min() >= 0 and crops.max() <= 1 and torch.isfinite(degraded).all()


def test_other_seeds_give_other_crops_and_degradations() -> None:
    images = ramps(4)
    assert not torch.equal(*(crop_and_flip(images, 32, SCALES, seed) for seed in (0, 1)))
    assert not torch.equal(*(degrade(images / 255.0, seed) for seed in (0, 1)))


def test_crops_have_the_promised_sides_places_and_flips() -> None:
    crops = crop_and_flip(ramps(400), 96, SCALES, 0)
    across, down = slopes(crops)
    assert_close(across.abs(), down, 0.01)  # square
    assert 0.74 <= float(down.min()) < 0.8 and 1.9 < float(down.max()) <= 2.01
    assert float(down.log().mean()) == pytest.approx(np.log(SCALES).mean(), abs=0.05)
    assert 0.4 < float((across < 0).float().mean()) < 0.6  # mirrored, and never upside down
    side = down * 96
    centre = crops[:, 1].mean((1, 2)) * 255
    place = (centre + 0.5 - side / 2) / (256 - side)  # 0: at the top, 1: at the bottom
    assert -0.02 < float(place.min()) < 0.05 and 0.95 < float(place.max()) < 1.02
    assert float(place.mean()) == pytest.approx(0.5, abs=0.05)


def test_a_crop_larger_than_the_canvas_is_the_whole_canvas() -> None:
    across, down = slopes(crop_and_flip(ramps(20), 192, (1.5, 2.0), 1))
    assert_close(down, torch.full((20,), 256 / 192), 0.01)
    assert_close(across.abs(), down, 0.01)


def test_a_crop_is_what_pillow_makes_of_it() -> None:
    picture = (photos((192, 192))[0] * 255).round().byte()
    crop = crop_and_flip(picture, 96, (2.0, 2.0), 0)[0]
    channels = [Image.fromarray(channel) for channel in (picture[0] / 255.0).numpy()]
    small = [np.array(c.resize((96, 96), Image.Resampling.BICUBIC)) for c in channels]
    wanted = torch.from_numpy(np.stack(small)).clamp(0, 1)
    mirrored = (crop - wanted).abs().sum() > (crop.flip(-1) - wanted).abs().sum()
    assert_close(crop.flip(-1) if mirrored else crop, wanted, 1e-5)


@pytest.mark.parametrize(("period", "limit"), [(2.0, 0.01), (2.5, 0.05), (3.0, 0.2)])
def test_stripes_that_a_crop_cannot_hold_vanish(period: float, limit: float) -> None:
    stripes = (127.5 + 127 * torch.sin(2 * torch.pi * (torch.arange(192) + 0.3) / period)).byte()
    images = stripes.expand(1, 3, 192, 192)
    inner = crop_and_flip(images, 96, (2.0, 2.0), 0)[..., 8:-8]
    assert float(inner.std()) < limit * float(stripes.float().std() / 255)


def test_every_kind_comes_with_every_share(monkeypatch: pytest.MonkeyPatch) -> None:
    def paint(value: float) -> augment.Kind:
        return lambda images, random: torch.full_like(images, value)

    painted = {name: paint(10.0**power) for power, name in enumerate(KINDS)}
    monkeypatch.setattr(augment, "KINDS", painted)
    found = degrade(torch.zeros(500, 3, 16, 16), 3)[:, 0, 0, 0]
    power = found.log10().ceil()
    counts = [int((power == number).sum()) for number in range(len(KINDS))]
    assert sum(counts) == 500 and min(counts) > 70, counts
    share = found / 10**power
    assert 0.3 <= float(share.min()) < 0.32 and 0.98 < float(share.max()) <= 1


@pytest.fixture
def numbers() -> np.random.Generator:
    return np.random.default_rng(0)


def test_blur_is_gaussian_of_the_promised_widths(numbers: np.random.Generator) -> None:
    impulses = torch.zeros(200, 3, 65, 65)
    impulses[..., 32, 32] = 1
    found = KINDS["blur"](impulses, numbers)[:, 0].double()
    assert_close(found.sum((1, 2)), torch.ones(200), 1e-5)
    offset = torch.arange(-32, 33, dtype=torch.float64)
    width = (found.sum(1) * offset.square()).sum(1).sqrt()
    assert 0.45 < float(width.min()) < 0.6 and 4.7 < float(width.max()) <= 5.0
    gauss = torch.exp(-0.5 * (offset / width[:, None]).square())
    gauss = gauss / gauss.sum(1, keepdim=True)
    narrow = (width > 1) & (width < 4)  # a narrow one is undersampled, a wide one cut off
    assert_close(found[narrow], (gauss[:, :, None] * gauss[:, None])[narrow], 0.05)


def test_noise_has_the_promised_deviations(numbers: np.random.Generator) -> None:
    grey = torch.full((200, 3, 32, 32), 0.5)
    found = KINDS["noise"](grey, numbers) - grey
    deviation = found.std((1, 2, 3))
    assert 0.019 < float(deviation.min()) < 0.03 and 0.14 < float(deviation.max()) < 0.156
    standard = found / deviation[:, None, None, None]
    assert float(standard.mean()) == pytest.approx(0, abs=0.01)
    assert float(standard.quantile(0.975)) == pytest.approx(1.96, abs=0.02)


@pytest.mark.parametrize("quality", [5, 25, 50])
def test_jpeg_errs_as_pillows_does(
    quality: int, numbers: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(augment, "QUALITY", (float(quality), float(quality)))
    photo = torch.cat(photos((96, 96)))
    found = KINDS["JPEG"](photo, numbers) - photo
    wanted = torch.stack([jpeg(image, quality) for image in photo]) - photo
    cosine = F.cosine_similarity(found.flatten(1), wanted.flatten(1))
    ratio = found.flatten(1).norm(dim=1) / wanted.flatten(1).norm(dim=1)
    assert cosine.min() > 0.9 and ratio.min() > 0.85 and ratio.max() < 1.15, (cosine, ratio)


def test_jpeg_has_the_promised_qualities(
    numbers: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keep(images: Tensor, quality: Tensor) -> Tensor:
        return quality

    monkeypatch.setattr(augment, "jpeg_codec_differentiable", keep)
    quality = KINDS["JPEG"](torch.zeros(300, 3, 16, 16), numbers)
    assert quality.shape == (300,)
    assert 5 <= float(quality.min()) < 6 and 49 < float(quality.max()) <= 50


def test_colour_changes_each_channel_by_itself(numbers: np.random.Generator) -> None:
    images = torch.rand(200, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = KINDS["colour"](images, numbers)
    gain = found.std((2, 3)) / images.std((2, 3))
    shift = found.mean((2, 3)) - images.mean((2, 3))
    assert 0.4 <= float(gain.min()) < 0.42 and 1.18 < float(gain.max()) < 1.201
    assert -0.151 < float(shift.min()) < -0.14 and 0.14 < float(shift.max()) < 0.151
    assert gain.std(1).min() > 0 and shift.std(1).min() > 0
    mean = images.mean((2, 3), keepdim=True)
    affine = gain[..., None, None] * (images - mean) + mean + shift[..., None, None]
    assert_close(found, affine, 1e-5)


def test_contrast_changes_all_channels_alike(numbers: np.random.Generator) -> None:
    images = torch.rand(200, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.3
    found = KINDS["contrast"](images, numbers)  # no value is clipped
    gain = found.std((2, 3)) / images.std((2, 3))
    assert 0.3 <= float(gain.min()) < 0.32 and 1.18 < float(gain.max()) < 1.201
    assert_close(gain, gain[:, :1].expand(-1, 3), 1e-4)
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    brightness = [(image * luma).sum(1).mean((1, 2)) for image in (found, images)]
    assert_close(brightness[0], brightness[1], 1e-4)
