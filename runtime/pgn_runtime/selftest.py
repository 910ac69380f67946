"""One step on a pack's own photos, compared with what autograd gave in float64 at its export.

Runtimes differ by version, processor and instructions; before a fit begins, it is seen that its
gradients are right here.
"""

from __future__ import annotations

import numpy as np

from pgn_runtime.adam import adam_numbers
from pgn_runtime.errors import RuntimeInputError
from pgn_runtime.files import Pixels
from pgn_runtime.fitting import DivergedError, Fitter, begin, fresh, prepared
from pgn_runtime.graphs import Graphs
from pgn_runtime.pack import NEW, SELFTEST, SUM, VALUE
from pgn_runtime.tensors import Tensors

KEPT = 256  # elements of a parameter that travel with a pack
LIMITS = {  # relative L2, over all parameters together
    "generated": 2e-3,
    "mse": 0.02,
    "gradient": 0.02,  # 1 where it is zero, 2 where its sign is wrong
    "update": 0.02,
}


def self_test(graphs: Graphs) -> None:
    """See that a pack's first step is right on this machine.

    Raises:
        RuntimeInputError: it is another step; the pack or its test is damaged.
    """
    pack = graphs.pack
    test = pack.tensors(SELFTEST)
    batch = {name: _of(test, name) for name in ("photo", "condition")}
    values = begin(graphs, [batch])
    batches = prepared(graphs, [batch], values)
    fitter = Fitter(graphs, batches, fresh(graphs, values))
    try:
        fitter.step(1, pack.learning_rate)
    except DivergedError:
        raise _failed(graphs, "NaN or infinite values come out") from None

    first, sums = fitter.first, [SUM + name for name in pack.trained]
    gradient = np.concatenate([_of(test, NEW + name).ravel() for name in sums])
    pairs = {
        "generated": (first.generated, _of(test, "generated")),
        "mse": (first.mse, _of(test, "mse")),
        "gradient": (np.concatenate([_thinned(first.sums[name]) for name in sums]), gradient),
        "update": _first_update(graphs, fitter, values),
    }
    for what, (found, wanted) in pairs.items():
        if found.shape != wanted.shape:
            raise _failed(graphs, f"{what} has shape {found.shape}, not {wanted.shape}")
        error, allowed = np.linalg.norm(found - wanted), LIMITS[what] * np.linalg.norm(wanted)
        if not error <= allowed:  # NaN as well
            raise _failed(graphs, f"{what} is off by {error:.2g}, {allowed:.2g} is allowed")


def _failed(graphs: Graphs, reason: str) -> RuntimeInputError:
    return RuntimeInputError(
        f"pack: {graphs.backend} fails the self-test of {graphs.pack.folder}: {reason}. Take "
        f"another --backend, or another version of this one; or export the pack again."
    )


def _of(test: Tensors, name: str) -> Pixels:
    if name not in test:
        raise RuntimeInputError(f"pack: {SELFTEST} holds no {name:.80}. Export the pack again.")
    return test[name]


def _first_update(graphs: Graphs, fitter: Fitter, values: Tensors) -> tuple[Pixels, Pixels]:
    """How far every weight moved, found and wanted, in learning rates: g / (|g| + epsilon)."""
    pack = graphs.pack
    epsilon = adam_numbers(pack.learning_rate, 1, pack.microbatch, pack.size)["epsilon"]
    found, wanted = [], []
    for name in pack.trained:
        g = fitter.first.sums[SUM + name].ravel()
        moved = values[VALUE + name].ravel() - fitter.tensors[VALUE + name].ravel()
        found.append(moved / np.float32(pack.learning_rate))
        wanted.append(g / (np.abs(g) + np.float32(epsilon)))
    return np.concatenate(found), np.concatenate(wanted)


def _thinned(array: Pixels) -> Pixels:
    """KEPT evenly spaced elements, as the test has them."""
    flat = array.ravel()
    return flat[:: max(1, flat.size // KEPT)][:KEPT]
