"""Packs: a folder with all that a device needs to fit a generator, and proof that it is right.

manifest.json          what it is, hashes of everything, measured agreement
start.onnx ...         the graphs (`graphs.build`, `subject.Start`), for every target
weights.safetensors    what the trained parameters begin with
selftest.safetensors   photos, and what the first step must give for them
"""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from pgn import PGN, GateError, PgnError
from pgn.errors import unknown_name
from pgn.files import check_folder
from pgn_export import proof
from pgn_export.chatter import failures
from pgn_export.exporting import CONVERTERS, REJECTED
from pgn_export.fitting import selftest
from pgn_export.fitting.graphs import Fitting, build
from pgn_export.fitting.memory import fit_peak, peak_bytes
from pgn_export.fitting.names import VALUE, tensor_name
from pgn_export.fitting.selftest import Agreement
from pgn_export.fitting.subject import Subject
from pgn_export.graph import Conversion, Graph, Tensors, trace
from pgn_export.manifest import versions
from pgn_export.replacing import move, remove
from pgn_runtime.adam import adam_numbers
from pgn_runtime.artifact import MANIFEST
from pgn_runtime.files import sha256
from pgn_runtime.pack import SCHEMA, SELFTEST, WEIGHTS

SUFFIX = ".pgnpack"
PHOTOS = 8  # of a person, for which memory is predicted


@dataclass(frozen=True)
class PackOptions:
    """How a generator is to be fitted; rate and steps are defaults that a device may change."""

    trainable: str = "all"  # preset, or patterns of parameters' names
    microbatch: int = 1  # photos at a time
    mse_weight: float = 2.0  # lambda of the closed form
    learning_rate: float = 5e-4  # of Adam
    steps: int = 50

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < float("inf"):
            raise PgnError(f"learning_rate: got {self.learning_rate}, expected a positive number.")
        if not 0 <= self.mse_weight < float("inf"):
            raise PgnError(f"mse_weight: got {self.mse_weight}, expected a number of at least 0.")


@dataclass(frozen=True)
class Packing:
    """One generator, one PGN, one way to fit."""

    subject: Subject
    net: PGN
    network: str  # the PGN's name
    options: PackOptions = field(default_factory=PackOptions)

    @cached_property
    def fitting(self) -> Fitting:
        names = self.subject.trainable(self.options.trainable)
        return Fitting(
            generator=self.subject.generator,
            net=self.net,
            trainable=names,
            size=self.subject.size,
            given=self.subject.given(names),
            microbatch=self.options.microbatch,
            mse_weight=self.options.mse_weight,
        )

    @cached_property
    def examples(self) -> Tensors:
        photo, condition = selftest.examples(self.subject, self.options.microbatch)
        return {"photo": photo, "condition": condition, "target": photo}

    @cached_property
    def reference(self) -> Tensors:
        return selftest.reference(
            self.subject, self.fitting, self.examples["photo"], self.examples["condition"]
        )

    @property
    def numbers(self) -> dict[str, float]:
        """Of the first update."""
        options = self.options
        return adam_numbers(options.learning_rate, 1, options.microbatch, self.subject.size)

    @property
    def weights(self) -> Tensors:
        """What is trained, or given, and not told by photos."""
        known = dict(self.subject.generator.named_parameters())
        names = [name for name in self.fitting.trainable if name not in self.subject.personal]
        return {VALUE + tensor_name(name): known[name].detach() for name in names}

    def graphs(self, target: str) -> dict[str, Graph]:
        """All graphs of a target, in the order in which a device first runs them."""
        graphs = build(self.fitting, target)
        if self.subject.start:
            inputs = {name: self.examples[name] for name in ("photo", "condition")}
            graphs["start"] = trace(self.subject.start, inputs)
        order = ("start", "prefix", "target_features", "gradient", "update", "render")
        return {name: graphs[name] for name in order if name in graphs}


