"""Pixel losses against brute force in float64, and any function as a teacher."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from pgn import PerceptualLoss, PgnError
from pgn.teachers import Teacher, load_teacher
from pgn.teachers.pixelwise import LOSSES, ncc, ssd, zncc

Array = NDArray[np.float64]
Write = Callable[[str], str]


def brute_ssd(a: Array, b: Array) -> float:
    return sum((x - y) ** 2 for x, y in zip(a.ravel(), b.ravel(), strict=True)) / a.size


def brute_ncc(a: Array, b: Array) -> float:
    return 1 - float(np.dot(a.ravel(), b.ravel()) / np.sqrt((a**2).sum() * (b**2).sum()))


def brute_zncc(a: Array, b: Array) -> float:
    return 1 - float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


BRUTE = {"ssd": brute_ssd, "ncc": brute_ncc, "zncc": brute_zncc}


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(1, 3),
    side=st.integers(4, 9),
    contrast=st.floats(0.1, 1.0),
)
def test_pixel_losses_are_their_definitions(
    name: str, seed: int, count: int, side: int, contrast: float
) -> None:
    random = np.random.default_rng(seed)
    generated, target = random.random((2, count, 3, side, side + 1))
    generated = 0.3 + contrast * generated
    found = LOSSES[name](torch.from_numpy(generated), torch.from_numpy(target))
    wanted = [BRUTE[name](a, b) for a, b in zip(generated, target, strict=True)]
    assert_close(found, np.array(wanted), 1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_pixel_gradients_are_those_of_finite_differences(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    generated, target = torch.rand(2, 2, 3, 32, 32, generator=generator, dtype=torch.float64)
    teacher = load_teacher(name)
    direction = torch.randn(generated.shape, generator=generator, dtype=torch.float64)
    found = (teacher.gradient(generated, target) * direction).sum(dim=(1, 2, 3))
    step = 1e-6 * direction
    rise = (teacher(generated + step, target) - teacher(generated - step, target)) / 2e-6
    assert_close(found, rise, 1e-6)


def test_correlations_ignore_what_they_should(pair: tuple[Tensor, Tensor]) -> None:
    generated, target = (image.double() for image in pair)
    assert_close(ncc(0.3 * generated, target), ncc(generated, target), 1e-12)
    assert_close(zncc(0.3 * generated + 0.2, target), zncc(generated, target), 1e-12)
    assert (ncc(0.3 * generated + 0.2, target) - ncc(generated, target)).abs().min() > 1e-3


@pytest.mark.parametrize("name", LOSSES)
def test_losses_do_not_grow_with_the_image(name: str, pair: tuple[Tensor, Tensor]) -> None:
    generated, target = (image.double() for image in pair)
    larger = LOSSES[name](generated.repeat(1, 1, 2, 3), target.repeat(1, 1, 2, 3))
    assert_close(larger, LOSSES[name](generated, target), 1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_float32_is_exact_close_to_the_target(name: str, pair: tuple[Tensor, Tensor]) -> None:
    _, target = pair
    generator = torch.Generator().manual_seed(0)
    generated = target + 1e-4 * torch.randn(target.shape, generator=generator)
    wanted = LOSSES[name](generated.double(), target.double())
    assert_close(LOSSES[name](generated, target), wanted, 1e-3)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_constant_images_have_a_small_finite_gradient(
    name: str, level: float, pair: tuple[Tensor, Tensor]
) -> None:
    constant, other = torch.full_like(pair[0], level), pair[1]
    teacher = load_teacher(name)
    for generated, target in ((constant, other), (other, constant), (constant, constant)):
        losses, gradient = teacher(generated, target), teacher.gradient(generated, target)
        assert losses.isfinite().all() and gradient.isfinite().all()
        # of one image, a unit vector's slope is at most that of an image of one grey level
        assert float(gradient.flatten(1).norm(dim=1).max()) <= 2 * 255 / gradient[0].numel() ** 0.5
    assert float(teacher(constant, constant).abs().max()) == 0


@pytest.mark.parametrize("spec", [*LOSSES, "vgg19"])
def test_teachers_are_used_alike(spec: str, pair: tuple[Tensor, Tensor]) -> None:
    generated, target = pair
    teacher: Teacher = load_teacher(spec).to("cpu")
    assert teacher.source == {"vgg19": "vgg19-oxford"}.get(spec, spec)
    with torch.no_grad():
        features = teacher.features(target)
        losses = teacher(generated, target)
        assert losses.shape == (2,) and torch.equal(teacher(generated, features), losses)
        gradient = teacher.gradient(generated, features)
    variable = generated.clone().requires_grad_()
    teacher(variable, target).sum().backward()  # type: ignore[no-untyped-call]
    assert variable.grad is not None
    assert_close(gradient, variable.grad, 0)
    with pytest.raises(PgnError, match="expected that of generated"):
        teacher(generated, target[:1])


def test_names_of_networks_give_the_perceptual_loss_with_its_options() -> None:
    teacher = load_teacher("vgg19", "oxford", layers={"relu1_2": 2}, norm="squared-l2")
    assert isinstance(teacher, PerceptualLoss)
    assert teacher.source == "vgg19-oxford(relu1_2=2.0;squared-l2)"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a module into a current folder of its own; returns the module's name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def write_module(code: str) -> str:
        (tmp_path / "my_losses.py").write_text("import torch\n" + code, encoding="utf-8")
        return "my_losses"

    yield write_module
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]


L1 = "def l1(generated, target):\n    return (generated - target).abs().mean(dim=(1, 2, 3))\n"


def test_a_function_of_the_current_folder_is_a_teacher(
    write: Write, pair: tuple[Tensor, Tensor]
) -> None:
    generated, target = pair
    teacher = load_teacher(f"{write(L1)}:l1")
    assert teacher.source == "my_losses:l1"
    assert_close(teacher(generated, target), (generated - target).abs().flatten(1).mean(1), 1e-6)
    wanted = (generated - target).sign() / generated[0].numel()
    assert_close(teacher.gradient(generated, teacher.features(target)), wanted, 1e-6)


def test_a_modules_neighbours_can_be_imported_late(
    write: Write, tmp_path: Path, pair: tuple[Tensor, Tensor]
) -> None:
    (tmp_path / "my_helper.py").write_text(L1, encoding="utf-8")
    name = write("def late(a, b):\n    import my_helper\n    return my_helper.l1(a, b)\n")
    assert load_teacher(f"{name}:late")(*pair).shape == (2,)


def test_a_module_with_weights_is_frozen_and_moves(write: Write) -> None:
    name = write(
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layers = torch.nn.Sequential(\n"
        "            torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Dropout())\n"
        "    def forward(self, a, b):\n"
        "        return (self.layers(a) - self.layers(b)).square().mean(dim=(1, 2, 3))\n"
        "net = Net()\n"
    )
    teacher = load_teacher(f"{name}:net")  # in train mode dropout and batch norm would be refused
    assert isinstance(teacher, nn.Module)
    assert not any(p.requires_grad for p in teacher.parameters())
    images = torch.rand(2, 1, 3, 32, 32, dtype=torch.float64)
    assert teacher.double()(*images).dtype == torch.float64


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return (a - b).abs().mean()", r"returned torch.float32 of shape \(\) for 2 image"),
        ("return (a - b).abs().mean(dim=(0, 2, 3))", r"shape \(3,\).*Expected loss\(generated"),
        ("return (a - b).abs().mean(dim=(1, 2, 3)).squeeze()", r"shape \(\) for 1 image"),
        ("return ((a - b) > 0).sum(dim=(1, 2, 3))", r"returned torch.int64"),
        ("return [1.0, 2.0]", "returned a list"),
        ("return None", "returned a NoneType"),
        ("return (a - b).abs().mean(dim=(1, 2, 3)).detach()", "without gradient"),
        ("return (a - a).mean(dim=(1, 2, 3)).sqrt()", "NaN or infinity"),
        ("return (b - b - 1).mean(dim=(1, 2, 3)).log() * a.mean()", "NaN or infinity"),
        ("return (a * 255).round().mean(dim=(1, 2, 3))", "a gradient of zeros"),
        ("return (a - b).abs().mean().expand(2)[:len(a)]", "two images together"),
        ("return ((a - b) / b.amax()).abs().mean(dim=(1, 2, 3))", "must not mix images"),
        ("return torch.rand(len(a)) * a.mean(dim=(1, 2, 3))", "random numbers"),
        ("return b.sub_(a).square().mean(dim=(1, 2, 3))", "two images together"),
        ("return a.missing", "raised AttributeError: 'Tensor' object has no attribute 'missing'"),
        ("return a.clamp_(0, 1).mean(dim=(1, 2, 3))", "raised RuntimeError: a leaf Variable"),
        ("y = a.exp(); z = y.mean(dim=(1, 2, 3)); y.zero_(); return z * y.mean(dim=(1, 2, 3))",
         "teacher: my_losses:loss"),
        ("raise AssertionError", "my_losses:loss raised AssertionError"),
    ],
)  # fmt: skip
def test_functions_that_are_no_losses_are_refused(body: str, message: str, write: Write) -> None:
    name = write(f"def loss(a, b):\n    {body}\n")
    with pytest.raises(PgnError, match=message) as caught:
        load_teacher(f"{name}:loss")
    assert "my_losses:loss" in str(caught.value) and "\n" not in str(caught.value)


def test_what_fails_in_autograd_or_later_is_reported_too(write: Write) -> None:
    name = write(
        "def picky(a, b):\n"
        "    assert len(a) < 3, 'three is too many'\n"
        "    return (a - b).square().mean(dim=(1, 2, 3))\n"
        "class Bad(torch.autograd.Function):\n"
        "    forward = staticmethod(lambda ctx, a: a.mean(dim=(1, 2, 3)))\n"
        "    @staticmethod\n"
        "    def backward(ctx, grad):\n"
        "        raise KeyError('saved')\n"
        "bad = lambda a, b: Bad.apply(a - b)\n"
    )
    picky = load_teacher(f"{name}:picky")
    for call in (picky, picky.gradient):
        with pytest.raises(PgnError, match="picky raised AssertionError: three is too many"):
            call(torch.rand(3, 3, 32, 32), torch.rand(3, 3, 32, 32))
    with pytest.raises(PgnError, match="my_losses:bad raised KeyError: 'saved'"):
        load_teacher(f"{name}:bad")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("zncx", "teacher: got 'zncx'.*ssd, ncc, zncc, module:callable.*Did you mean 'zncc'"),
        ("vgg91", "Did you mean 'vgg19'"),
        ("my_losses:l2", "callable of my_losses: got 'l2', expected one of l1. Did you mean 'l1'"),
        ("my_losses:NUMBER", "callable of my_losses: got 'NUMBER'"),
        ("my_lossez:l1", "import of my_lossez raised ModuleNotFoundError.*installed or lies in /"),
        ("my_losses.py:l1", "import of my_losses.py raised ModuleNotFoundError"),
        (":l1", "raised ValueError: Empty module name"),
        ("my_losses:", "callable of my_losses: got ''"),
        ("my_broken:l1", "import of my_broken raised SyntaxError"),
    ],
)
def test_unknown_losses_are_refused(spec: str, message: str, write: Write, tmp_path: Path) -> None:
    write(L1 + "NUMBER = 3\n")
    (tmp_path / "my_broken.py").write_text("def l1(:\n", encoding="utf-8")
    with pytest.raises(PgnError, match=message):
        load_teacher(spec)


@pytest.mark.parametrize(
    "options", [{"weights": "oxford"}, {"layers": {"relu1_1": 1.0}}, {"norm": "squared-l2"}]
)
def test_options_of_networks_are_refused_elsewhere(options: dict[str, str]) -> None:
    with pytest.raises(PgnError, match="teacher ssd: got weights=.*Leave them out"):
        load_teacher("ssd", **options)  # type: ignore[arg-type]


def test_ssd_pulls_straight_to_the_target(pair: tuple[Tensor, Tensor]) -> None:
    generated, target = pair
    wanted = 2 / generated[0].numel() * (generated - target)
    assert_close(load_teacher("ssd").gradient(generated, target), wanted, 1e-6)
    assert_close(ssd(generated, target), (generated - target).square().flatten(1).mean(1), 1e-6)
