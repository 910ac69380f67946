"""One step of a fit to a person's photos: packs on their runtimes, and PyTorch along other losses.

PyTorch's step is pgn.avatar.finetune.fine_tune in float32, on all photos at once and as few at a
time as the packs take, the exact losses with the photos' features cached. A pack's step is the
runtime's own. An exact loss is packed, too, by the same lowering as a PGN: its strongest form. Each
tells its steps' seconds; they are taken in turn. Memory is that of a process of its own, above one
that has the libraries loaded and the photos drawn.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import Tensor

import pgn
from pgn import PgnError
from pgn.avatar import PersonalGenerator
from pgn.avatar.finetune import FineTuneOptions, fine_tune
from pgn.avatar.guidance import Guidance, exact, mean_squared, predicted
from pgn.teachers import PerceptualLoss
from pgn_bench.energy import Meter
from pgn_bench.exact_network import exact_network
from pgn_bench.providers import RANDOM, load_loss
from pgn_bench.providers_catalogue import weights_of
from pgn_bench.timing import REST, Timing, summary
from pgn_export.fitting import selftest
from pgn_export.fitting.names import VALUE, tensor_name
from pgn_export.fitting.pack import SUFFIX, Packing, PackOptions, write
from pgn_export.fitting.subject import Subject, of_avatar
from pgn_runtime import Personalizer
from pgn_runtime.pack import WEIGHTS, read_pack

EXACT_LOSSES = ("vgg19", "vgg11")
LOSSES = (*EXACT_LOSSES, "pgn", "mse")  # that PyTorch follows
STEPS = 3  # in a row, after one that is not counted

Work = Callable[[], object]
Seconds = Callable[[int], list[float]]  # steps -> what each took


@dataclass(frozen=True)
class Setting:
    """What is fitted, how, and on how many threads."""

    generator: str  # avatar, bundled name or file
    network: str  # PGN, the same
    preset: str
    learning_rate: float
    mse_weight: float
    photos: int
    threads: int
    microbatch: int | None = None  # photos at a time; None: all

    @property
    def subject(self) -> Subject:
        return of_avatar(self.generator)

    def images(self) -> tuple[Tensor, Tensor]:
        """Photos and conditions of a rendered person, (K, 3, H, W)."""
        return selftest.examples(self.subject, self.photos)

    def options(self, steps: int) -> FineTuneOptions:
        return FineTuneOptions(steps, self.learning_rate, self.preset, self.microbatch)


@dataclass(frozen=True)
class Agreement:
    """A pack's fit against PyTorch's, after the same steps."""

    steps: int
    weights: float  # relative L2 of all trained weights
    change: float  # the same, relative to how far the fit moved them
    images: float  # mean absolute difference of what is drawn, in pixels of [0, 1]


def in_pytorch(setting: Setting, loss: str) -> Seconds:
    """A fit in PyTorch along a loss."""
    torch.set_num_threads(setting.threads)
    photos, conditions = setting.images()
    guidance = _guidance(setting, loss)
    person = _person(setting, photos, conditions)

    def run(steps: int) -> list[float]:
        own = copy.deepcopy(person)
        return fine_tune(own, conditions, photos, guidance, setting.options(steps)).seconds

    return run


def on_device(setting: Setting, pack: Path, backend: str) -> Seconds:
    """The same fit by a pack."""
    me = Personalizer.load(pack, backend, setting.threads)
    photos, conditions = (images.numpy() for images in setting.images())

    def run(steps: int) -> list[float]:
        return me.fit(conditions, photos, steps, setting.learning_rate).seconds

    return run


def interleaved(
    runs: Mapping[str, Seconds], rounds: int, advance: Callable[[], None] = lambda: None
) -> dict[str, Timing]:
    """Times of one step, STEPS of each in every round."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    joules: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            time.sleep(REST)
            _, of_one = _metered(run, 1)
            taken, of_all = _metered(run, STEPS)
            seconds[name] += taken
            if of_one is not None and of_all is not None and of_all > of_one:
                # what both spend before their first step is no step's
                joules[name].append((of_all - of_one) / (STEPS - 1))
        advance()
    return {name: summary(values, joules[name]) for name, values in seconds.items()}


