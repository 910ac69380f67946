"""A tiny pack, its graphs written by hand, and its fit in PyTorch.

The generator: scale * (condition + tint) + bias, each (1, 3, 1, 1). Photos determine the bias,
which is trained, and the tint, which is not; the scale begins with the pack's weights. The proxy
target is the photo itself, so that the loss is the mean squared error.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor

from pgn_runtime import Personalizer
from pgn_runtime.artifact import MANIFEST
from pgn_runtime.files import sha256
from pgn_runtime.pack import NEW, SELFTEST, SUM, WEIGHTS

SIZE = 32
RATE = 0.02
TRAINED, GIVEN = ["scale", "bias"], ["tint"]
START_SCALE = 0.5

Pixels = NDArray[np.float32]
Weights = dict[str, Tensor]

_IMAGES = "float[{m},3,32,32]"
_KINDS = ("value_of_", "mean_of_", "square_of_", "sum_of_")
GRAPHS = {
    "start": """start (IMAGES photo, IMAGES condition)
        => (float[1,3,1,1] value_of_bias, float[1,3,1,1] value_of_tint) {
        axes = Constant <value = int64[3] {0, 2, 3}> ()
        value_of_bias = ReduceMean (photo, axes)
        tenth = Constant <value = float[1] {0.1}> ()
        mean = ReduceMean (condition, axes)
        value_of_tint = Mul (mean, tenth)
    }""",
    "prefix": """prefix (IMAGES condition, float[1,3,1,1] value_of_tint) => (IMAGES prefix_0) {
        prefix_0 = Add (condition, value_of_tint)
    }""",
    "target_features": """features (IMAGES target) => (IMAGES features_0) {
        half = Constant <value = float[1] {0.5}> ()
        features_0 = Mul (target, half)
    }""",
    "gradient": """gradient (float[1,3,1,1] value_of_scale, float[1,3,1,1] value_of_bias,
        float[1,3,1,1] sum_of_scale, float[1,3,1,1] sum_of_bias,
        IMAGES prefix_0, IMAGES photo, IMAGES features_0)
        => (float[1,3,1,1] new_sum_of_scale, float[1,3,1,1] new_sum_of_bias,
            IMAGES generated, float[COUNT] mse) {
        axes = Constant <value = int64[3] {0, 2, 3}> ()
        inner = Constant <value = int64[3] {1, 2, 3}> ()
        scaled = Mul (prefix_0, value_of_scale)
        generated = Add (scaled, value_of_bias)
        proxy = Add (features_0, features_0)
        pull = Sub (generated, proxy)
        to_scale = Mul (pull, prefix_0)
        of_scale = ReduceSum (to_scale, axes)
        of_bias = ReduceSum (pull, axes)
        new_sum_of_scale = Add (sum_of_scale, of_scale)
        new_sum_of_bias = Add (sum_of_bias, of_bias)
        difference = Sub (generated, photo)
        squared = Mul (difference, difference)
        mse = ReduceMean <keepdims = 0> (squared, inner)
    }""",
    "render": """render (float[1,3,1,1] value_of_scale, float[1,3,1,1] value_of_bias,
        float[1,3,1,1] value_of_tint, IMAGES condition) => (IMAGES generated) {
        tinted = Add (condition, value_of_tint)
        scaled = Mul (tinted, value_of_scale)
        generated = Add (scaled, value_of_bias)
    }""",
}
_ADAM = """
        mean_kept_X = Mul (mean_of_X, beta1)
        mean_seen_X = Mul (sum_of_X, rest1)
        new_mean_of_X = Add (mean_kept_X, mean_seen_X)
        power_X = Mul (sum_of_X, sum_of_X)
        square_kept_X = Mul (square_of_X, beta2)
        square_seen_X = Mul (power_X, rest2)
        new_square_of_X = Add (square_kept_X, square_seen_X)
        corrected_X = Mul (new_square_of_X, square_correction)
        root_X = Sqrt (corrected_X)
        divisor_X = Add (root_X, epsilon)
        scaled_X = Mul (rate, new_mean_of_X)
        step_X = Div (scaled_X, divisor_X)
        new_value_of_X = Sub (value_of_X, step_X)"""


def write_pack(folder: Path, microbatch: int = 1, **changes: Any) -> Path:
    """A new pack; `changes` replace parts of its manifest."""
    folder.mkdir(parents=True)
    for name, text in {**GRAPHS, "update": _update()}.items():
        write_graph(folder / f"{name}.onnx", text, microbatch)
    save_file({"value_of_scale": np.full((1, 3, 1, 1), START_SCALE, np.float32)}, folder / WEIGHTS)
    save_file(_selftest(microbatch), folder / SELFTEST)
    manifest = {
        "schema": 1,
        "kind": "pack",
        "name": "tiny",
        "size": [SIZE, SIZE],
        "microbatch": microbatch,
        "condition": "landmarks",
        "trainable": {"preset": "all", "parameters": TRAINED},
        "given": GIVEN,
        "learning_rate": RATE,
        "steps": 12,
        "targets": {"onnx": {"suffix": ".onnx"}},
        "graphs": [*GRAPHS, "update"],
        **changes,
    }
    return seal(folder, manifest)


def write_graph(path: Path, text: str, microbatch: int = 1) -> None:
    """One of GRAPHS, or another text like them."""
    text = text.replace("IMAGES", f"float[{microbatch},3,{SIZE},{SIZE}]")
    text = text.replace("COUNT", str(microbatch))
    onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {text}'), path)


def seal(folder: Path, manifest: dict[str, Any]) -> Path:
    """Write the manifest with the hashes of what lies beside it."""
    files = (path for path in sorted(folder.iterdir()) if path.name != MANIFEST)
    manifest["files"] = {path.name: sha256(path) for path in files}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def loaded(pack: Path, **options: Any) -> Personalizer:
    """On one thread."""
    return Personalizer.load(pack, threads=1, **options)


def noise(count: int, seed: int = 0) -> tuple[Pixels, Pixels]:
    """Conditions and photos, (count, 3, SIZE, SIZE) each."""
    conditions, photos = np.random.default_rng(seed).random(
        (2, count, 3, SIZE, SIZE), dtype=np.float32
    )
    return conditions, photos


def reference(conditions: Pixels, photos: Pixels, steps: int) -> tuple[Weights, list[float]]:
    """The fit by autograd and torch.optim.Adam in float64: all weights, and each step's MSE."""
    condition, photo = torch.from_numpy(conditions).double(), torch.from_numpy(photos).double()
    weights = begun(condition, photo)
    trained = [weights[name].requires_grad_() for name in TRAINED]
    optimiser = torch.optim.Adam(trained, lr=RATE)
    history = []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = (drawn(weights, condition) - photo).square().mean((1, 2, 3)).mean()
        torch.autograd.backward(loss)
        optimiser.step()
        history.append(float(loss.detach()))
    return {name: value.detach() for name, value in weights.items()}, history


