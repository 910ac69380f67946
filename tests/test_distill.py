"""Distillation: crops, initialisation from the teacher, surrogates, and resuming bit for bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import pgn
from pgn import PgnError
from pgn.backbones import Lite
from pgn.degrade import random_degradation, to_pil
from pgn.distill import loop
from pgn.distill import surrogates as surrogates_module
from pgn.distill.autoencoders import DEPTHS, Autoencoder
from pgn.distill.data import Crops
from pgn.distill.loop import Distiller, distil
from pgn.distill.options import DistillOptions, options_for
from pgn.distill.surrogates import CLIP_FACTOR, RunningNormClip, Surrogate, surrogates
from pgn.distill.thin import initialise
from pgn.files import read_image
from pgn.images import normalise
from pgn.model import residual_from_gradient
from pgn_export.parity import photos
from pgn_runtime.files import read_image as runtime_read_image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of four photos and one broken file."""
    where = tmp_path / "photos"
    where.mkdir()
    for index, photo in enumerate(photos((160, 160))):
        to_pil(photo[0]).save(where / f"{index}.png")
    (where / "broken.jpg").write_bytes(b"no picture")
    return where


@pytest.fixture
def options(folder: Path, tmp_path: Path) -> DistillOptions:
    return DistillOptions(
        folder, tmp_path / "run", images=36, batch=6, crop=32, precision="fp32", workers=0
    )


def test_autoencoders_have_their_published_parameters() -> None:
    found = [sum(p.numel() for p in Autoencoder(depth).parameters()) for depth in DEPTHS]
    assert found == [54_019, 111_491, 408_195]


def test_a_crop_depends_on_seed_and_number_alone(folder: Path) -> None:
    crops, again, other = (Crops(folder, 48, 100, seed) for seed in (1, 1, 2))
    for index in (70, 3):
        for a, b in zip(crops[index], again[index], strict=True):
            assert torch.equal(a, b) and a.shape == (3, 48, 48)
    assert not torch.equal(crops[3][0], other[3][0])
    values = torch.stack([crops[i][0] for i in range(20)])
    assert values.min() >= 0 and values.max() <= 1 and values.std() > 0.1


def test_sixteen_bit_and_turned_pictures_are_read_right(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64 * 40).reshape(40, 64).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (64, 40)).save(tmp_path / "turned.jpg", exif=exif)
    for read in (read_image, lambda path: torch.from_numpy(runtime_read_image(path)[0])):
        assert float(read(tmp_path / "deep.png").mean()) == pytest.approx(0.5, abs=0.01)
        assert read(tmp_path / "turned.jpg").shape == (3, 64, 40)


def test_broken_photos_are_skipped_and_a_folder_of_them_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(PgnError, match="could not be read.*a.jpg"):
        Crops(tmp_path, 32, 1, 0)[0]


def test_a_folder_without_photos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PgnError, match="no .*jpg"):
        Crops(tmp_path, 32, 1, 0)
    with pytest.raises(PgnError, match="no folder"):
        Crops(tmp_path / "nowhere", 32, 1, 0)


def test_initialisation_alone_gives_the_teachers_direction() -> None:
    random = np.random.default_rng(0)
    crops = [
        photo[0, :, top : top + 64, left : left + 64]
        for photo in photos((192, 192))
        for top in (0, 64, 128)
        for left in (0, 64, 128)
    ]
    target = torch.stack(crops)
    generated = torch.stack([random_degradation(crop, random) for crop in crops])
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


def test_meta_loss_is_equation_10(options: DistillOptions) -> None:
    distiller = Distiller(replace(options, vgg_weight=0.5, l1_weight=0.2))
    generator = torch.Generator().manual_seed(0)
    photo, pixels = torch.rand(2, 2, 3, 32, 32, generator=generator)
    residual, truth = torch.randn(2, 2, 3, 32, 32, generator=generator)
    proxy = normalise(pixels)
    found = distiller._meta_loss(residual, truth, proxy, photo)
    wanted = 18.9 * (residual - truth).square().mean()
    wanted = wanted + 0.2 * (proxy - normalise(photo)).abs().mean()
    wanted = wanted + 0.5 * distiller.teacher(pixels, photo).mean()
    assert float(found) == pytest.approx(float(wanted), rel=1e-4)


SHORT = ("data", "output", "images", "batch", "crop", "precision", "workers")


def weights(path: Path) -> dict[str, Tensor]:
    return dict(pgn.load(path).backbone.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["lite", "unet"])
