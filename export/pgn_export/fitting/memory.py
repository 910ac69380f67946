"""Peak memory of a graph, predicted from its file, and measured in a process of its own.

plan = peak_bytes(Path("gradient.onnx"))
plan.peak, plan.where                   # bytes, and the operation at which they are taken

Everything is counted above a process in which the runtime has run before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from pgn import MissingExtraError, PgnError
from pgn.errors import unknown_name
from pgn.files import first_line
from pgn_export.fitting.names import SUM, VALUE
from pgn_export.fitting.plans import MEBIBYTE, Plan, plan_coreml, plan_onnx, plan_tflite
from pgn_runtime import backends
from pgn_runtime.apart import peak_apart

THREADS = 2  # of a fit, where nothing else is said
LIBRARY = 8 * MEBIBYTE  # code of a runtime's kernels, once in a process

_PLANS = {".onnx": plan_onnx, ".tflite": plan_tflite, ".mlpackage": plan_coreml}


def peak_bytes(path: Path) -> Plan:
    """What running a graph takes, from its .onnx, .tflite or .mlpackage file with fixed shapes.

    Raises:
        PgnError: another suffix; no such file, or a damaged one.
        MissingExtraError: what reads the format is not installed.
    """
    if path.suffix not in _PLANS:
        raise unknown_name("model", path.suffix or path.name, _PLANS)
    try:
        return _PLANS[path.suffix](path)
    except ImportError as error:
        raise MissingExtraError(error.name or path.suffix, "export") from None
    except PgnError:
        raise
    except Exception as error:  # the formats' packages raise anything
        raise PgnError(
            f"model: {path} cannot be planned ({first_line(error)}). Expected a graph of ours with "
            f"fixed shapes: export it again."
        ) from None


def fit_peak(
    plans: Mapping[str, Plan], photos: int, microbatch: int, threads: int = THREADS
) -> int:
    """Bytes that a whole fit takes, above the process before the first graph is opened.

    Args:
        plans: of a pack's graphs, by name.
        photos: fitted to; what is computed once for each stays in memory.
        microbatch: photos at a time.
        threads: each works on photos of its own, as long as there are as many.
    """
    workers = min(threads, photos // microbatch)
    gradient = plans["gradient"]
    trained = sum(size for name, size in gradient.inputs.items() if name.startswith(SUM))
    values = sum(size for name, size in gradient.inputs.items() if name.startswith(VALUE))
    batch = sum(gradient.inputs.values()) - trained - values
    kept = batch * photos // microbatch
    # values, means, squares, and each worker's sums, all twice: one is read, the other written
    arrays = values + (5 + 2 * workers) * trained + kept
    fitting = arrays + workers * gradient.own + plans["update"].own + plans["render"].own
    once = plans.keys() - {"gradient", "update", "render"}
    before = [plans[name].peak for name in once]
    return LIBRARY + max(fitting, *(kept + peak for peak in before), 0)


def measured(path: Path, threads: int = 1) -> int:
    """The peak of a process that opens a graph and runs it three times, above an idle one, bytes.

    Raises:
        PgnError: this system does not tell.
        RuntimeInputError: it cannot be run.
    """
    peak = peak_apart(partial(_ready, path, threads))
    if peak is None:
        raise PgnError("memory: it cannot be measured here. Linux alone tells it.")
    return peak


def _ready(path: Path, threads: int) -> Callable[[], None]:
    backends.load(path, threads)  # brings the library into the process

    def work() -> None:
        session = backends.load(path, threads)
        shapes = {name: [side or 1 for side in shape] for name, shape in session.inputs.items()}
        inputs = {name: np.full(shape, 0.5, np.float32) for name, shape in shapes.items()}
        outputs = session.run(inputs)
        for _ in range(2):  # as a fit does it: into the same arrays
            session.run(inputs, outputs)

    return work
