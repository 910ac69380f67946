"""What a browser is given to run: gradients and fitting steps, each with what it must give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pgn
from pgn import PgnError
from pgn.avatar.checkpoint import BUNDLED as AVATARS
from pgn.checkpoint import BUNDLED
from pgn_bench.deployed import SIZE, Say, export_as, networks, peers, read
from pgn_export import manifest, vectors
from pgn_export.fitting.pack import SUFFIX as PACK_SUFFIX
from pgn_export.fitting.pack import Packing, write
from pgn_export.fitting.subject import of_avatar
from pgn_export.parity import DISTANCES, GATES
from pgn_runtime.artifact import PROXY, beside, read_entry
from pgn_runtime.files import exists
from pgn_runtime.pack import SELFTEST, WEIGHTS, read_pack
from pgn_runtime.selftest import LIMITS

DTYPES = ("fp32", "fp16")
MAX_JOBS = 32


@dataclass(frozen=True)
class Job:
    """One thing that is timed.

    `description` is what the page reads beside the files: kind, provider, dtype, size, batch,
    graphs (names of files, in the order in which they are opened), limits of the relative L2 of
    its results by name, and what its kind needs.
    """

    description: dict[str, Any]
    files: dict[str, Path]


def prepare(models: Sequence[Path], folder: Path, paper: bool, say: Say) -> list[Job]:
    """Jobs of `models`, or of the bundled networks and avatar; `paper` adds the paper's networks.

    What is no file yet is exported to `folder`, if it is not there.

    Raises:
        as `find`, pgn_export.export, and pgn_export.fitting.pack.write.
    """
    named = find(models)  # before minutes of work
    paths: list[Path] = []
    if not models:
        paths += export_as(networks(), folder, [("onnx", dtype) for dtype in DTYPES], say)
        paths.append(_packed(folder / f"{AVATARS[0]}{PACK_SUFFIX}", say))
    if paper:
        paths += export_as(peers(), folder, [("onnx", "fp32")], say)
    return named + find(paths)


def _packed(pack: Path, say: Say) -> Path:
    if not exists(pack):
        say(f"packing {pack.stem}")
        network = BUNDLED[0]
        write(Packing(of_avatar(AVATARS[0]), pgn.load(network), network), ["onnx"], pack)
    return pack


def find(paths: Sequence[Path]) -> list[Job]:
    """The jobs of packs, of .onnx files, and of all .onnx files of an export's folder.

    Raises:
        PgnError: nothing to run, or more than MAX_JOBS.
        RuntimeInputError: something is missing, damaged, or was changed after its export.
    """
    jobs: list[Job] = []
    for path in paths:
        if path.suffix == PACK_SUFFIX:
            jobs.append(of_pack(path))
        elif path.is_dir():
            jobs += [of_model(path / name) for name in _models(path)]
        else:
            jobs.append(of_model(path))
    if len(jobs) > MAX_JOBS:
        raise PgnError(f"models: got {len(jobs)}, expected at most {MAX_JOBS}. Name some of them.")
    return jobs


def of_model(path: Path) -> Job:
    """One gradient of an exported network.

    Raises:
        PgnError: no .onnx file that gives a gradient of one size; no test vectors.
        RuntimeInputError: a file is missing, or was changed after its export.
    """
    if path.suffix != ".onnx" or not exists(path):
        raise PgnError(
            f"models: got {path}, expected an .onnx file of pgn-export, a folder of them, or a "
            f"pack, NAME{PACK_SUFFIX}."
        )
    exported = read(path)
    entry, graphs = exported.entry, {"proxy": path}
    if name := entry.get("target_features"):
        graphs["target_features"] = beside(path.parent, name)
        read_entry(graphs["target_features"])
    wanted = beside(path.parent, entry.get("test_vectors"))
    vectors.load(wanted)  # it is there, and whole
    description = {
        "kind": "gradient",
        "provider": exported.provider,
        "dtype": exported.dtype,
        "size": exported.size,
        "batch": exported.batch,
        "alpha": entry["alpha"],
        "limits": dict.fromkeys(DISTANCES, GATES[exported.dtype].max_relative_l2),
        "parameters": exported.parameters,
        "macs": exported.macs,
        "details": exported.details,
    }
    return _job(description, graphs, {"vectors": wanted})


def of_pack(folder: Path) -> Job:
    """A fitting step of as many photos as the pack takes at a time.

    Raises:
        RuntimeInputError: no pack, one without ONNX graphs, or one that was changed.
    """
    pack = read_pack(folder)
    backend = pack.backend("onnxruntime")
    graphs = {name: pack.graph(name, backend) for name in pack.graphs if name != "render"}
    description = {
        "kind": "fit",
        "provider": f"{pack.name}, fitting step",
        "dtype": "fp32",
        "size": max(pack.size),
        "batch": pack.microbatch,
        "trained": pack.trained,
        "learning_rate": pack.learning_rate,
        "limits": LIMITS,
    }
    return _job(
        description, graphs, {"weights": pack.file(WEIGHTS), "selftest": pack.file(SELFTEST)}
    )


def _job(description: dict[str, Any], graphs: dict[str, Path], tensors: dict[str, Path]) -> Job:
    size = sum(path.stat().st_size for path in graphs.values())
    return Job({**description, "file_bytes": size, "graphs": list(graphs)}, {**graphs, **tensors})


def _models(folder: Path) -> list[str]:
    """Names of an export's ONNX files that give a gradient.

    Raises:
        PgnError: there is none.
    """
    names = [
        name
        for name, entry in manifest.check(folder).items()
        if entry["target"] == "onnx" and PROXY in entry["outputs"]
    ]
    if not names:
        raise PgnError(
            f"models: {folder} is no folder of ONNX exports. Make one: pgn-export --target onnx "
            f"--size {SIZE} --cached-target -o {folder}"
        )
    return names