def _metered(run: Seconds, steps: int) -> tuple[list[float], float | None]:
    """Seconds of each step, and joules of all."""
    meter = Meter()
    return run(steps), meter.joules()


def memory_in_pytorch(setting: Setting, loss: str) -> Work:
    """For peak_apart: libraries and photos are there, networks are not yet."""
    torch.set_num_threads(setting.threads)
    setting.images()
    return lambda: in_pytorch(setting, loss)(2)


def memory_on_device(setting: Setting, pack: Path, backend: str) -> Work:
    """The same of a pack."""
    setting.images()
    return lambda: on_device(setting, pack, backend)(2)


def agreement(setting: Setting, pack: Path, backend: str, steps: int) -> Agreement:
    """Fit both ways, and compare."""
    torch.set_num_threads(setting.threads)
    photos, conditions = setting.images()
    person = _person(setting, photos, conditions)
    fitted = copy.deepcopy(person)
    fine_tune(fitted, conditions, photos, _guidance(setting, "pgn"), setting.options(steps))
    me = Personalizer.load(pack, backend, setting.threads)
    me.fit(conditions.numpy(), photos.numpy(), steps, setting.learning_rate)
    with torch.no_grad():
        drawn = fitted(conditions).numpy()
    names = setting.subject.trainable(setting.preset)
    before, wanted = (_flat(generator, names) for generator in (person, fitted))
    with tempfile.TemporaryDirectory() as folder:
        me.save(Path(folder) / "me.safetensors")
        values = load_file(Path(folder) / "me.safetensors")
    found = np.concatenate([values[VALUE + tensor_name(name)].ravel() for name in names])
    error = np.linalg.norm(found.astype(np.float64) - wanted)
    return Agreement(
        steps=steps,
        weights=float(error / np.linalg.norm(wanted)),
        change=float(error / np.linalg.norm(wanted - before)),
        images=float(np.abs(me.render(conditions.numpy()) - drawn).mean()),
    )


def check_pack(setting: Setting, pack: Path) -> None:
    """See that a pack is of this generator: else its times would be compared with another's.

    Raises:
        PgnError: its weights are others.
        RuntimeInputError: it is no pack.
    """
    weights = read_pack(pack).tensors(WEIGHTS)
    state = setting.subject.generator.state_dict()
    known = {VALUE + tensor_name(name): value.numpy() for name, value in state.items()}
    for name, value in weights.items():
        if name not in known or not np.array_equal(value, known[name]):
            raise PgnError(
                f"fit: {pack} is of another generator than {setting.generator} ({name} differs). "
                f"Name its own: --generator NAME|FILE."
            )


def pack_exact(setting: Setting, loss: str, folder: Path) -> Path:
    """A pack for ONNX Runtime that follows an exact loss, as the setting's pack follows its PGN.

    Raises:
        as pgn_export.fitting.pack.write.
    """
    name = f"exact {loss}"
    net = exact_network(_loss(loss), name, random=weights_of(loss, {}) == RANDOM)
    options = PackOptions(
        setting.preset, setting.microbatch or 1, setting.mse_weight, setting.learning_rate
    )
    made = folder / f"{loss}-{setting.preset}{SUFFIX}"
    write(Packing(setting.subject, net, name, options), ["onnx"], made)
    return made


def _guidance(setting: Setting, loss: str) -> Guidance:
    if loss == "mse":
        return mean_squared()
    if loss == "pgn":
        return predicted(pgn.load(setting.network).eval(), setting.mse_weight)
    return exact(_loss(loss), setting.mse_weight)


def _loss(name: str) -> PerceptualLoss:
    return load_loss(name, weights_of(name, {}))


def _person(setting: Setting, photos: Tensor, conditions: Tensor) -> PersonalGenerator:
    return pgn.avatar.load(setting.generator).person(photos, conditions)


def _flat(generator: PersonalGenerator, names: list[str]) -> np.ndarray:
    parts = [generator.get_parameter(name).detach().flatten() for name in names]
    return torch.cat(parts).double().numpy()
