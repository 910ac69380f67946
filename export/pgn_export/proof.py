"""Which runtimes can run an artifact here, and what they measure of it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pgn_export import mil, parity
from pgn_runtime import backends
from pgn_runtime.files import Pixels

THREADS = 2

Run = Callable[[Mapping[str, Pixels]], dict[str, Pixels]]
Load = Callable[[Path], Run]


@dataclass(frozen=True)
class Files:
    """An artifact: the graph that gives the proxy, and that of the target's features, if apart."""

    proxy: Path
    target_features: Path | None = None

    @property
    def all(self) -> list[Path]:
        return [path for path in (self.target_features, self.proxy) if path]


def measure(files: Files, target: str, cases: list[parity.Case]) -> list[parity.Figures]:
    """Parity of an artifact in every runtime that is here.

    Raises:
        MissingBackendError: the runtime of this target is not installed.
    """
    return [
        row
        for runtime, load in runtimes(target).items()
        for row in parity.measure(runtime, _proxy(load, files), cases)
    ]


def runtimes(target: str) -> dict[str, Load]:
    """What can run the artifacts of a target on this machine, by name."""
    if target == "onnx":
        return {"ONNX Runtime": _backend}
    if target == "tflite":
        tensorflow = {"TensorFlow": _tensorflow} if importlib.util.find_spec("tensorflow") else {}
        return {"LiteRT": _backend, **tensorflow}
    apple = {"Core ML": _backend} if sys.platform == "darwin" else {}
    return {"MIL interpreter": _mil, **apple}


def _proxy(load: Load, files: Files) -> parity.Proxy:
    run = load(files.proxy)
    of_target = load(files.target_features) if files.target_features else None

    def proxy(generated: Pixels, target: Pixels) -> Pixels:
        of_it = of_target({"target": target}) if of_target else {"target": target}
        return run({"generated": generated, **of_it})["proxy"]

    return proxy


def _backend(path: Path) -> Run:
    return backends.load(path, THREADS).run


def _mil(path: Path) -> Run:
    return mil.load(path).run


def _tensorflow(path: Path) -> Run:
    import tensorflow

    runner = tensorflow.lite.Interpreter(str(path)).get_signature_runner()

    def run(inputs: Mapping[str, Pixels]) -> dict[str, Pixels]:
        outputs: dict[str, Pixels] = runner(**inputs)
        return outputs

    return run
