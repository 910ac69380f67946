"""The networks of a talking head against their formulas, written with other functions of torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pgn import PgnError
from pgn.avatar import (
    CONFIGS,
    Discriminator,
    Embedder,
    Generator,
    GeneratorConfig,
    PersonalGenerator,
    personalise,
    trainable,
)
from pgn.avatar.generator import EPSILON, TRAINABLE, InstanceNorm, LastBlock, StyledBlock, adain

TINY = GeneratorConfig(16, (4, 5, 6, 7), 2)


def tiny(seed: int = 0) -> tuple[Generator, Tensor, Tensor]:
    """A generator, conditions (2, 3, 16, 24) and styles (2, S)."""
    torch.manual_seed(seed)
    generator = Generator(TINY)
    return generator, torch.rand(2, 3, 16, 24), torch.randn(2, generator.style_size)


def gmacs(net: nn.Module, *inputs: Tensor) -> float:
    """Of one forward pass: every output of a convolution or linear layer costs a row of weights."""
    counts = []

    def count(layer: nn.Module, _: Any, out: Tensor) -> None:
        assert isinstance(layer, (nn.Conv2d, nn.Linear))
        counts.append(out.numel() * layer.weight[0].numel())

    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(count)
    net(*inputs)
    return sum(counts) / 1e9


def millions(net: nn.Module) -> float:
    return sum(p.numel() for p in net.parameters()) / 1e6


def without_gradient(net: nn.Module) -> list[str]:
    """Parameters that the last backward pass left without a gradient, or with zeros only."""
    found = [(name, p.grad) for name, p in net.named_parameters()]
    return [name for name, gradient in found if gradient is None or not gradient.any()]


# --- generator


def test_budgets_of_a_phone() -> None:
    generator, image = Generator(), torch.rand(1, 3, 128, 128)
    style = torch.zeros(1, generator.style_size)
    assert 1.0 < millions(generator) < 3.0
    assert gmacs(generator, image, style) < 0.9
    assert gmacs(Embedder(8), image, image) < 0.15
    assert gmacs(Discriminator(1), image, image, torch.zeros(1, 128)) < 0.25


def test_every_size_has_a_generator_that_ends_at_16_pixels() -> None:
    for size, config in CONFIGS.items():
        assert config.size == size == 16 * config.multiple
        generator = Generator(config)
        image = generator(torch.rand(1, 3, size, size), torch.zeros(1, generator.style_size))
        assert image.shape == (1, 3, size, size)


def test_adain_is_its_formula_term_by_term() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64) * 3 + 100
    style = torch.randn(2, 6, dtype=torch.float64)
    wanted = torch.empty_like(x)
    for n in range(2):
        for c in range(3):
            values = x[n, c].flatten().tolist()
            mean = sum(values) / 20
            deviation = (sum((v - mean) ** 2 for v in values) / 20 + EPSILON) ** 0.5
            wanted[n, c] = (x[n, c] - mean) / deviation * (1 + style[n, c]) + style[n, 3 + c]
    assert_close(adain(x, style), wanted, 1e-12)
    assert_close(adain(x.float(), style.float()), wanted, 1e-4)


@given(height=st.integers(2, 9), width=st.integers(2, 9), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_zero_style_is_torchs_instance_norm(height: int, width: int, seed: int) -> None:
    x = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(seed))
    wanted = F.instance_norm(x.double(), eps=EPSILON)
    assert_close(adain(x, torch.zeros(1, 6)), wanted, 1e-5)
    assert_close(InstanceNorm()(x), wanted, 1e-5)


def reference_image(generator: Generator, condition: Tensor, style: Tensor) -> Tensor:
    """The generator in the paper's order, of other functions of torch: enlarge first."""
    numbers = iter(style.unbind(1))

    def styled(x: Tensor) -> Tensor:
        scale, bias = (torch.stack([next(numbers) for _ in range(x.shape[1])], 1) for _ in range(2))
        normal = F.instance_norm(x, eps=EPSILON)
        return torch.relu(torch.einsum("nchw,nc->nchw", normal, 1 + scale) + bias[:, :, None, None])

    def enlarged(x: Tensor, scale: int) -> Tensor:
        return x.repeat_interleave(scale, 2).repeat_interleave(scale, 3)

    first, *others = [layer for layer in generator.encoder if isinstance(layer, nn.Conv2d)]
    x = F.conv2d(condition, first.weight, stride=2, padding=1)
    for conv in others:
        x = F.conv2d(torch.relu(F.instance_norm(x, eps=EPSILON)), conv.weight, None, 2, 1)
    for block in (*generator.bottleneck, *generator.decoder):
        assert isinstance(block, StyledBlock)
        inner = F.conv2d(enlarged(styled(x), block.scale), block.first.weight, padding=1)
        inner = F.conv2d(styled(inner), block.second.weight, padding=1)
        x = enlarged(x, block.scale)
        if isinstance(block.shortcut, nn.Conv2d):
            x = F.conv2d(x, block.shortcut.weight)
        x = x + inner
    last = generator.last
    assert isinstance(last, LastBlock)
    x = styled(F.conv2d(enlarged(styled(x), 2), last.first.weight, padding=1))
    assert next(numbers, None) is None, "a part of the style was not used"
    return 1 / (1 + torch.exp(-F.conv2d(x, last.image.weight, last.image.bias, padding=1)))


