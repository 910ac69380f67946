"""Distillation: crops, initialisation from the teacher, surrogates, and resuming bit for bit."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import pgn
from pgn import PgnError
from pgn.backbones import Lite
from pgn.degrade import blur
from pgn.distill.autoencoders import DEPTHS, Autoencoder
from pgn.distill.options import DistillOptions
from pgn.distill.surrogates import CLIP_FACTOR, RunningNormClip, Surrogate, surrogates
from pgn.distill.thin import imitated, initialise
from pgn.files import read_image
from pgn.images import normalise
from pgn.model import residual_from_gradient
from pgn.teachers.trunk import TORCHVISION, VGGTrunk
from pgn_export.parity import photos
from pgn_runtime.files import read_image as runtime_read_image


@pytest.fixture
def options(tmp_path: Path) -> DistillOptions:
    return DistillOptions(str(tmp_path), tmp_path / "run", images=36, batch=6, crop=32)


def test_autoencoders_have_their_published_parameters() -> None:
    found = [sum(p.numel() for p in Autoencoder(depth).parameters()) for depth in DEPTHS]
    assert found == [54_019, 111_491, 408_195]


def test_sixteen_bit_and_turned_pictures_are_read_right(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64 * 40).reshape(40, 64).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (64, 40)).save(tmp_path / "turned.jpg", exif=exif)
    for read in (read_image, lambda path: torch.from_numpy(runtime_read_image(path)[0])):
        assert float(read(tmp_path / "deep.png").mean()) == pytest.approx(0.5, abs=0.01)
        assert read(tmp_path / "turned.jpg").shape == (3, 64, 40)


def test_initialisation_alone_gives_the_teachers_direction() -> None:
    crops = [
        photo[0, :, top : top + 64, left : left + 64]
        for photo in photos((192, 192))
        for top in (0, 64, 128)
        for left in (0, 64, 128)
    ]
    target = torch.stack(crops)
    generated = torch.stack([blur(crop, 1.5) for crop in crops])
    teacher = pgn.PerceptualLoss()
    student = Lite(((8, 8), (16, 16), (32, 32, 32, 32), (32,)))
    held_out = slice(0, None, 4)  # a quarter of the crops is not fitted
    kept = [i for i in range(len(crops)) if i % 4]
    fits = initialise(student, teacher, target[kept], generated[kept], 40.0)
    assert fits[0].r_squared > 0.99 and min(fit.r_squared for fit in fits) > 0.5
    truth = residual_from_gradient(
        teacher.gradient(generated[held_out], target[held_out]), 40.0
    ).flatten(1)
    with torch.no_grad():
        found = student(normalise(generated[held_out]), normalise(target[held_out])).flatten(1)
    mse = normalise(generated[held_out]) - normalise(target[held_out])
    cosine = float(F.cosine_similarity(found, truth).mean())
    mse_cosine = float(F.cosine_similarity(mse.flatten(1), truth).mean())
    assert cosine > 0.4 and cosine > mse_cosine + 0.08, f"{cosine:.3f}, MSE {mse_cosine:.3f}"


def test_shorter_blocks_imitate_the_teachers_last_layers_and_the_deepest_its_first() -> None:
    vgg19 = VGGTrunk("vgg19", TORCHVISION).pooled
    assert imitated(Lite().pooled, vgg19) == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert imitated(Lite(((4,), (4, 4), (4, 4), (4, 4))).pooled, vgg19) == [1, 2, 3, 6, 7, 8, 9]
    vgg11, vgg16 = (VGGTrunk(name, TORCHVISION).pooled for name in ("vgg11", "vgg16"))
    assert imitated(Lite(((4,), (4,), (4,))).pooled, vgg11) == [0, 1, 2]
    assert imitated(Lite().pooled, vgg16) == []


def test_a_teacher_of_another_shape_leaves_the_start_at_random() -> None:
    student = Lite(((4, 4, 4), (4,)))
    before = deepcopy(student.state_dict())
    pair = torch.rand(2, 1, 3, 32, 32)
    assert initialise(student, pgn.PerceptualLoss(), pair[0], pair[1], 40.0) == []
    assert all(torch.equal(value, before[key]) for key, value in student.state_dict().items())


def test_clipping_follows_each_ones_own_running_norm() -> None:
    parameter = nn.Parameter(torch.zeros(4))
    quiet, loud = RunningNormClip(), RunningNormClip()
    for clip, size in ((quiet, 1.0), (loud, 100.0)):
        for _ in range(5):
            parameter.grad = torch.full((4,), size / 2)
            clip([parameter])
    assert [quiet.mean, loud.mean] == pytest.approx([1, 100])
    parameter.grad = torch.full((4,), 50.0)  # norm 100
    quiet([parameter])
    assert float(parameter.grad.norm()) == pytest.approx(CLIP_FACTOR, rel=1e-4)
    parameter.grad = torch.full((4,), 50.0)
    loud([parameter])
    assert float(parameter.grad.norm()) == pytest.approx(100)


def test_a_surrogate_that_diverges_starts_again() -> None:
    surrogate = Surrogate(0, patience=10)
    before = surrogate.net
    image = torch.full((2, 3, 32, 32), 5000.0)
    surrogate.follow(surrogate.net(image), torch.ones(2, 3, 32, 32), image)
    assert surrogate.net is not before and surrogate.best_l1 == float("inf")


def test_a_surrogate_that_stops_learning_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgn.distill.surrogates.RESET_PROBABILITY", 1.0)
    surrogate = Surrogate(0, patience=3)
    before, target = surrogate.net, torch.zeros(2, 3, 32, 32)
    for _ in range(4):
        surrogate.best_l1 = 0.0  # nothing can improve on this
        surrogate.follow(surrogate.net(target + 1), torch.zeros_like(target), target)
        if surrogate.net is not before:
            break
    assert surrogate.net is not before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 7}, "batch: got 7, expected 3 \\+ a multiple of 3"),
        ({"crop": 50}, "crop: got 50, expected a multiple of 32"),
        ({"canvas": 16}, "canvas: got 16, expected at least the crop's 32"),
        ({"scales": [2.0, 1.0]}, "scales: got"),
        ({"images": 1}, "images: got 1, expected at least 6"),
        ({"images": 6, "devices": 2}, "images: got 6, expected at least 12"),
        ({"learning_rate": float("nan")}, "learning_rate: got nan"),
        ({"precision": "fp16"}, "Did you mean"),
        ({"backbone": "resnet5"}, "Did you mean 'resnet"),
        ({"backbone": "unet", "widths": [[4], [4]]}, "widths: got .* unet has its own"),
        ({"replay": 1}, "bank: got 0, expected at least 6, since replay = 1"),
        ({"optimiser": "mion"}, "Did you mean 'muon'"),
        ({"seed": -1}, "seed: got -1"),
        ({"vgg_weight": -0.5}, "vgg_weight: got -0.5"),
    ],
)
def test_options_are_validated_with_the_flags_name(
    change: dict[str, Any], message: str, options: DistillOptions
) -> None:
    with pytest.raises(PgnError, match=message):
        replace(options, **change)


def test_there_is_a_surrogate_of_every_depth() -> None:
    assert [s.depth for s in surrogates(10)] == [0, 1, 2]
