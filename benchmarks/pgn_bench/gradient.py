"""One gradient of an image: the exact VGG-19's, and PGNs' on every runtime.

The exact gradient is measured in its strongest form here: target features computed once,
compiled by torch.compile. Every provider's output is checked before it is timed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

import pgn
from pgn.degrade import blur
from pgn.evaluate.measures import cosine
from pgn.teachers import PerceptualLoss
from pgn_export import export
from pgn_export.graph import Size, has_target_branch
from pgn_export.parity import photos
from pgn_runtime import Artifact

EXACT = "exact VGG-19, PyTorch, target cached"
COMPILED = "exact VGG-19, torch.compile, target cached"
MIN_AGREEMENT = 0.999  # cosine of a provider with its own reference

Call = Callable[[], Tensor]


@dataclass(frozen=True)
class Provider:
    """`call` gives the gradient (1, 3, H, W); `cosine` is with the exact VGG-19 gradient."""

    name: str
    call: Call
    cosine: float


def providers(nets: dict[str, pgn.PGN], size: Size, threads: int) -> list[Provider]:
    """Everything that is timed, checked against its reference.

    Raises:
        pgn.GateError: a provider's gradient is not the one that it claims to compute.
    """
    torch.set_num_threads(threads)
    target = photos(size)[0]
    generated = blur(target[0], 1.5)[None]
    teacher = PerceptualLoss("vgg19")
    with torch.no_grad():
        features = teacher.features(target)
    exact = teacher.gradient(generated, features)
    calls: dict[str, tuple[Call, Tensor]] = {
        EXACT: (lambda: teacher.gradient(generated, features), exact)
    }
    if faster := compiled(teacher, generated, features):
        calls[COMPILED] = (faster, exact)
    for name, net in nets.items():
        wanted = net.gradient(generated, target)
        calls[f"{name}, PyTorch"] = (partial(net.gradient, generated, target), wanted)
        for target_name, runtime in (("onnx", "ONNX Runtime"), ("tflite", "LiteRT")):
            call = exported(net, target_name, (generated, target), threads)
            cached = ", target cached" if has_target_branch(net) else ""
            calls[f"{name}, {runtime}{cached}"] = (call, wanted)
    return [_checked(name, call, wanted, exact) for name, (call, wanted) in calls.items()]


def compiled(teacher: PerceptualLoss, generated: Tensor, features: list[Tensor]) -> Call | None:
    """The exact gradient, compiled, at `generated` (1, 3, H, W); None without a C++ compiler."""
    loss = torch.compile(lambda image: teacher(image, features).sum())

    def call() -> Tensor:
        variable = generated.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(variable), variable)
        return gradient

    try:
        call()
    except torch._inductor.exc.InvalidCxxCompiler:
        return None
    return call


def exported(net: pgn.PGN, target_name: str, pair: tuple[Tensor, Tensor], threads: int) -> Call:
    """The gradient of the network's export to `target_name` at a pair of images (1, 3, H, W).

    As the exact gradient's, the target's features are computed once, where the network can.

    Raises:
        what pgn_export.export raises; nothing stays on disk.
    """
    generated, target = (image.numpy() for image in pair)
    height, width = generated.shape[-2:]
    with tempfile.TemporaryDirectory() as folder:
        cached = has_target_branch(net)
        result = export(net, target_name, folder, (height, width), cached_target=cached)
        artifact = Artifact.load(result.path, threads)
    return lambda: torch.from_numpy(artifact.gradient(generated, target))


def _checked(name: str, call: Call, wanted: Tensor, exact: Tensor) -> Provider:
    found = call()
    check_agreement(name, found, wanted)
    return Provider(name, call, cosine(found, exact))


def check_agreement(
    name: str, found: Tensor, wanted: Tensor, least: float = MIN_AGREEMENT
) -> float:
    """The cosine of two gradients of one shape, where `found` claims to be `wanted`.

    Raises:
        pgn.GateError: it is below `least`, or NaN.
    """
    agreement = cosine(found.double(), wanted.double())
    if not agreement >= least:
        raise pgn.GateError(
            f"{name}: cosine {agreement:.4f} with its reference, expected at least {least}: "
            f"not timed."
        )
    return agreement
