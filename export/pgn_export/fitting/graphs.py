"""The graphs of the fitting step: plain inference graphs that a runtime calls in turn.

target_features  target -> features_0 ...                 once a photo, if the PGN has such a branch
prefix           condition, given values -> prefix_0 ...  once a photo, if the prefix is not empty
gradient         values, sums, condition or prefix, photo, features -> new sums, generated, mse
update           values, moments, sums, three numbers -> new values and moments
render           values, condition -> generated

Values, moments and sums are those of every trained parameter, as value_of_<`tensor_name`>; values
also those of given ones. The sums begin with zeros; the gradient graph adds the gradients of M
photos to them, without the factor 2/(CHW) and not divided by the number of photos: values of order
1, of which nothing underflows. Both factors are Adam's to undo, exactly, by an epsilon that is as
much larger (`adam_numbers`).
Shapes: images (M, 3, H, W) pixels, M photos at a time; all tensors are float32.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pgn import PGN, PgnError
from pgn.errors import unknown_name
from pgn.images import pixel_per_u
from pgn_export.fitting import convolutions
from pgn_export.fitting.convolutions import Lowering
from pgn_export.fitting.names import MEAN, NEW, SQUARE, SUM, VALUE, tensor_name
from pgn_export.fitting.tape import Outside, Tape
from pgn_export.graph import (
    CachedProxy,
    Graph,
    ProxyGraph,
    Size,
    TargetFeatures,
    Tensors,
    has_target_branch,
    trace,
)
from pgn_runtime.adam import BETA1, BETA2, adam_numbers

LOWERINGS = {
    "onnx": Lowering(convolutions.whole, transposes=True),
    "coreml": Lowering(convolutions.whole),  # transposes with such weights from iOS 17 on only
    "tflite": Lowering(convolutions.by_taps),  # LiteRT: 3 to 7 times as fast as its convolution
}


@dataclass(frozen=True)
class Fitting:
    """What is fitted, and how: `generator`(condition) -> image, both (M, 3, *size) pixels."""

    generator: nn.Module
    net: PGN
    trainable: Sequence[str]  # names of the generator's parameters
    size: Size
    given: Sequence[str] = ()  # names of those that are a person's own, but not trained
    microbatch: int = 1  # M, photos at a time
    mse_weight: float = 20.0  # lambda of the closed form


def build(fitting: Fitting, target: str) -> dict[str, Graph]:
    """The graphs by name, traced, for a target's converter: onnx | tflite | coreml.

    Raises:
        PgnError: no such target or parameters; a generator that gives no images of this size.
        ConversionError: an operation of the generator has no way back.
    """
    if target not in LOWERINGS:
        raise unknown_name("target", target, LOWERINGS)
    shape = (fitting.microbatch, 3, *fitting.size)
    condition, photo = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    generator = copy.deepcopy(fitting.generator).eval().float()
    _check_image(generator, condition)
    outside = Outside(fitting.trainable, fitting.given)
    tape = Tape(generator, condition, outside, LOWERINGS[target])

    inputs = {"condition": condition, **_values(generator, outside)}
    graphs = {"render": trace(Render(tape).eval(), inputs)}
    if tape.prefix:
        taken = {name: inputs[name] for name in tape.prefix_inputs}
        graphs["prefix"] = trace(Prefix(tape).eval(), taken)
        inputs |= graphs["prefix"].outputs
    features = {}
    if has_target_branch(fitting.net):
        graphs["target_features"] = trace(TargetFeatures(fitting.net).eval(), {"target": photo})
        features = graphs["target_features"].outputs
    names = [tensor_name(name) for name in tape.trained]
    values = {name: inputs[VALUE + name] for name in names}
    sums = _named(SUM, _zeros(values))
    taken = {name: inputs[name] for name in tape.suffix_inputs}
    step = {**taken, **sums, "photo": photo, **features}
    graphs["gradient"] = trace(Gradient(tape, fitting).eval(), step)
    graphs["update"] = trace(Update(names).eval(), _update_inputs(values))
    return graphs


class Prefix(nn.Module):
    """condition, given values -> {"prefix_0": ..., ...}: the part that no training changes."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self.tape = tape

    def forward(self, **inputs: Tensor) -> Tensors:
        return self.tape.run_prefix(inputs)


