"""A pack (NAME.pgnpack): all that a device needs to fit a generator to a person and to draw them.

manifest.json          what it is, and the SHA-256 of every other file
start.onnx ...         the graphs, a file for each target
weights.safetensors    what trained parameters begin with, unless `start` gives it
selftest.safetensors   photos, and what the first step must give for them

Graphs take and give float32 arrays by name, M photos at a time; images are (M, 3, H, W) pixels.
A parameter X has a value_of_X; a trained one also a mean_of_X, a square_of_X and a sum_of_X.

start            photo, condition -> values of the parameters that photos determine
prefix           condition, given values -> prefix_0 ...     what no training changes
target_features  target -> features_0 ...                    what the PGN needs of a photo
gradient         values, sums, photo, and what the latter two give -> new_sum_of_*, generated, mse
update           values, means, squares, sums, numbers of Adam -> new_value_of_*, ...
render           values, condition -> generated
"""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pgn_runtime.artifact import MANIFEST, beside
from pgn_runtime.errors import RuntimeInputError
from pgn_runtime.files import exists, read_text, sha256
from pgn_runtime.tensors import Tensors, read_tensors

SCHEMA = 1
WEIGHTS, SELFTEST = "weights.safetensors", "selftest.safetensors"
VALUE, MEAN, SQUARE, SUM = "value_of_", "mean_of_", "square_of_", "sum_of_"  # of a parameter
NEW = "new_"  # before the name of an input that comes out again
BACKENDS = {"onnx": "onnxruntime", "tflite": "litert", "coreml": "coreml"}  # by export target
MODULES = {"onnxruntime": "onnxruntime", "litert": "ai_edge_litert", "coreml": "coremltools"}
CONDITIONS = ("landmarks", "image")
MAX_SIDE, MAX_MICROBATCH, MAX_STEPS = 4096, 256, 10**6
_REQUIRED = {"gradient", "update", "render"}


@dataclass(frozen=True)
class Pack:
    """What a manifest says; files are read, and their hashes checked, when they are asked for."""

    folder: Path
    digest: str  # SHA-256 of the manifest, and so of everything: what a person's files refer to
    name: str
    size: tuple[int, int]  # height, width of all images, pixels
    microbatch: int  # M, photos at a time
    condition: str  # landmarks: drawn by pgn_runtime.landmarks; image: given as pictures
    trained: tuple[str, ...]  # parameters
    given: tuple[str, ...]  # parameters that are the person's, but not trained
    learning_rate: float
    steps: int
    graphs: tuple[str, ...]
    suffixes: dict[str, str]  # of the graphs' files, by backend
    hashes: dict[str, str]  # of files, by name

    def backend(self, wanted: str | None) -> str:
        """`wanted`, or the first of the pack's backends that is installed; else just the first.

        Raises:
            RuntimeInputError: the pack has no graphs for it.
        """
        if wanted is None:
            return next(filter(_is_installed, self.suffixes), next(iter(self.suffixes)))
        if wanted not in self.suffixes:
            raise RuntimeInputError(
                f"backend: got {wanted:.80}, but {self.folder} is for "
                f"{', '.join(self.suffixes)}. Take that, or export the pack again for it: "
                f"pgn-export avatar --target {','.join(BACKENDS)}"
            )
        return wanted

    def graph(self, name: str, backend: str) -> Path:
        """A graph's file, unchanged since its export; errors as `file`."""
        return self.file(name + self.suffixes[backend])

    def tensors(self, name: str) -> Tensors:
        """WEIGHTS or SELFTEST; errors as `file`."""
        return read_tensors(self.file(name))[0]

    def file(self, name: str) -> Path:
        """A file of the pack, unchanged since its export.

        Raises:
            RuntimeInputError: it is missing, changed, or not of this pack.
        """
        path = beside(self.folder, name)
        if name not in self.hashes:
            raise RuntimeInputError(f"pack: {self.folder} lists no {name}. Export it again.")
        if not exists(path):
            raise RuntimeInputError(
                f"pack: {path} is missing: the pack is not whole. Copy the whole folder again."
            )
        if sha256(path) != self.hashes[name]:
            raise RuntimeInputError(
                f"pack: {path} was changed or cut off after its export (its SHA-256 differs). "
                f"Copy the pack again, or export it again."
            )
        return path


def read_pack(folder: str | Path) -> Pack:
    """Read a pack's manifest.

    Raises:
        RuntimeInputError: no pack, one of another version of the format, or a damaged one.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not exists(path):
        raise RuntimeInputError(
            f"pack: no {MANIFEST} in {folder}, expected a folder NAME.pgnpack. Make one: "
            f"pgn-export avatar -o me.pgnpack"
        )
    manifest = _object(path)
    if manifest.get("kind") != "pack":
        raise RuntimeInputError(f"pack: {path} is no pack's manifest. Make one: pgn-export avatar")
    if (version := manifest.get("schema")) != SCHEMA:
        raise RuntimeInputError(
            f"pack: {folder} is of version {version!r:.20} of the format, this runtime reads "
            f"{SCHEMA}. Install the pgn-edge that made it, or export it again with this one."
        )
    digest = sha256(path)
    try:
        return _pack(folder, digest, manifest)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RuntimeInputError(
            f"pack: {path} is damaged ({error!r:.200}). Copy the pack again, or export it again."
        ) from None


def _object(path: Path) -> dict[str, Any]:
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RuntimeInputError(f"pack: {path} is not readable ({error!r:.200}).") from None
    return content if isinstance(content, dict) else {}


def _pack(folder: Path, digest: str, manifest: dict[str, Any]) -> Pack:
    """Raises KeyError, TypeError, ValueError or AttributeError for parts that are not ours."""
    height, width = manifest["size"]
    pack = Pack(
        folder=folder,
        digest=digest,
        name=str(manifest["name"])[:200],
        size=(_whole(height, MAX_SIDE), _whole(width, MAX_SIDE)),
        microbatch=_whole(manifest["microbatch"], MAX_MICROBATCH),
        condition=manifest["condition"],
        trained=_names(manifest["trainable"]["parameters"]),
        given=_names(manifest["given"]),
        learning_rate=float(manifest["learning_rate"]),
        steps=_whole(manifest["steps"], MAX_STEPS),
        graphs=_names(manifest["graphs"]),
        suffixes={
            BACKENDS[target]: entry["suffix"]
            for target, entry in manifest["targets"].items()
            if target in BACKENDS
        },
        hashes=dict(manifest["files"]),
    )
    _check(pack)
    return pack


def _check(pack: Pack) -> None:
    for what, right in {
        "condition": pack.condition in CONDITIONS,
        "size": pack.condition == "image" or pack.size[0] == pack.size[1],  # a face is no oblong
        "trainable": bool(pack.trained) and not {*pack.trained} & {*pack.given},
        "learning_rate": 0 < pack.learning_rate < float("inf"),
        "graphs": {*pack.graphs} >= _REQUIRED,
        "given": "start" in pack.graphs or not pack.given,
        "targets": bool(pack.suffixes),
        "suffix": all(isinstance(suffix, str) for suffix in pack.suffixes.values()),
    }.items():
        if not right:
            raise ValueError(what)


def _whole(value: object, most: int) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"{value!r:.20} is no whole number from 1 to {most}")
    return value


def _names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TypeError(f"{value!r:.20} is no list of names")
    return tuple(value)


def _is_installed(backend: str) -> bool:
    runs_here = backend != "coreml" or platform.system() == "Darwin"
    return runs_here and find_spec(MODULES[backend]) is not None
