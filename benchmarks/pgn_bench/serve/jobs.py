"""What a browser is given to run: gradients and fitting steps, each with what it must give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pgn
from pgn import PgnError
from pgn.avatar.checkpoint import BUNDLED as AVATARS
from pgn.checkpoint import BUNDLED
from pgn_bench.deployed import SIZE, Say, export_as, kept_exports, networks, peers, read
from pgn_export import manifest, onnx, vectors
from pgn_export.fitting.pack import SUFFIX as PACK_SUFFIX
from pgn_export.fitting.pack import Packing, write
from pgn_export.fitting.subject import of_avatar
from pgn_export.parity import DISTANCES, GATES
from pgn_export.replacing import remove
from pgn_export.source import Source
from pgn_runtime.artifact import PROXY, beside, read_entry
from pgn_runtime.errors import RuntimeInputError
from pgn_runtime.files import exists, sha256
from pgn_runtime.pack import SELFTEST, WEIGHTS, read_pack
from pgn_runtime.selftest import LIMITS

DTYPES = ("fp32", "fp16")
MAX_JOBS = 32
ASSETS = Path(pgn.__file__).parent / "assets"


@dataclass(frozen=True)
class Job:
    """One thing that is timed.

    `description` is what the page reads beside the files: kind, provider, dtype, size, batch,
    graphs (names of files, in the order in which they are opened), limits of the relative L2 of
    its results by name, and what its kind needs.
    """

    description: dict[str, Any]
    files: dict[str, Path]


def prepare(models: Sequence[Path], paper: bool, say: Say) -> list[Job]:
    """Jobs of `models`, or of the bundled networks and avatar; `paper` adds the paper's peers.

    Raises:
        as `find`, kept_exports, pgn_export.export, and pgn_export.fitting.pack.write.
    """
    named = find(models)  # before minutes of work
    if named and not paper:
        return named
    with kept_exports() as folder:
        made = [] if named else [*_bundled(folder, say)]
        if paper:
            made += export_as(peers(), folder, [("onnx", "fp32")], say)
        return named + find(made)


def _bundled(folder: Path, say: Say) -> Iterator[Path]:
    yield from export_as(networks(), folder, [("onnx", dtype) for dtype in DTYPES], say)
    yield packed(AVATARS[0], BUNDLED[0], folder, say)


def packed(avatar: str, network: str, folder: Path, say: Say) -> Path:
    """A pack of a bundled avatar and network; one in `folder` stays while it is the same.

    As pgn_export.export decides: the same weights, code and tools, and not changed since.
    """
    net = pgn.load(network)
    weights = sha256(ASSETS / f"{avatar}.safetensors")
    made_of = f"{weights} {Source(net, network).fingerprint}"
    key = manifest.key(made_of, "onnx", "fp32", onnx.PACKAGES)
    pack = folder / f"{avatar}-{key:.12}{PACK_SUFFIX}"
    if not _is_whole(pack):
        for older in folder.glob(f"{avatar}-*{PACK_SUFFIX}"):
            remove(older)
        say(f"packing {avatar}")
        write(Packing(of_avatar(avatar), net, network), ["onnx"], pack)
    return pack


def _is_whole(pack: Path) -> bool:
    try:
        of_pack(pack)
    except RuntimeInputError:
        return False
    return True


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
