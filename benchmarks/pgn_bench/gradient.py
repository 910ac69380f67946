"""One gradient of an image, by every provider and in every way here to compute it.

Exact gradients are measured in their strongest forms: the target's features computed once, compiled
by torch.compile, and as a graph without autograd in ONNX Runtime. Every output is checked against
its reference before it is timed; load time and memory are those of a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from pgn import GateError, PgnError
from pgn.degrade import blur
from pgn.files import first_line
from pgn_bench.memory import Footprint, footprint
from pgn_bench.providers import RANDOM_WEIGHTS
from pgn_bench.providers_catalogue import Provider, Way
from pgn_bench.providers_exported import Call, Task
from pgn_bench.results import EXACT, Row
from pgn_bench.timing import Timing, interleaved
from pgn_export.parity import photos
from pgn_runtime.apart import Crashed
from pgn_runtime.errors import RuntimeInputError

# of a way with its reference: least cosine, and how far the ratio of their norms may be from 1;
# with convolutions rounded to TF32, 224x224: VGG-19 .9998, pgn-lite .9992, pgn-nano .9990
AGREEMENT = {"fp32": 0.999, "tf32": 0.995, "fp16": 0.999, "bf16": 0.98, "int8": 0.99}
NORM_ERROR = {"fp32": 0.02, "tf32": 0.02, "fp16": 0.02, "bf16": 0.05, "int8": 0.05}
FAILURES = (PgnError, RuntimeInputError, MemoryError, RuntimeError)  # see `reason`
MACHINE = ("cuda", "cudnn", "cublas", "tried to allocate")  # what a machine's own failures speak of

Say = Callable[[str], None]


@dataclass(frozen=True)
class Ready:
    """A way that is loaded and gives the right gradient."""

    provider: Provider
    way: Way
    call: Call
    footprint: Footprint | None
    cosine: float | None  # with the exact gradient of VGG-19

    @property
    def label(self) -> str:
        return self.provider.label(self.way.runtime, self.way.dtype)


@dataclass
class Prepared:
    """What can be timed, and why the rest cannot."""

    ready: list[Ready] = field(default_factory=list)
    left_out: dict[str, ValueError] = field(default_factory=dict)


def photo_task(size: int, threads: int, device: str, batch: int = 1) -> Task:
    """A bundled photo and its blur (1.5 pixels), `batch` times."""
    target = photos((size, size))[0]
    pair = (blur(target[0], 1.5)[None], target)
    generated, target = (image.repeat(batch, 1, 1, 1) for image in pair)
    return Task(generated.numpy(), target.numpy(), threads, device)


def prepare(providers: Sequence[Provider], task: Task, say: Say) -> Prepared:
    """Load every way and check what it gives, in this process; measure its footprint in another.

    The other process comes first: what it compiles was compiled nowhere before.
    """
    torch.compiler.reset()  # what was compiled before has another number of threads in it
    found = Prepared()
    references = _references(providers, task, found)
    exact = [each for each in providers if each.name == EXACT and not each.random]
    truth = references.get(EXACT) if exact else None
    for provider in providers:
        found.left_out.update(provider.left_out)
        if provider.name not in references:
            continue
        for way in provider.ways:
            label = provider.label(way.runtime, way.dtype)
            say(label)
            try:
                measured = _footprint(way, task, say)
                call = way.build(task)
                gradient = _plain(call())
                check_gradient(label, gradient, references[provider.name], way.dtype)
            except FAILURES as error:
                found.left_out[label] = reason(error)
                continue
            near = cosine(gradient, truth) if truth is not None and not provider.random else None
            found.ready.append(Ready(provider, way, call, measured, near))
    return found


def time_rows(
    prepared: Prepared, task: Task, rounds: int, advance: Callable[[], None] = lambda: None
) -> list[Row]:
    """Time what is ready, in turn: a row each.

    Raises:
        PgnError: all together are too much for the machine.
    """
    try:
        timings = interleaved({each.label: each.call for each in prepared.ready}, rounds, advance)
    except FAILURES as error:
        raise reason(error) from None
    return [_row(each, timings[each.label], task) for each in prepared.ready]


def check_agreement(
    name: str, found: Tensor, wanted: Tensor, least: float = AGREEMENT["fp32"]
) -> float:
    """The cosine of two gradients of one shape, where `found` claims to be `wanted`.

    Raises:
        GateError: it is below `least`, or NaN.
    """
    agreement = cosine(found, wanted)
    if not agreement >= least:
        raise GateError(
            f"{name}: cosine {agreement:.4f} with its reference, expected at least {least}: "
            f"not timed."
        )
    return agreement


def check_gradient(name: str, found: Tensor, wanted: Tensor, dtype: str = "fp32") -> None:
    """Refuse a gradient, computed in `dtype`, that has not `wanted`'s direction and length.

    Raises:
        GateError: it has not, or NaN.
    """
    check_agreement(name, found, wanted, AGREEMENT[dtype])
    ratio, error = float(found.double().norm() / wanted.double().norm()), NORM_ERROR[dtype]
    if not abs(ratio - 1) <= error:
        raise GateError(
            f"{name}: {ratio:.4f} times as long as its reference, expected 1 within {error}: "
            f"not timed."
        )


def reason(error: Exception) -> ValueError:
    """Why a way cannot be had: an error of ours, or what fails for want of memory or on a GPU.

    Without the frames that it went through: they would keep their tensors.

    Raises:
        Exception: `error` itself, where it is neither.
    """
    if isinstance(error, (PgnError, RuntimeInputError)):
        error.__context__ = None
        return error.with_traceback(None)
    told = first_line(error)
    if isinstance(error, MemoryError) or any(word in str(error).lower() for word in MACHINE):
        return PgnError(f"this machine fails at it ({told:.300}). Give a smaller --size, or less.")
    raise error


def cosine(a: Tensor, b: Tensor) -> float:
    """Over all values of the two, in float64."""
    return float(torch.cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0))


def _references(providers: Sequence[Provider], task: Task, found: Prepared) -> dict[str, Tensor]:
    """The gradient that each provider's ways must give; where there is none, they are left out."""
    references = {}
    for provider in providers:
        if not provider.ways:
            continue
        try:
            references[provider.name] = _plain(provider.reference(task)())
        except FAILURES as error:
            why = reason(error)
            labels = [provider.label(way.runtime, way.dtype) for way in provider.ways]
            found.left_out.update(dict.fromkeys(labels, why))
    return references