def write(
    packing: Packing,
    targets: Sequence[str],
    folder: Path,
    on_graph: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """Write a pack, prove every target, and give the manifest.

    Args:
        targets: some of onnx, tflite, coreml.
        folder: the pack; an older one there is replaced when the new one is whole.
        on_graph: called with the name of each file before it is made.

    Raises:
        PgnError: unknown target, a size or parameters that the generator does not have (2).
        ConversionError: no way back through the generator, or a converter failed (3).
        GateError: a runtime's first step is another one (4); the pack is kept as .rejected.
        MissingExtraError: a converter is not installed (5).
    """
    for target in targets:
        if target not in CONVERTERS:
            raise unknown_name("target", target, CONVERTERS)
    folder = folder.resolve()
    rejected = folder.with_name(folder.name + REJECTED)
    for path in (folder, rejected):
        _check_replaceable(path)
    check_folder(folder.parent)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".pack-") as temporary:
        made = Path(temporary) / folder.name
        made.mkdir()
        graphs: list[str] = []
        agreements: list[Agreement] = []
        for target in targets:
            traced = packing.graphs(target)
            graphs = list(traced)
            for name, graph in traced.items():
                file = f"{name}{CONVERTERS[target].SUFFIX}"
                on_graph(file)
                with failures(target, folder.parent):
                    CONVERTERS[target].export(Conversion(graph), made / file)
            with failures(target, folder.parent):
                agreements += _prove(packing, traced, target, made)
        _save(packing, made)
        manifest = _manifest(packing, targets, graphs, agreements)
        manifest["memory"] = {
            "photos": PHOTOS,
            "peak_bytes": {
                name: _peak(made, CONVERTERS[name].SUFFIX, packing, PHOTOS) for name in targets
            },
        }
        manifest["files"] = {path.name: sha256(path) for path in sorted(made.iterdir())}
        (made / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        failed = [row for row in agreements if not row.passes]
        move(made, rejected if failed else folder)
        if failed:
            raise GateError(
                f"pack: the first step is another one than PyTorch's in float64: {failed[0]}. It "
                f"is kept as {rejected}; do not use it."
            )
        remove(rejected)
    return manifest


def _check_replaceable(folder: Path) -> None:
    """What is replaced is deleted: that may be an older pack, and nothing else.

    Raises:
        PgnError: a file, or a folder that holds anything else.
    """
    if not folder.is_dir():
        if folder.exists() or folder.is_symlink():
            raise PgnError(f"output: {folder} is a file, expected a new folder. Give another -o.")
        return
    others = {path.name for path in folder.iterdir()} - _pack_files(folder)
    if others:
        raise PgnError(
            f"output: {folder} holds other files than an older pack, {min(others)} among them, and "
            f"would be replaced. Give a new folder as -o."
        )


def _pack_files(folder: Path) -> set[str]:
    """Names of a pack's files; none if it is no pack."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return {MANIFEST, *manifest["files"]} if manifest["kind"] == "pack" else set()
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def predicted_peak(packing: Packing, target: str, photos: int = PHOTOS) -> int:
    """Bytes that a fit takes on a device, from its graphs; they are made for it, and thrown away.

    Raises:
        ConversionError, MissingExtraError: as `write`.
    """
    suffix = CONVERTERS[target].SUFFIX
    with tempfile.TemporaryDirectory() as folder, failures(target, Path.cwd()):
        for name, graph in packing.graphs(target).items():
            CONVERTERS[target].export(Conversion(graph), Path(folder) / f"{name}{suffix}")
        return _peak(Path(folder), suffix, packing, photos)


def _peak(folder: Path, suffix: str, packing: Packing, photos: int) -> int:
    plans = {path.stem: peak_bytes(path) for path in folder.glob(f"*{suffix}")}
    return fit_peak(plans, photos, packing.options.microbatch)


def _prove(
    packing: Packing, graphs: dict[str, Graph], target: str, folder: Path
) -> list[Agreement]:
    """The first step in every runtime that is here, against autograd in float64."""
    suffix, rate = CONVERTERS[target].SUFFIX, packing.options.learning_rate
    begin = {name: value.numpy() for name, value in (packing.examples | packing.weights).items()}
    found = []
    for runtime, load in proof.runtimes(target).items():
        pool = selftest.first_step(
            {name: (load(folder / f"{name}{suffix}"), graphs[name].inputs) for name in graphs},
            begin,
            packing.numbers,
        )
        found.append(selftest.agreement(runtime, pool, packing.reference, rate))
    return found


def _save(packing: Packing, folder: Path) -> None:
    tensors = {name: value.contiguous() for name, value in packing.weights.items()}
    save_file(tensors, folder / WEIGHTS)
    images = {name: packing.examples[name].contiguous() for name in ("photo", "condition")}
    save_file({**images, **selftest.thinned(packing.reference)}, folder / SELFTEST)


def _manifest(
    packing: Packing, targets: Sequence[str], graphs: list[str], agreements: list[Agreement]
) -> dict[str, Any]:
    fitting, options = packing.fitting, packing.options
    packages = tuple(dict.fromkeys(p for name in targets for p in CONVERTERS[name].PACKAGES))
    return {
        "schema": SCHEMA,
        "kind": "pack",
        "name": packing.subject.name,
        "size": list(fitting.size),
        "microbatch": fitting.microbatch,
        "condition": packing.subject.condition,
        "trainable": {
            "preset": options.trainable,
            "parameters": [tensor_name(name) for name in fitting.trainable],
            "count": sum(fitting.generator.get_parameter(n).numel() for n in fitting.trainable),
        },
        "given": [tensor_name(name) for name in fitting.given],
        "alpha": packing.net.config.alpha,
        "mse_weight": fitting.mse_weight,
        "learning_rate": options.learning_rate,
        "steps": options.steps,
        "targets": {name: {"suffix": CONVERTERS[name].SUFFIX} for name in targets},
        "graphs": graphs,
        "agreement": [asdict(row) for row in agreements],
        "generator": packing.subject.metadata,
        "network": {"name": packing.network, **packing.net.metadata()},
        "versions": versions(packages),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
