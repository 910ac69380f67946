"""Element by element: arithmetic, comparisons, activations. coremltools' elementwise_*.py and
activation.py define them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from pgn import ConversionError
from pgn_export.mil.arguments import Arguments

_CASTS = {
    "bool": torch.bool,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "int16": torch.int16,
    "uint16": torch.int32,
    "int32": torch.int32,
    "fp16": torch.float16,
    "fp32": torch.float32,
}
_GELUS: dict[str, Callable[[Tensor], Tensor]] = {
    "EXACT": F.gelu,
    "TANH_APPROXIMATION": lambda x: F.gelu(x, approximate="tanh"),
    "SIGMOID_APPROXIMATION": lambda x: x * torch.sigmoid(1.702 * x),
}


def unary(function: Callable[[Tensor], Tensor]) -> Callable[[Arguments], Tensor]:
    """An operation on x alone."""
    return lambda given: function(given.tensor("x"))


def binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Arguments], Tensor]:
    """An operation on x and y, which broadcast."""
    return lambda given: function(given.tensor("x"), given.tensor("y"))


def scaled(function: Callable[[Tensor, float], Tensor]) -> Callable[[Arguments], Tensor]:
    """An operation on x with one number, alpha."""
    return lambda given: function(given.tensor("x"), given.number("alpha"))


def real_div(x: Tensor, y: Tensor) -> Tensor:
    """x / y; integers are cut towards zero, as their declared type says."""
    return torch.div(x, y, rounding_mode=None if x.is_floating_point() else "trunc")


def clip(given: Arguments) -> Tensor:
    return given.tensor("x").clamp(given.number("alpha"), given.number("beta"))


def rsqrt(given: Arguments) -> Tensor:
    return torch.rsqrt(given.tensor("x") + given.number("epsilon", 1e-12))


def log(given: Arguments) -> Tensor:
    return torch.log(given.tensor("x") + given.number("epsilon", 1e-45))


def gelu(given: Arguments) -> Tensor:
    mode = given.text("mode", "EXACT")
    if mode not in _GELUS:
        raise ConversionError(f"mode '{mode}' is unknown, expected one of {', '.join(_GELUS)}")
    return _GELUS[mode](given.tensor("x"))


def prelu(given: Arguments) -> Tensor:
    return F.prelu(given.tensor("x"), given.tensor("alpha"))


def softmax(given: Arguments) -> Tensor:
    return torch.softmax(given.tensor("x"), given.integer("axis", -1))


def select(given: Arguments) -> Tensor:
    return torch.where(given.tensor("cond"), given.tensor("a"), given.tensor("b"))


def cast(given: Arguments) -> Tensor:
    """x in another type; numbers are cut towards zero when they become integers."""
    name = given.text("dtype")
    if name not in _CASTS:
        raise ConversionError(f"dtype '{name}' is unknown, expected one of {', '.join(_CASTS)}")
    return given.tensor("x").to(_CASTS[name])


ELEMENTWISE: dict[str, Callable[[Arguments], Tensor]] = {
    "abs": unary(torch.abs),
    "add": binary(torch.add),
    "cast": cast,
    "ceil": unary(torch.ceil),
    "clip": clip,
    "cos": unary(torch.cos),
    "elu": scaled(F.elu),
    "equal": binary(torch.eq),
    "erf": unary(torch.erf),
    "exp": unary(torch.exp),
    "floor": unary(torch.floor),
    "floor_div": binary(torch.floor_divide),
    "gelu": gelu,
    "greater": binary(torch.gt),
    "greater_equal": binary(torch.ge),
    "identity": unary(torch.clone),
    "leaky_relu": scaled(F.leaky_relu),
    "less": binary(torch.lt),
    "less_equal": binary(torch.le),
    "log": log,
    "logical_and": binary(torch.logical_and),
    "logical_not": unary(torch.logical_not),
    "logical_or": binary(torch.logical_or),
    "logical_xor": binary(torch.logical_xor),
    "maximum": binary(torch.maximum),
    "minimum": binary(torch.minimum),
    "mod": binary(torch.remainder),
    "mul": binary(torch.mul),
    "not_equal": binary(torch.ne),
    "pow": binary(torch.pow),
    "prelu": prelu,
    "real_div": binary(real_div),
    "relu": unary(F.relu),
    "relu6": unary(F.relu6),
    "round": unary(torch.round),
    "rsqrt": rsqrt,
    "select": select,
    "sigmoid": unary(torch.sigmoid),
    "sign": unary(torch.sign),
    "silu": unary(F.silu),
    "sin": unary(torch.sin),
    "softmax": softmax,
    "softplus": unary(F.softplus),
    "sqrt": unary(torch.sqrt),
    "square": unary(torch.square),
    "sub": binary(torch.sub),
    "tanh": unary(torch.tanh),
}
