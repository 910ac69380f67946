"""Peers against other code for the same gradients; situations against plain fits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import SHARED, assert_close
from safetensors.torch import save_file
from torch import Tensor

import pgn
from pgn import PgnError
from pgn.degrade import BESIDE, SUITE, blur
from pgn.evaluate import situations
from pgn.evaluate.measures import (
    compare,
)
from pgn.evaluate.peers import exact, halved, load_peers, mse, predicted
from pgn.evaluate.skip_network import seeded_start
from pgn.teachers import PerceptualLoss
from pgn.teachers.lpips import LPIPS
from pgn.teachers.trunk import TORCHVISION, VGGTrunk
from pgn_export.parity import photos


@pytest.fixture(scope="module")
def teacher() -> PerceptualLoss:
    return PerceptualLoss("vgg19")


def test_peers_are_the_gradients_of_their_losses(teacher: PerceptualLoss, photo: Tensor) -> None:
    generated = blur(photo[0], 2.0)[None]
    variable = generated.double().requires_grad_()
    (wanted,) = torch.autograd.grad(F.mse_loss(variable, photo.double()), variable)
    assert_close(mse(photo)(generated), wanted, 1e-6)
    assert_close(exact(teacher)(photo)(generated), teacher.gradient(generated, photo), 1e-6)
    net = pgn.load("pgn-lite")
    assert torch.equal(predicted(net)(photo)(generated), net.gradient(generated, photo))


@pytest.mark.parametrize("side", [64, 67])
def test_half_resolution_spreads_the_coarse_gradient(
    teacher: PerceptualLoss, photo: Tensor, side: int
) -> None:
    target = photo[..., :side, :side]
    generated = blur(target[0], 2.0)[None]
    coarse = [image.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5)) for image in (generated, target)]
    gradient = teacher.gradient(*coarse)
    wanted = torch.zeros_like(target)  # what is left over at an odd side has no gradient
    spread = gradient.repeat_interleave(2, 2).repeat_interleave(2, 3) / 4
    wanted[..., : spread.shape[2], : spread.shape[3]] = spread
    assert_close(halved(teacher)(target)(generated), wanted, 1e-5)


def alex_weights(path: Path) -> Path:
    """A file of random weights in the layout of lpips_alex.safetensors."""
    state = {
        key.replace("convs.", "conv").replace("lins.", "lin"): value.abs()
        for key, value in LPIPS("lpips-alex").state_dict().items()
        if key not in ("shift", "scale")
    }
    save_file(state, path)
    return path


@pytest.mark.usefixtures("offline")
def test_peers_without_weights_are_left_out_unless_asked_for(
    teacher: PerceptualLoss, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as nothing_is_downloaded:
        nothing_is_downloaded.setattr("torch.hub.urlopen", lambda *_: pytest.fail("a download"))
        found, left_out = load_peers(teacher, {})
    assert list(found) == ["mse", "vgg19-half"]
    assert list(left_out) == ["vgg16", "vgg11", "lpips-alex"]
    assert "--peer vgg11 to download them" in left_out["vgg11"]
    file = alex_weights(tmp_path / "alex.safetensors")
    found, left_out = load_peers(teacher, {"lpips-alex": str(file)})
    assert list(found) == ["mse", "vgg19-half", "lpips-alex"]
    with pytest.raises(PgnError, match="could not be downloaded"):
        load_peers(teacher, {"vgg11": None})
    with pytest.raises(PgnError, match="Did you mean 'vgg16'"):
        load_peers(teacher, {"vgg61": None})


@pytest.mark.usefixtures("offline")
def test_peers_of_an_earlier_download_are_there(teacher: PerceptualLoss, tmp_path: Path) -> None:
    kept = tmp_path / "hub" / "checkpoints" / "vgg11-8a719046.pth"  # of torch.hub
    kept.parent.mkdir(parents=True)
    trunk = VGGTrunk("vgg11", TORCHVISION).state_dict()
    torch.save({key.replace("convs", "features"): value for key, value in trunk.items()}, kept)
    found, left_out = load_peers(teacher, {})
    assert list(found) == ["mse", "vgg19-half", "vgg11"]
    assert list(left_out) == ["vgg16", "lpips-alex"]


@pytest.mark.usefixtures("offline")
def test_peers_point_where_they_did_before_the_project(
    teacher: PerceptualLoss, photo: Tensor
) -> None:
    weights = SHARED / "weights"
    if not weights.is_dir():
        pytest.skip(f"{weights} is not here; the test with random weights is the offline twin")
    files = {"vgg16": "lpips_vgg16_fp16.safetensors", "lpips-alex": "lpips_alex.safetensors"}
    found, _ = load_peers(teacher, {name: str(weights / file) for name, file in files.items()})
    generated = blur(photo[0], 1.5)[None]
    true = exact(teacher)(photo)(generated)
    cosines = {
        name: compare(towards(photo)(generated), true)["cosine"] for name, towards in found.items()
    }
    published = {"mse": 0.272, "vgg19-half": 0.381, "vgg16": 0.620, "lpips-alex": 0.127}
    for name, wanted in published.items():  # means of 12 other photos
        assert cosines[name] == pytest.approx(wanted, abs=0.12), cosines


def test_autoencoders_are_the_same_every_time_and_have_learned() -> None:
    target = torch.cat(list(photos((32, 32))[:2]))
    before = torch.get_rng_state()
    draw, again = (situations.fitted_autoencoders(target, steps=4) for _ in range(2))
    raw = situations.fitted_autoencoders(target, steps=0)
    assert torch.equal(torch.get_rng_state(), before)
    odd = target[0, :, :27, :31]
    for name, image in draw(odd).items():
        assert image.shape == odd.shape and not image.requires_grad
        assert torch.equal(image, again(odd)[name])
        errors = [float(F.mse_loss(drawn(odd)[name], odd)) for drawn in (draw, raw)]
        assert errors[0] < errors[1], (name, errors)
    assert list(draw(odd)) == ["autoencoder 0", "autoencoder 1", "autoencoder 2"]
    wide = torch.rand(3, 32, 256)
    other = torch.cat([wide[..., :192], torch.zeros(3, 32, 64)], dim=2)
    for name, image in draw(wide).items():  # batch norm has learned: it ignores far pixels
        assert_close(draw(other)[name][..., :32], image[..., :32], 1e-5)


def test_the_trajectory_is_adam_on_the_teachers_loss(
    teacher: PerceptualLoss, photo: Tensor
) -> None:
    target = photo[..., :48, :48]
    found = situations.trajectory(teacher, steps=4)(target[0])
    net, noise = seeded_start(situations.TRAJECTORY_SEED, 48, 48)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    states, losses = [], []
    for _ in range(5):
        generated = net(noise)
        loss = teacher(generated, target).sum()
        states.append(generated.detach()[0])
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert list(found) == ["fit, step 0", "fit, step 2", "fit, step 4"]
    for state, wanted in zip(found.values(), states[::2], strict=True):
        assert_close(state, wanted, 1e-3)
    assert losses[-1] < losses[0]


def test_the_generator_begins_within_what_a_pgn_takes() -> None:
    for side in (48, 64, 128, 224):
        net, noise = seeded_start(situations.TRAJECTORY_SEED, side, side)
        assert float(net(noise).detach().abs().max()) < 3


def test_situations_are_chosen_by_name(teacher: PerceptualLoss) -> None:
    degraded, fit = situations.prepare(("degraded", "trajectory"), teacher, [], (64, 48))
    assert sorted(degraded.sizes) == [48, 64] and degraded.photos is None
    assert fit.sizes == (48,) and fit.photos == situations.TRAJECTORY_PHOTOS
    assert list(degraded.draw(torch.rand(3, 32, 32))) == [*SUITE, *BESIDE]
    with pytest.raises(PgnError, match="--size: got 32, expected at least 33"):
        situations.prepare(("trajectory",), teacher, [], (32, 48))