def _plain(gradient: object) -> Tensor:
    return torch.as_tensor(gradient).detach().float().cpu()


def _footprint(way: Way, task: Task, say: Say) -> Footprint | None:
    try:
        return footprint(way.build, task)
    except Crashed:
        raise
    except RuntimeInputError as error:
        say(str(error))
        return None


def _row(each: Ready, timing: Timing, task: Task) -> Row:
    measured, cost = each.footprint, each.way.cost
    details: dict[str, object] = dict(each.provider.quality)
    if measured:
        details["warm_load_ms"] = measured.warm_load_ms
    if measured and measured.reserved_bytes is not None:
        details["reserved_bytes"] = measured.reserved_bytes
    if each.provider.random:
        details |= RANDOM_WEIGHTS
    return Row(
        provider=each.provider.name,
        runtime=each.way.runtime,
        device=task.device,
        size=task.generated.shape[-1],
        batch=len(task.generated),
        threads=task.threads,
        dtype=each.way.dtype,
        **asdict(timing) | ({"joules": None} if task.device == "cuda" else {}),  # the CPU's
        noisy=timing.noisy,
        load_ms=measured.cold_load_ms if measured else None,
        peak_bytes=measured.peak_bytes if measured else None,
        formula_bytes=cost.formula_bytes if each.way.dtype == "fp32" else None,
        file_bytes=cost.file_bytes,
        parameters=each.provider.parameters,
        macs=cost.macs,
        cosine=each.cosine,
        details=details,
    )