def test_generator_is_the_papers_in_float64() -> None:
    generator, condition, style = tiny()
    found = generator(condition, style).detach()
    exact = reference_image(generator.double(), condition.double(), style.double()).detach()
    assert found.shape == (2, 3, 16, 24)
    assert_close(found, exact, 1e-4)
    assert_close(generator(condition.double(), style.double()).detach(), exact, 1e-12)


def test_the_bottleneck_neither_enlarges_nor_projects() -> None:
    generator, _, _ = tiny()
    assert [b.scale for b in generator.bottleneck] == [1] * TINY.blocks
    assert [b.scale for b in generator.decoder] == [2, 2]
    assert all(isinstance(b.shortcut, nn.Identity) for b in generator.bottleneck)


def operations(result: Tensor) -> set[str]:
    """What autograd would step back through, as PyTorch calls it without `Backward0`."""
    found, waiting = {}, [result.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found[node] = node.name().partition("Backward")[0]
            waiting += [parent for parent, _ in node.next_functions]
    return set(found.values())


def test_a_personal_generator_is_made_of_what_phones_have() -> None:
    generator, condition, style = tiny()
    found = operations(personalise(generator, style[0])(condition))
    arithmetic = {"Add", "Sub", "Mul", "Mean", "Rsqrt", "Relu", "Sigmoid"}
    of_the_style = {"SplitWithSizes", "Split", "Unsqueeze"}  # no other view: no rank above 4
    leaves = {"torch::autograd::AccumulateGrad"}
    assert found <= arithmetic | of_the_style | leaves | {"Convolution", "UpsampleNearest2D"}


SIDES = st.sampled_from((8, 12, 16, 23, 24))


@settings(max_examples=12, deadline=None)
@given(height=SIDES, width=SIDES)
def test_sides_must_be_multiples_of_the_coarsest_pixel(height: int, width: int) -> None:
    generator, _, style = tiny()
    condition = torch.rand(2, 3, height, width)
    nets: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda x: generator(x, style),
        personalise(generator, style[0]),
    )
    for net in nets:
        if height % 8 == width % 8 == 0:
            image = net(condition)
            assert image.shape == condition.shape
            assert image.min() > 0 and image.max() < 1
        else:
            with pytest.raises(PgnError, match=f"{height}, {width}.*multiples of 8 pixels.*16x16"):
                net(condition)