def begun(condition: Tensor, photo: Tensor) -> Weights:
    return {
        "scale": torch.full((1, 3, 1, 1), START_SCALE, dtype=torch.float64),
        "bias": photo.mean((0, 2, 3), keepdim=True),
        "tint": 0.1 * condition.mean((0, 2, 3), keepdim=True),
    }


def drawn(weights: Weights, condition: Tensor) -> Tensor:
    return weights["scale"] * (condition + weights["tint"]) + weights["bias"]


def _update() -> str:
    inputs = [f"float[1,3,1,1] {kind}{name}" for kind in _KINDS for name in TRAINED]
    numbers = ["float[1] rate", "float[1] square_correction", "float[1] epsilon"]
    outputs = [f"float[1,3,1,1] new_{kind}{name}" for kind in _KINDS[:3] for name in TRAINED]
    constants = {"beta1": 0.9, "rest1": 0.1, "beta2": 0.999, "rest2": 0.001}
    lines = [f"{n} = Constant <value = float[1] {{{v}}}> ()" for n, v in constants.items()]
    body = "\n".join([*lines, *(_ADAM.replace("X", name) for name in TRAINED)])
    return f"update ({', '.join([*inputs, *numbers])}) => ({', '.join(outputs)}) {{ {body} }}"


def _selftest(microbatch: int) -> dict[str, Pixels]:
    conditions, photos = noise(microbatch, seed=9)
    condition, photo = torch.from_numpy(conditions).double(), torch.from_numpy(photos).double()
    weights = begun(condition, photo)
    generated = drawn(weights, condition)
    pull = generated - photo
    sums = {"scale": pull * (condition + weights["tint"]), "bias": pull}
    wanted = {
        "generated": generated,
        "mse": pull.square().mean((1, 2, 3)),
        **{NEW + SUM + name: value.sum((0, 2, 3)) for name, value in sums.items()},
    }
    found = {name: value.float().numpy().copy() for name, value in wanted.items()}
    return {"condition": conditions, "photo": photos, **found}
