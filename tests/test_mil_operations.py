"""Each operation of saved Core ML programs against float64 PyTorch, in float32 and float16.

All cases of a precision are one program: coremltools builds it (without any of its passes), saves
it, and the interpreter reads the package back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assert_close
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pgn_export.mil import load

pytestmark = pytest.mark.filterwarnings("ignore")  # of coremltools and what it imports
SHAPES = {"x": (2, 6, 7, 9), "y": (2, 6, 7, 9), "even": (2, 8, 6, 4), "flat": (2, 5, 12)}
LIMITS = {"float32": 2e-6, "float16": 2e-3}  # of the largest element; float16 has 11 bits
Weights = Callable[..., Any]
Case = tuple[Callable[[Any, dict[str, Any], Weights], Any], Callable[..., Tensor]]


def weights(dtype: str, *shape: int) -> NDArray[Any]:
    """Positive and negative numbers, the same for the same shape."""
    numbers = np.random.default_rng(shape).uniform(-0.9, 1.1, shape)
    return numbers.astype(dtype)


def typed(given: dict[str, Any], w: Weights) -> dict[str, Any]:
    """Numbers that must be of the input's type; scale factors need not."""
    of_type = w(1).dtype.type
    own = {"alpha", "beta", "constant_val", "epsilon"}
    return {name: of_type(v) if name in own else v for name, v in given.items()}


def unary(
    name: str, reference: Callable[..., Tensor], positive: bool = False, **given: Any
) -> Case:
    def build(mb: Any, v: dict[str, Any], w: Weights) -> Any:
        x = mb.exp(x=v["x"]) if positive else v["x"]
        return getattr(mb, name)(x=x, **typed(given, w))

    return build, lambda v, w: reference(v["x"].exp() if positive else v["x"])


def binary(name: str, reference: Callable[..., Tensor], positive: bool = False) -> Case:
    def build(mb: Any, v: dict[str, Any], w: Weights) -> Any:
        x, y = (mb.exp(x=v[n]) if positive else v[n] for n in "xy")
        return getattr(mb, name)(x=x, y=y)

    return build, lambda v, w: reference(*((v[n].exp() if positive else v[n]) for n in "xy"))


def on(value: str, name: str, reference: Callable[[Tensor], Tensor], **given: Any) -> Case:
    """An operation on one input, with parameters."""
    return (
        lambda mb, v, w: getattr(mb, name)(x=v[value], **typed(given, w)),
        lambda v, w: reference(v[value]),
    )


def logical(name: str, reference: Callable[[Tensor, Tensor], Tensor]) -> Case:
    return (
        lambda mb, v, w: getattr(mb, name)(
            x=mb.greater(x=v["x"], y=v["y"]), y=mb.less(x=v["x"], y=w(1)[0])
        ),
        lambda v, w: reference(v["x"] > v["y"], v["x"] < w(1)[0]),
    )


def quantised(x: Tensor) -> Tensor:
    return ((x / 0.03125).round() + 3).clamp(-128, 127).sub(3) * 0.03125


def save(build: Any, path: Path, shapes: Sequence[Any], target: str = "iOS17") -> Path:
    """Save what `build` makes of its inputs as it is, without any pass of coremltools."""
    import coremltools as ct
    from coremltools.converters.mil.mil import Builder as mb
    from coremltools.converters.mil.mil import types

    element = types.fp16 if path.stem == "float16" else types.fp32
    specs = [mb.TensorSpec(shape, element) for shape in shapes]
    model = ct.convert(
        mb.program(input_specs=specs, opset_version=ct.target[target])(build),
        convert_to="mlprogram",
        minimum_deployment_target=ct.target[target],
        compute_precision=ct.precision.FLOAT32,
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
    )
    model.save(str(path))
    return path


def inputs(dtype: str) -> dict[str, NDArray[Any]]:
    """Of order one; x and y are equal in half of their elements."""
    found = {name: weights(dtype, *shape) * 3 for name, shape in SHAPES.items()}
    found["y"][0] = -found["y"][0]
    return found


def evaluate(cases: dict[str, Case], dtype: str, folder: Path) -> dict[str, NDArray[Any]]:
    """What the interpreter gives for every case; all are one package."""
    from coremltools.converters.mil.mil import Builder as mb

    def build(x: Any, y: Any, even: Any, flat: Any) -> Any:
        values = {"x": x, "y": y, "even": even, "flat": flat}
        results = []
        for name, (make, _) in cases.items():
            result = make(mb, values, lambda *shape: weights(dtype, *shape))
            results.append(mb.cast(x=result, dtype="fp32", name=name))
        return tuple(results)

    path = save(build, folder / f"{dtype}.mlpackage", list(SHAPES.values()))
    return load(path).run(inputs(dtype))