def test_a_killed_run_resumes_bit_for_bit(
    backbone: str, options: DistillOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "REPORT_EVERY", 2)
    monkeypatch.setattr(surrogates_module, "RESET_PROBABILITY", 0.3)  # random states matter
    settings = {k: v for k, v in vars(options).items() if k in SHORT}
    settings |= {"save_every": 0.0, "patience": 1, "vgg_weight": 0.0}
    whole = options_for(backbone, **settings)
    undisturbed = distil(whole, lambda figures: None)

    killed = replace(whole, output=whole.output.with_name("killed"))

    def kill(figures: Any) -> None:
        if figures.images >= 24:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distil(killed, kill)
    seen: list[int] = []
    resumed = distil(killed, lambda figures: seen.append(figures.images), resume=True)
    assert seen[-1] == 36 and seen[0] > 12, seen
    first, second = weights(undisturbed), weights(resumed)
    assert all(torch.equal(first[name], second[name]) for name in first)
    lines = (killed.output / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["images"] for line in lines] == [12, 24, 36]


def test_a_damaged_state_is_refused(options: DistillOptions) -> None:
    options.output.mkdir()
    for contents in ({"identity": options.identity()}, [1], {"identity": 3}):
        torch.save(contents, options.output / "state.pt")
        with pytest.raises(PgnError, match="state.pt is damaged"):
            distil(options, lambda figures: None, resume=True)
    (options.output / "state.pt").write_bytes(b"cut")
    with pytest.raises(PgnError, match="it is damaged"):
        distil(options, lambda figures: None, resume=True)


def test_a_surrogate_that_turned_nan_does_no_harm(options: DistillOptions) -> None:
    distiller = Distiller(options)
    for parameter in distiller.surrogates[1].net.parameters():
        nn.init.constant_(parameter, torch.nan)
    pairs = [Crops(options.data, 32, 6, 0)[i] for i in range(6)]
    photos_, degraded = (torch.stack(part) for part in zip(*pairs, strict=True))
    for _ in range(2):
        loss, cosine, _ = distiller.step(photos_, degraded)
        assert np.isfinite([loss, cosine]).all()
    assert all(torch.isfinite(p).all() for p in distiller.net.parameters())


def test_a_diverged_network_stops_the_run(options: DistillOptions) -> None:
    distiller = Distiller(options)
    nn.init.constant_(next(distiller.net.parameters()), torch.nan)
    photo = torch.rand(6, 3, 32, 32)
    with pytest.raises(PgnError, match="loss is nan at step 0.*--learning-rate"):
        distiller.step(photo, photo)


def test_runs_are_neither_overwritten_nor_resumed_with_other_options(
    options: DistillOptions,
) -> None:
    with pytest.raises(PgnError, match="Leave --resume out"):
        distil(options, lambda figures: None, resume=True)
    settings = {k: v for k, v in vars(options).items() if k in SHORT} | {"images": 6}
    options = options_for("resnet4", **settings, vgg_weight=0.0)
    distil(options, lambda figures: None)
    with pytest.raises(PgnError, match="holds a run already"):
        distil(options, lambda figures: None)
    with pytest.raises(PgnError, match="began with seed=0"):
        distil(replace(options, seed=1), lambda figures: None, resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 7}, "--batch: got 7, expected 3 \\+ a multiple of 3"),
        ({"crop": 50}, "--crop: got 50, expected a multiple of 32"),
        ({"images": 1}, "--images"),
        ({"learning_rate": float("nan")}, "--learning-rate"),
        ({"precision": "fp16"}, "Did you mean"),
        ({"backbone": "resnet5"}, "Did you mean 'resnet"),
        ({"teacher": "lpips-alex"}, "--?teacher|teacher: got 'lpips-alex'"),
        ({"teacher": "vgg16"}, "lite has the layers of vgg19"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_options_are_validated_with_the_flags_name(
    change: dict[str, Any], message: str, options: DistillOptions
) -> None:
    with pytest.raises(PgnError, match=message):
        replace(options, **change)


def test_there_is_a_surrogate_of_every_depth() -> None:
    assert [s.depth for s in surrogates(10)] == [0, 1, 2]


def test_a_palette_picture_can_be_trained_on(tmp_path: Path) -> None:
    Image.new("P", (64, 40), 3).save(tmp_path / "palette.png")
    assert Crops(tmp_path, 32, 1, 0)[0][0].shape == (3, 32, 32)