class Render(nn.Module):
    """condition, values -> {"generated": ...}."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self.tape = tape

    def forward(self, **inputs: Tensor) -> Tensors:
        values = self.tape.run({**inputs, **self.tape.run_prefix(inputs)})
        return {"generated": values[self.tape.image]}


class Gradient(nn.Module):
    """Adds the gradient of M photos to the sums; gives images, and MSE (M,) in pixels.

    The proxy is a constant in the derivative: the PGN is not gone back over.
    """

    def __init__(self, tape: Tape, fitting: Fitting) -> None:
        super().__init__()
        self.tape = tape
        self.mse_weight = fitting.mse_weight
        self.alpha = fitting.net.config.alpha
        self.cached = has_target_branch(fitting.net)
        self.proxy = CachedProxy(fitting.net) if self.cached else ProxyGraph(fitting.net)

    def forward(self, **inputs: Tensor) -> Tensors:
        values = self.tape.run(inputs)
        generated, photo = values[self.tape.image], inputs["photo"]
        difference = generated - photo
        features = {name: value for name, value in inputs.items() if name.startswith("features_")}
        seen = features if self.cached else {"target": photo}
        proxy = self.proxy(generated, **seen)["proxy"]
        gradients = self.tape.pull_back(values, self._pull(generated, proxy, photo))
        return {
            **{
                NEW + SUM + tensor_name(name): inputs[SUM + tensor_name(name)] + gradient
                for name, gradient in gradients.items()
            },
            "generated": generated,
            "mse": (difference * difference).mean((1, 2, 3)),
        }

    def _pull(self, generated: Tensor, proxy: Tensor, photo: Tensor) -> Tensor:
        """pgn.model.closed_form without its factor 2/(CHW)."""
        pull = self.alpha * (generated - proxy) + self.mse_weight * (generated - photo)
        return pull / pixel_per_u(photo) ** 2


class Update(nn.Module):
    """Adam (Kingma and Ba, arXiv 1412.6980) on the sums; its numbers are made by `adam_numbers`."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = names

    def forward(self, **inputs: Tensor) -> Tensors:
        out: Tensors = {}
        for name in self.names:
            g = inputs[SUM + name]
            mean = BETA1 * inputs[MEAN + name] + (1 - BETA1) * g
            square = BETA2 * inputs[SQUARE + name] + (1 - BETA2) * (g * g)
            root = torch.sqrt(square * inputs["square_correction"])
            step = inputs["rate"] * mean / (root + inputs["epsilon"])
            out[NEW + VALUE + name] = inputs[VALUE + name] - step
            out[NEW + MEAN + name] = mean
            out[NEW + SQUARE + name] = square
        return out


def _values(generator: nn.Module, outside: Outside) -> Tensors:
    """The parameters from outside, as they are called in the graphs."""
    known = dict(generator.named_parameters())
    names = [*outside.trainable, *outside.given]
    found = {VALUE + tensor_name(name): known[name].detach() for name in names}
    if len(found) < len(names):
        raise PgnError(
            f"trainable: got {', '.join(names)}, of which two are the same once every dot is two "
            f"underscores. Name them once, or rename one."
        )
    return found


def _update_inputs(values: Tensors) -> Tensors:
    """Examples of all that the update takes, in order."""
    zeros = _zeros(values)
    return {
        **_named(VALUE, values),
        **_named(MEAN, zeros),
        **_named(SQUARE, zeros),
        **_named(SUM, zeros),
        **{name: torch.ones(1) for name in adam_numbers(1.0, 1, 1, (1, 1))},
    }


def _named(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _zeros(tensors: Tensors) -> Tensors:
    return {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}


@torch.no_grad()
def _check_image(generator: nn.Module, condition: Tensor) -> None:
    image = generator(condition)
    shape = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
    if shape != tuple(condition.shape):
        raise PgnError(
            f"generator: gives {shape} for a condition of shape {tuple(condition.shape)}, expected "
            f"an image of the same shape."
        )
