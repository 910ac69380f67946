"""Gradients in PyTorch: exact ones of losses, eager and compiled, and those of PGNs.

Every builder here takes a Task last and can be pickled with its other arguments, so that a process
of its own can measure it. What depends on the target alone is computed when it is built.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

import pgn
from pgn import MissingExtraError, PgnError, backbones
from pgn.backbones import TargetBranch
from pgn.evaluate.peers import Pull, exact
from pgn.files import first_line
from pgn.images import denormalise, normalise
from pgn.model import closed_form
from pgn.teachers import PerceptualLoss
from pgn.teachers.lpips import LPIPS
from pgn.teachers.trunk import TORCHVISION, VGGTrunk
from pgn_bench.gradient_graph import gradient_graph
from pgn_bench.precision import allow_tf32, autocast
from pgn_bench.providers_exported import Call, Task

LOSSES = ("vgg19", "vgg16", "vgg11", "lpips-alex")
RANDOM = "random"  # weights: time and memory do not depend on them
RANDOM_WEIGHTS = {"weights": "random, time only"}  # what manifests and results say of such


class Uncompiled(PgnError):
    """torch.compile cannot be used on this machine."""


def images(task: Task) -> tuple[Tensor, Tensor]:
    """generated and target on the task's device.

    Sets PyTorch's threads for the whole process; on a GPU also full float32, and that cuDNN tries
    its algorithms.
    """
    torch.set_num_threads(task.threads)
    if task.device == "cuda":
        torch.backends.cudnn.benchmark = True
        allow_tf32(False)
    generated, target = (torch.from_numpy(image) for image in (task.generated, task.target))
    return generated.to(task.device), target.to(task.device)


def check_device(device: str) -> None:
    """Refuse a device that is not here.

    Raises:
        PgnError: neither cpu nor cuda; no GPU, or one that this build of PyTorch cannot use.
    """
    if device not in ("cpu", "cuda"):
        raise PgnError(f"--device: got '{device}', expected cpu or cuda.")
    if device == "cuda" and not torch.cuda.is_available():
        raise PgnError(
            f"--device cuda: PyTorch {torch.__version__} finds no GPU. Install a build of it with "
            f"CUDA, or leave the flag out."
        )
    if device == "cuda":
        try:
            _use_gpu()
        except RuntimeError as error:
            raise PgnError(
                f"--device cuda: PyTorch {torch.__version__} cannot use this GPU "
                f"({first_line(error)}). Install a build of it for this GPU and its driver."
            ) from None


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


def compiled_loss(
    name: str, weights: str, dtype: str, task: Task, *, mode: str = "default"
) -> Call:
    """`compiled_gradient` of a loss by its name."""
    return compiled_gradient(load_loss(name, weights), dtype, task, mode=mode)


def compiled_gradient(
    loss: PerceptualLoss, dtype: str, task: Task, *, mode: str = "default"
) -> Call:
    """The exact gradient's graph, compiled.

    Args:
        dtype: fp32, bf16 by autocast, or tf32 on a GPU.
        mode: torch.compile's; "reduce-overhead" records CUDA graphs.

    Raises:
        Uncompiled: it cannot be compiled here.
        PgnError: the machine does not compute in bf16.
    """
    generated, target = images(task)
    loss = loss.to(task.device)
    graph = gradient_graph(loss).eval().to(task.device)
    with torch.no_grad():
        features = loss.features(target)

    def pull(generated: Tensor) -> Tensor:
        gradient: Tensor = graph(generated, features)
        return gradient

    return _fast(pull, generated, dtype, mode, task)


def ssim(task: Task) -> Call:
    """The exact gradient of (1 - SSIM) / 2, by autograd through kornia's.

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
    """What `PGN.gradient` gives; what depends on the target alone is computed here."""
    generated, target = images(task)
    pull = network_pull(load_network(name).to(task.device), target)
    return _finished(torch.no_grad()(partial(pull, generated)), task)


def compiled_network(name: str, dtype: str, task: Task, *, mode: str = "default") -> Call:
    """The same, compiled. Arguments and errors as `compiled_gradient`."""
    generated, target = images(task)
    pull = network_pull(load_network(name).to(task.device), target)
    return _fast(pull, generated, dtype, mode, task)


def network_pull(net: pgn.PGN, target: Tensor) -> Pull:
    """generated -> `net.gradient(generated, target)`, unchecked; (N, 3, H, W) pixels both.

    The target's branch, where a backbone has one of its own, is computed here, once.
    """
    backbone = net.backbone
    predict: Callable[..., Tensor] = backbone
    of_target: Tensor | list[Tensor] = normalise(target)
    if isinstance(backbone, TargetBranch):
        predict = backbone.forward_cached
        with torch.no_grad():
            of_target = backbone.target_features(normalise(target))

    def pull(generated: Tensor) -> Tensor:
        u_generated = normalise(generated)
        proxy = denormalise(net.proxy_of(predict(u_generated, of_target), u_generated))
        return closed_form(generated, target, proxy, net.config.alpha, 0.0)

    return pull


def _use_gpu() -> None:
    """Raises RuntimeError where there are no kernels for it."""
    F.conv2d(torch.ones(1, 1, 3, 3, device="cuda"), torch.ones(1, 1, 3, 3, device="cuda"))
    torch.cuda.synchronize()


def _fast(pull: Pull, generated: Tensor, dtype: str, mode: str, task: Task) -> Call:
    """`pull(generated)`, compiled, which happens at its first call, here."""
    compiled = _compiled(pull, mode)
    casting = autocast(dtype, task.device)

    def call() -> Tensor:
        with torch.no_grad(), casting():
            return compiled(generated).float()

    return _tried(_finished(call, task, dtype))


def _compiled(pull: Pull, mode: str) -> Pull:
    """For static shapes and apart from what else is compiled, as in a process of its own.

    Raises:
        Uncompiled: this PyTorch cannot keep it apart.
    """
    try:
        found: Pull = torch.compile(  # type: ignore[call-overload]
            pull, dynamic=False, isolate_recompiles=True, mode=mode
        )
    except TypeError:
        raise Uncompiled(
            f"torch.compile: PyTorch {torch.__version__} mixes what it compiles of several "
            f"networks. Install 2.13 or newer."
        ) from None
    return found


def _finished(call: Callable[[], Tensor], task: Task, dtype: str = "fp32") -> Call:
    """On a GPU: in its precision, as calls of others take turns with it; a call returns before its
    result is there, so wait for it."""
    if task.device != "cuda":
        return call

    def waited() -> Tensor:
        allow_tf32(dtype == "tf32")
        gradient = call()
        torch.cuda.synchronize()
        return gradient

    return waited


def _tried(call: Call) -> Call:
    skipped = _graphs_skipped()
    try:
        call()
    except torch._dynamo.exc.TorchDynamoException as error:
        raise Uncompiled(
            f"torch.compile cannot be used here: {type(error).__name__}: {first_line(error):.300} "
            f"(it needs a C++ compiler; on a GPU also Triton, which not every build brings)."
        ) from None
    if _graphs_skipped() > skipped:
        raise Uncompiled("torch.compile: it records no CUDA graphs of this network here.")
    return call


def _graphs_skipped() -> int:
    """How often torch.compile was asked for CUDA graphs and went on without."""
    return torch._dynamo.utils.counters["inductor"]["cudagraph_skips"]


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
