"""The catalogue: whose gradients are measured, in which ways, and what each costs by counting."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch import nn

from pgn import PGN, MissingExtraError, PgnError, backbones
from pgn.teachers import PerceptualLoss
from pgn_bench import providers
from pgn_bench.exact_network import exact_network
from pgn_bench.memory import Build
from pgn_bench.memory_formula import count
from pgn_bench.providers import LOSSES, RANDOM
from pgn_bench.providers_exported import Call, Files, Task, run_files
from pgn_bench.quality import of_card
from pgn_export.chatter import failures
from pgn_export.exporting import CONVERTERS
from pgn_export.graph import Conversion, has_target_branch
from pgn_export.source import CACHED, TARGET_FEATURES, WHOLE, Options, Source

NETWORKS = ("pgn-lite", "pgn-nano", "resnet4", "resnet6", "resnet8", "unet")
RUNTIMES = ("torch", "onnxruntime", "litert")
DTYPES = ("fp32", "fp16", "int8")  # of exports
COMPILED = {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "tf32", "bf16")}  # by device
_TARGETS = {"onnxruntime": "onnx", "litert": "tflite"}


@dataclass(frozen=True)
class Cost:
    """Of one call, counted; None where PyTorch's operators say nothing about it."""

    macs: int
    formula_bytes: int | None = None  # weights and live activations, of float32
    file_bytes: int | None = None


@dataclass(frozen=True)
class Way:
    """One way to compute a provider's gradient."""

    runtime: str
    dtype: str
    build: Build
    cost: Cost
    files: Files | None = None  # where it runs an export


@dataclass(frozen=True)
class Provider:
    """A loss or a network; `reference` builds the gradient that all of its ways must give."""

    name: str
    reference: Build
    parameters: int
    random: bool  # random weights: for time and memory only
    ways: list[Way] = field(default_factory=list)
    left_out: dict[str, PgnError] = field(default_factory=dict)  # why a way cannot be had
    quality: Mapping[str, float] = field(default_factory=dict)  # as its card tells

    def label(self, runtime: str, dtype: str) -> str:
        return f"{self.name}, {runtime}, {dtype}"

    def add_exports(
        self, source: Source, runtimes: Sequence[str], dtypes: Sequence[str], stem: Path
    ) -> None:
        """A way for each dtype in each of `runtimes` that runs exports, if the source converts."""
        made = {}
        for runtime, dtype in product(runtimes, dtypes):
            if runtime in _TARGETS:
                try:
                    made[runtime, dtype] = _export(source, _TARGETS[runtime], dtype, stem)
                except PgnError as error:
                    self.left_out[self.label(runtime, dtype)] = error
        if not made:
            return
        *_, main = source.graphs.values()
        cost = _cost(partial(main.module, **main.inputs), self.parameters)
        for (runtime, dtype), files in made.items():
            counted = replace(cost, file_bytes=files.bytes)
            self.ways.append(Way(runtime, dtype, partial(run_files, files), counted, files))


@dataclass(frozen=True)
class Wanted:
    """What to put into the catalogue."""

    networks: Sequence[str] = NETWORKS  # checkpoints, and backbones without training
    weights: Mapping[str, str] = field(default_factory=dict)  # of losses, by name
    losses: Sequence[str] = (*LOSSES, "ssim")
    runtimes: Sequence[str] = RUNTIMES
    dtypes: Sequence[str] = DTYPES


def catalogue(wanted: Wanted, task: Task, folder: Path) -> Iterator[Provider]:
    """Providers one by one; their exports go to `folder`, at the size and batch of the task.

    Raises:
        PgnError: a checkpoint or weights that cannot be read; two checkpoints of one name.
    """
    stems = [Path(name).stem for name in wanted.networks]
    if twice := {stem for stem in stems if stems.count(stem) > 1}:
        raise PgnError(f"--checkpoint: got {twice.pop()} twice. Rename one of the files.")
    for name in wanted.losses:
        yield _ssim(wanted, task) if name == "ssim" else _loss(name, wanted, task, folder)
    for name in wanted.networks:
        yield _network(name, wanted, task, folder)


def weights_of(name: str, given: Mapping[str, str]) -> str:
    """What is given; else VGG-19's, where their package is installed; else random ones."""
    if name in given:
        return given[name]
    if name != "vgg19":
        return RANDOM
    try:
        PerceptualLoss(name)
    except MissingExtraError:
        return RANDOM
    return "oxford"


