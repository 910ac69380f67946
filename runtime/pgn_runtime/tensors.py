"""Named arrays in a .safetensors file, with one JSON beside them; reading never runs code."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pgn_runtime.errors import RuntimeInputError
from pgn_runtime.files import Pixels, atomic_path

KEY = "pgn"  # of the metadata: safetensors writes several keys in random order, so we have one

Tensors = dict[str, Pixels]


def read_tensors(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Finite float32 arrays by name, and the JSON beside them (empty where there is none).

    Raises:
        RuntimeInputError: it is missing, truncated, or holds anything else.
    """
    if not os.path.isfile(path):  # noqa: PTH113  Path.is_file raises; of a pipe one waits for ever
        raise RuntimeInputError(f"file: {path} is missing, or is no ordinary file.")
    try:
        with safe_open(path, framework="numpy") as file:
            tensors: Tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            details = json.loads((file.metadata() or {}).get(KEY, "{}"))
    except Exception as error:  # a damaged file makes safetensors raise anything
        raise RuntimeInputError(f"file: {path} is damaged ({error!s:.200}).") from None
    for name, array in tensors.items():
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise RuntimeInputError(
                f"file: {path} holds {name:.80} of type {array.dtype}, or NaN, expected finite "
                f"float32. It is damaged."
            )
    if not isinstance(details, dict):
        raise RuntimeInputError(f"file: {path} is damaged (its metadata is no object).")
    return tensors, details


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]], details: Any) -> None:
    """Write by rename; the same arrays and details give the same bytes.

    Raises:
        RuntimeInputError: it cannot be written.
    """
    with atomic_path(path) as temporary:
        try:
            save_file(dict(tensors), temporary, {KEY: json.dumps(details)})
        except SafetensorError as error:  # also for a full disk
            raise RuntimeInputError(f"output: cannot write {path} ({error!s:.200}).") from None