def check(case: Case, dtype: str, found: NDArray[Any]) -> None:
    """Compare with the case's reference in float64, on the same rounded inputs and weights."""
    values = {name: torch.tensor(array).double() for name, array in inputs(dtype).items()}
    wanted = case[1](values, lambda *shape: torch.tensor(weights(dtype, *shape)).double())
    assert_close(found, wanted.double(), LIMITS[dtype])


CASES: dict[str, Case] = {
    "reduce_mean": on(
        "x", "reduce_mean", lambda x: x.mean((1, 3), True), axes=[1, 3], keep_dims=True
    ),
    "reduce_sum": on("x", "reduce_sum", lambda x: x.sum((0, 3)), axes=[0, -1]),
    "reduce_max": on("x", "reduce_max", lambda x: x.amax((2, 3)), axes=[2, 3]),
    "reduce_min": on("x", "reduce_min", lambda x: x.amin(1), axes=[1]),
    "reduce_sum_square": on("x", "reduce_sum_square", lambda x: (x * x).sum(1), axes=[1]),
    "reduce_l2_norm": on("x", "reduce_l2_norm", lambda x: x.norm(dim=1), axes=[1]),
    "concat": (
        lambda mb, v, w: mb.concat(values=[v["x"], v["y"], w(2, 1, 7, 9)], axis=-3),
        lambda v, w: torch.cat([v["x"], v["y"], w(2, 1, 7, 9)], 1),
    ),
    "concat_interleaved": (
        lambda mb, v, w: mb.concat(values=[v["x"], v["y"]], axis=1, interleave=True),
        lambda v, w: torch.stack([v["x"], v["y"]], 2).flatten(1, 2),
    ),
    "stack": (
        lambda mb, v, w: mb.stack(values=[v["x"], v["y"]], axis=1),
        lambda v, w: torch.stack([v["x"], v["y"]], 1),
    ),
    "split_even": (
        lambda mb, v, w: mb.split(x=v["x"], num_splits=3, axis=1)[1],
        lambda v, w: v["x"][:, 2:4],
    ),
    "split_uneven": (
        lambda mb, v, w: mb.split(x=v["x"], split_sizes=[1, 3, 5], axis=-1)[2],
        lambda v, w: v["x"][..., 4:],
    ),
    "slice_by_index": on(
        "x", "slice_by_index", lambda x: x[1, ::2, 1:-2, 4:].flip(-1),
        begin=[1, 0, 1, -1], end=[0, 5, -2, 3], stride=[1, 2, 1, -1],
        end_mask=[False, True, False, False], squeeze_mask=[True, False, False, False],
    ),
    "slice_last": on(
        "x", "slice_by_index", lambda x: x[:, -1],
        begin=[0, -1, 0, 0], end=[0, 0, 0, 0], begin_mask=[True, False, True, True],
        end_mask=[True, False, True, True], squeeze_mask=[False, True, False, False],
    ),
    "slice_by_size": on(
        "x", "slice_by_size", lambda x: x[:, 2:5, :, 3:], begin=[0, 2, 0, 3], size=[2, 3, -1, -1]
    ),
    "reshape": on("x", "reshape", lambda x: x.reshape(6, 14, 9), shape=[0, -1, 9]),
    "transpose": on("x", "transpose", lambda x: x.permute(0, 3, 1, 2), perm=[0, -1, 1, 2]),
    "expand_dims": on("flat", "expand_dims", lambda x: x[:, None, :, :, None], axes=[1, -1]),
    "squeeze": (
        lambda mb, v, w: mb.squeeze(x=mb.expand_dims(x=v["flat"], axes=[0, 2]), axes=[2]),
        lambda v, w: v["flat"][None],
    ),
    "reverse": on("x", "reverse", lambda x: x.flip(1, 3), axes=[1, -1]),
    "tile": on("x", "tile", lambda x: x.tile(1, 2, 1, 3), reps=[1, 2, 1, 3]),
    "gather": on("x", "gather", lambda x: x[:, [[5, 0], [2, 2]]], indices=[[5, 0], [2, 2]], axis=1),
    "fill": (
        lambda mb, v, w: mb.add(x=mb.fill(shape=[9], value=w(1)[0]), y=v["x"]),
        lambda v, w: v["x"] + w(1)[0],
    ),
    "fill_like": (
        lambda mb, v, w: mb.fill_like(ref_tensor=v["x"], value=w(1)[0]),
        lambda v, w: torch.full_like(v["x"], float(w(1)[0])),
    ),
    "shape": (
        lambda mb, v, w: mb.reshape(
            x=v["x"], shape=mb.concat(values=[mb.shape(x=v["y"]), np.array([1])], axis=0)
        ),
        lambda v, w: v["x"][..., None],
    ),
    "select": (
        lambda mb, v, w: mb.select(cond=mb.less(x=v["x"], y=v["y"]), a=v["x"], b=w(1, 6, 1, 1)),
        lambda v, w: torch.where(v["x"] < v["y"], v["x"], w(1, 6, 1, 1)),
    ),
    "cast": (
        lambda mb, v, w: mb.cast(x=mb.mul(x=v["x"], y=w(1).dtype.type(4)), dtype="int32"),
        lambda v, w: (v["x"] * 4).to(torch.int32),
    ),
    "integers": (
        lambda mb, v, w: mb.real_div(
            x=mb.cast(x=mb.mul(x=v["x"], y=w(1).dtype.type(16)), dtype="int32"), y=3
        ),
        lambda v, w: (v["x"] * 16).trunc().div(3, rounding_mode="trunc"),
    ),
    "quantize": (
        lambda mb, v, w: mb.dequantize(
            input=mb.quantize(
                input=v["x"], scale=w(1).dtype.type(0.03125), zero_point=np.int8(3),
                output_dtype="int8",
            ),
            scale=w(1).dtype.type(0.03125), zero_point=np.int8(3),
        ),
        lambda v, w: quantised(v["x"]),
    ),
    "logical_and": logical("logical_and", torch.logical_and),
    "logical_or": logical("logical_or", torch.logical_or),
    "logical_xor": logical("logical_xor", torch.logical_xor),
    "logical_not": (
        lambda mb, v, w: mb.logical_not(x=mb.greater_equal(x=v["x"], y=v["y"])),
        lambda v, w: v["x"] < v["y"],
    ),
    "add": binary("add", torch.add),
    "sub": binary("sub", torch.sub),
    "mul": binary("mul", torch.mul),
    "real_div": binary("real_div", torch.div, positive=True),
    "pow": (
        lambda mb, v, w: mb.pow(x=mb.exp(x=v["x"]), y=w(1, 6, 1, 1)),
        lambda v, w: v["x"].exp() ** w(1, 6, 1, 1),
    ),
    "mod": (
        lambda mb, v, w: mb.mod(x=v["x"], y=w(1).dtype.type(0.25)),
        lambda v, w: v["x"] - 0.25 * (v["x"] * 4).floor(),
    ),
    "floor_div": (
        lambda mb, v, w: mb.floor_div(x=v["x"], y=w(1).dtype.type(0.25)),
        lambda v, w: (v["x"] * 4).floor(),
    ),
    "maximum": binary("maximum", torch.maximum),
    "minimum": binary("minimum", torch.minimum),
    "equal": binary("equal", torch.eq),
    "not_equal": binary("not_equal", torch.ne),
    "less_equal": binary("less_equal", torch.le),
    "less": binary("less", torch.lt),
    "greater": binary("greater", torch.gt),
    "greater_equal": binary("greater_equal", torch.ge),
    "identity": unary("identity", torch.clone),
    "abs": unary("abs", torch.abs),
    "ceil": unary("ceil", torch.ceil),
    "clip": unary("clip", lambda x: x.clamp(-0.25, 0.5), alpha=-0.25, beta=0.5),
    "cos": unary("cos", torch.cos),
    "elu": unary("elu", lambda x: F.elu(x, 0.5), alpha=0.5),
    "erf": unary("erf", torch.erf),
    "exp": unary("exp", torch.exp),
    "floor": unary("floor", torch.floor),
    "gelu": unary("gelu", F.gelu),
    "leaky_relu": unary("leaky_relu", lambda x: F.leaky_relu(x, 0.25), alpha=0.25),
    "log": unary("log", torch.log, positive=True),
    "relu": unary("relu", torch.relu),
    "relu6": unary("relu6", F.relu6),
    "round": unary("round", torch.round),
    "rsqrt": unary("rsqrt", lambda x: 1 / (x + 0.25).sqrt(), positive=True, epsilon=0.25),
    "sigmoid": unary("sigmoid", torch.sigmoid),
    "sign": unary("sign", torch.sign),
    "silu": unary("silu", F.silu),
    "sin": unary("sin", torch.sin),
    "softmax": unary("softmax", lambda x: x.softmax(1), axis=1),
    "softplus": unary("softplus", F.softplus),
    "sqrt": unary("sqrt", torch.sqrt, positive=True),
    "square": unary("square", torch.square),
    "tanh": unary("tanh", torch.tanh),
}  # fmt: skip


@pytest.fixture(scope="module", params=LIMITS)
def outputs(request: Any, tmp_path_factory: Any) -> tuple[str, dict[str, NDArray[Any]]]:
    dtype = str(request.param)
    return dtype, evaluate(CASES, dtype, tmp_path_factory.mktemp("mil"))


@pytest.mark.parametrize("name", CASES)
def test_an_operation_is_that_of_float64(
    name: str, outputs: tuple[str, dict[str, NDArray[Any]]]
) -> None:
    dtype, found = outputs
    check(CASES[name], dtype, found[name])
