"""Gradients in PyTorch: exact ones of losses, eager and compiled, and those of PGNs.

Every builder here takes a Task last and can be pickled with its other arguments, so that a process
of its own can measure it. What depends on the target alone is computed when it is built.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import pgn
from pgn import MissingExtraError, PgnError, backbones
from pgn.evaluate.peers import exact
from pgn.images import denormalise, normalise
from pgn.model import closed_form
from pgn.teachers import PerceptualLoss
from pgn.teachers.lpips import LPIPS
from pgn.teachers.trunk import TORCHVISION, VGGTrunk
from pgn_bench.gradient_graph import gradient_graph
from pgn_bench.providers_exported import Call, Task

LOSSES = ("vgg19", "vgg16", "vgg11", "lpips-alex")
RANDOM = "random"  # weights: time and memory do not depend on them
RANDOM_WEIGHTS = {"weights": "random, time only"}  # what manifests and results say of such


class Uncompiled(PgnError):
    """torch.compile has no compiler on this machine."""


def images(task: Task) -> tuple[Tensor, Tensor]:
    """generated and target on the task's device; sets PyTorch's threads for the whole process."""
    torch.set_num_threads(task.threads)
    generated, target = (torch.from_numpy(image) for image in (task.generated, task.target))
    return generated.to(task.device), target.to(task.device)


def check_device(device: str) -> None:
    """Refuse a device that is not here.

    Raises:
        PgnError: neither cpu nor cuda, or no GPU that PyTorch can use.
    """
    if device not in ("cpu", "cuda"):
        raise PgnError(f"--device: got '{device}', expected cpu or cuda.")
    if device == "cuda" and not torch.cuda.is_available():
        raise PgnError(
            f"--device cuda: PyTorch {torch.__version__} finds no GPU. Install a build of it with "
            f"CUDA, or leave the flag out."
        )


def load_loss(name: str, weights: str) -> PerceptualLoss:
    """A loss with weights as PerceptualLoss takes them, or RANDOM ones.

    Raises:
        PgnError: as PerceptualLoss.
    """
    if weights != RANDOM:
        return PerceptualLoss(name, weights)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "random.safetensors"
        save_file(_random_weights(name), file)
        return PerceptualLoss(name, file)


def load_network(name: str) -> pgn.PGN:
    """A bundled name or a checkpoint; of a backbone's name an untrained network.

    Raises:
        PgnError: as pgn.load.
    """
    if name not in backbones.NAMES:
        return pgn.load(name)
    thin = name in backbones.THIN
    config = pgn.PGNConfig(name, gamma=1.0) if thin else pgn.PGNConfig(name, "constrained")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return pgn.PGN(config, RANDOM_WEIGHTS).eval()


def eager_loss(name: str, weights: str, channels_last: bool, task: Task) -> Call:
    """The exact gradient by autograd."""
    generated, target = images(task)
    loss = load_loss(name, weights).to(task.device)
    if channels_last:
        loss = loss.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        generated, target = (
            image.contiguous(memory_format=torch.channels_last) for image in (generated, target)
        )
    return _finished(partial(exact(loss)(target), generated), task)


def compiled_loss(name: str, weights: str, dtype: str, task: Task) -> Call:
    """`compiled_gradient` of a loss by its name."""
    return compiled_gradient(load_loss(name, weights), dtype, task)


def compiled_gradient(loss: PerceptualLoss, dtype: str, task: Task) -> Call:
    """The exact gradient's graph, compiled; in bf16 by autocast.

    Raises:
        Uncompiled: nothing here can compile.
        PgnError: the machine does not compute in bf16.
    """
    generated, target = images(task)
    loss = loss.to(task.device)
    graph = gradient_graph(loss).eval().to(task.device)
    with torch.no_grad():
        features = loss.features(target)
    fast = _compiled(graph)
    casting = _autocast(dtype, task.device)

    def call() -> Tensor:
        with torch.no_grad(), casting():
            gradient: Tensor = fast(generated, features)
        return gradient.float()

    return _tried(_finished(call, task))


def ssim(task: Task) -> Call:
    """The exact gradient of 1 - SSIM, by autograd through kornia's.

    Raises:
        MissingExtraError: kornia is not installed.
    """
    try:
        from kornia.losses import ssim_loss
    except ImportError:
        raise MissingExtraError("kornia", "train") from None
    generated, target = images(task)

    def call() -> Tensor:
        with torch.enable_grad():
            variable = generated.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(ssim_loss(variable, target, 11), variable)
        return gradient

    return _finished(call, task)


def eager_network(name: str, task: Task) -> Call:
    """`PGN.gradient`, as one would call it."""
    generated, target = images(task)
    net = load_network(name).to(task.device)
    return _finished(partial(net.gradient, generated, target), task)


def compiled_network(name: str, task: Task) -> Call:
    """The same, its network compiled and its arguments unchecked.

    Raises:
        Uncompiled: nothing here can compile.
    """
    generated, target = images(task)
    net = load_network(name).to(task.device)
    fast = _compiled(net)

    @torch.no_grad()
    def call() -> Tensor:
        proxy = denormalise(fast(normalise(generated), normalise(target)))
        return closed_form(generated, target, proxy, net.config.alpha, 0.0)

    return _tried(_finished(call, task))


def _finished(call: Callable[[], Tensor], task: Task) -> Call:
    """On a GPU a call returns before its result is there: wait for it."""
    if task.device != "cuda":
        return call

    def waited() -> Tensor:
        gradient = call()
        torch.cuda.synchronize()
        return gradient

    return waited


def _compiled(module: nn.Module) -> Callable[..., Any]:
    compiled: Callable[..., Any] = torch.compile(module)
    return compiled


def _tried(call: Call) -> Call:
    """Compilation happens at the first call."""
    try:
        call()
    except torch._dynamo.exc.TorchDynamoException as error:
        raise Uncompiled(
            f"torch.compile cannot be used here ({type(error).__name__}). It needs a C++ compiler."
        ) from None
    return call


def _autocast(dtype: str, device: str) -> Callable[[], AbstractContextManager[object]]:
    """Raises PgnError where the machine does not compute in it."""
    if dtype == "fp32":
        return nullcontext
    on_cpu: Callable[[], bool] = torch.ops.mkldnn._is_mkldnn_bf16_supported
    able = torch.cuda.is_bf16_supported if device == "cuda" else on_cpu
    if not able():
        raise PgnError("bf16: this machine does not compute in it.")
    return partial(torch.autocast, device, torch.bfloat16)


def _random_weights(name: str) -> dict[str, Tensor]:
    """As files of `name` hold them, of a variance that keeps activations of order 1."""
    network = VGGTrunk(name, TORCHVISION) if name.startswith("vgg") else LPIPS(name)
    generator = torch.Generator().manual_seed(0)
    found = {}
    for key, tensor in network.state_dict().items():
        if key.startswith(("convs", "lins")):
            random = torch.zeros_like(tensor)
            if tensor.ndim == 4:
                nn.init.kaiming_normal_(random, generator=generator)
            found[key.replace("s.", "", 1)] = random.abs() if key.startswith("lins") else random
    return found