def exported(net: PGN, task: Task) -> Call:
    """A network's gradient in ONNX Runtime, float32; nothing stays on disk.

    Raises:
        PgnError: a size that it does not take.
        ConversionError: it cannot be exported.
    """
    with tempfile.TemporaryDirectory() as folder:
        stem = Path(folder) / "network"
        return run_files(_export(_source(net, task), "onnx", "fp32", stem), task)


def _loss(name: str, wanted: Wanted, task: Task, folder: Path) -> Provider:
    weights = weights_of(name, wanted.weights)
    loss = providers.load_loss(name, weights)
    reference = partial(providers.eager_loss, name, weights, False)
    provider = Provider(f"exact {name}", reference, _parameters(loss), weights == RANDOM)
    if "torch" in wanted.runtimes:
        cost = _cost(reference(replace(task, device="cpu")), provider.parameters)
        compiled = partial(providers.compiled_loss, name, weights)
        provider.ways.append(Way("torch", "fp32", reference, cost))
        if name == "vgg19":  # more forms of the one that matters most
            last = partial(providers.eager_loss, name, weights, True)
            provider.ways.append(Way("torch, channels last", "fp32", last, cost))
            provider.ways.extend(_compiled(compiled, cost.macs, task.device))
        else:
            provider.ways.append(_in_compiler(compiled, cost.macs))
    source = _source(exact_network(loss, provider.name, provider.random), task)
    provider.add_exports(source, wanted.runtimes, ("fp32",), folder / f"exact-{name}")
    return provider


def _ssim(wanted: Wanted, task: Task) -> Provider:
    provider = Provider("exact ssim", providers.ssim, 0, random=False)
    if "torch" in wanted.runtimes:
        try:
            cost = _cost(providers.ssim(replace(task, device="cpu")), 0)
            provider.ways.append(Way("torch", "fp32", providers.ssim, cost))
        except PgnError as error:
            provider.left_out[provider.label("torch", "fp32")] = error
    return provider


def _network(name: str, wanted: Wanted, task: Task, folder: Path) -> Provider:
    net = providers.load_network(name)
    untrained = name in backbones.NAMES
    stem = f"pgn-{name}" if untrained else Path(name).stem
    reference = partial(providers.eager_network, name)
    provider = Provider(stem, reference, _parameters(net), untrained, quality=of_card(net.info))
    if "torch" in wanted.runtimes:
        cost = _cost(reference(replace(task, device="cpu")), provider.parameters)
        provider.ways.append(Way("torch", "fp32", reference, cost))
        if task.device == "cuda":
            fast = partial(providers.compiled_network, name)
            provider.ways.extend(_compiled(fast, cost.macs, task.device))
    provider.add_exports(_source(net, task), wanted.runtimes, wanted.dtypes, folder / stem)
    return provider


def _compiled(build: Callable[..., Call], macs: int, device: str) -> list[Way]:
    """What torch.compile makes of `build(dtype, task, mode=...)` on a device."""
    ways = [_in_compiler(build, macs, dtype) for dtype in COMPILED[device]]
    if device == "cuda":
        recorded = partial(build, "fp32", mode="reduce-overhead")
        ways.append(Way("torch.compile, CUDA graphs", "fp32", recorded, Cost(macs)))
    return ways


def _in_compiler(build: Callable[..., Call], macs: int, dtype: str = "fp32") -> Way:
    return Way("torch.compile", dtype, partial(build, dtype), Cost(macs))


def _source(net: PGN, task: Task) -> Source:
    """A network at the size and batch of a task, the target's features apart where it can be."""
    batch, _, height, width = task.generated.shape
    options = Options((height, width), batch, cached_target=has_target_branch(net))
    return Source(net, options=options)


def _export(source: Source, target: str, dtype: str, stem: Path) -> Files:
    """The graphs as files that begin with `stem`.

    Raises:
        PgnError: a size that the network does not take.
        ConversionError: the converter failed.
        MissingExtraError: it is not installed.
    """
    source.check()
    converter, made = CONVERTERS[target], {}
    with failures(target, stem.parent):
        for part, graph in source.graphs.items():
            made[part] = stem.with_name(f"{stem.name}-{dtype}{part}{converter.SUFFIX}")
            converter.export(Conversion(graph, dtype), made[part])
    main = made[CACHED if source.options.cached_target else WHOLE]
    return Files(main, source.net.config.alpha, made.get(TARGET_FEATURES))


@torch.no_grad()  # losses take their gradients all the same
def _cost(call: Callable[[], object], parameters: int) -> Cost:
    """Of a call of float32 modules on the CPU."""
    macs, live_bytes = count(call)
    return Cost(macs, 4 * parameters + live_bytes)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