def test_bad_configurations_and_styles_are_named() -> None:
    widths: tuple[Any, ...] = (8, (8,), (8, -8), (8, 8.0), None)
    for wrong in (*({"widths": w} for w in widths), {"blocks": 0}, {"size": 128.0}):
        with pytest.raises(PgnError, match="expected positive whole numbers and two widths"):
            GeneratorConfig(**wrong)
    with pytest.raises(PgnError, match="got size 100 with 4 widths, expected a multiple of 8"):
        GeneratorConfig(100)
    generator, condition, style = tiny()
    for call in (
        lambda: generator(condition, style[:, 1:]),
        lambda: generator(condition, style[0]),
        lambda: personalise(generator, style),
        lambda: personalise(generator, style[0, 1:]),
    ):
        with pytest.raises(PgnError, match=f"style: got .*expected {generator.style_size} numbers"):
            call()


# --- personal generator


def test_personalised_it_draws_the_same() -> None:
    generator, condition, style = tiny()
    personal = personalise(generator, style[0])
    wanted = generator(condition, style[:1].expand(2, -1))
    assert torch.equal(personal(condition), wanted)
    assert torch.equal(generator(condition, style[:1]), wanted)  # one style for all


def test_fitting_a_person_leaves_the_generator_as_it_was() -> None:
    generator, condition, style = tiny()
    before = generator(condition, style).detach()
    personal = personalise(generator, style[0])
    with torch.no_grad():
        for parameter in personal.parameters():
            parameter.add_(1.0)
    assert torch.equal(generator(condition, style), before)


def test_gradients_reach_every_parameter_and_the_style() -> None:
    generator, condition, style = tiny()
    style.requires_grad_()
    pull = torch.randn(2, 3, 16, 24)
    personal = personalise(generator, style[0])
    torch.autograd.backward((generator(condition, style[:1]) * pull).sum())
    torch.autograd.backward((personal(condition) * pull).sum())
    assert without_gradient(generator) == without_gradient(personal) == []
    assert style.grad is not None
    names = trainable(personal, "adain")
    found = [p.grad for name, p in personal.named_parameters() if name in names]
    assert_close(torch.cat([g for g in found if g is not None], 1)[0], style.grad[0], 1e-5)


def test_presets_nest_and_cover_all() -> None:
    generator, _, style = tiny()
    personal = personalise(generator, style[0])
    shapes = {name: p.numel() for name, p in personal.named_parameters()}
    chosen = {preset: set(trainable(personal, preset)) for preset in TRAINABLE}
    assert list(TRAINABLE) == ["all", "decoder", "adain", "last"]
    assert chosen["all"] == set(shapes)
    assert chosen["last"] < chosen["decoder"] < chosen["all"]
    assert sum(shapes[name] for name in chosen["adain"]) == generator.style_size
    assert chosen["all"] - chosen["adain"] - chosen["decoder"] == {
        name for name in shapes if not name.endswith("style") and name[:7] in ("encoder", "bottlen")
    }
    assert chosen["last"] == {f"last.{n}" for n in LAST}
    assert trainable(personal, "all") == list(shapes)  # in the network's order


LAST = ("style", "block.first.weight", "block.image.weight", "block.image.bias")


@pytest.mark.parametrize("preset, parts", [("decoder", ("decoder", "last")), ("last", ("last",))])
def test_what_comes_before_a_preset_can_be_drawn_once(preset: str, parts: tuple[str, ...]) -> None:
    """All that is trained lies after the frozen part, whose features fitting may keep."""
    generator, condition, style = tiny()
    personal: PersonalGenerator = personalise(generator, style[0])
    personal.requires_grad_(False)
    for name, parameter in personal.named_parameters():
        parameter.requires_grad_(name in trainable(personal, preset))
    x = condition
    for name, part in personal.named_children():
        x = part(x)
        assert x.requires_grad == (name in parts)


def test_unknown_preset_suggests_the_nearest() -> None:
    generator, _, style = tiny()
    with pytest.raises(PgnError, match="trainable: got 'lsat'.*Did you mean 'last'"):
        trainable(personalise(generator, style[0]), "lsat")
