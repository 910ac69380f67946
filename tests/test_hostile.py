"""Hostile and damaged inputs: one clear error of ours, at once, in little memory, nothing outside.

The fuzz of test_fuzz.py finds what nobody thought of; here are the attacks that one can think of.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_checkpoint import official, rewrite, tiny

import pgn
from pgn import PgnError
from pgn.backbones import build
from pgn_export import manifest, vectors
from pgn_export.parity import Case, generated_and_target
from pgn_export.verify import verify
from pgn_runtime import Artifact, RuntimeInputError
from pgn_runtime.artifact import read_manifest
from pgn_runtime.files import sha256

OURS = (PgnError, RuntimeInputError)
NAME, VECTORS, MANIFEST = "mean.onnx", "mean-test_vectors.safetensors", "manifest.json"
SECONDS, MEGABYTES = 10.0, 100.0  # that a refusal may take, also on a busy machine
GIANT = 2**35  # bytes of sparse files: they take no room on the disk


@contextmanager
def refused(message: str) -> Iterator[None]:
    """An error of ours that says `message`, soon, and without much memory."""
    before, start = peak(), time.monotonic()
    with pytest.raises(OURS, match=message) as caught:
        yield
    assert getattr(caught.value, "exit_code", None) in (2, 3, 4)
    assert len(str(caught.value)) < 2000, "nobody reads such a message"
    assert time.monotonic() - start < SECONDS
    assert peak(reset=False) - before < MEGABYTES


def peak(reset: bool = True) -> float:
    """Megabytes of memory that this process had at most, since the last reset; 0 off Linux."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not status.exists() or not os.access(clear, os.W_OK):
        return 0.0
    if reset:
        clear.write_text("5")
    line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM"))
    return float(line.split()[1]) / 1000


def pipe(path: Path) -> None:
    """A FIFO in place of a file. Who reads it waits; after some seconds it is let go."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    timer = threading.Timer(SECONDS + 1, os.close, [writer])
    timer.daemon = True
    timer.start()


def sparse(path: Path, head: bytes = b"") -> None:
    path.write_bytes(head)
    os.truncate(path, GIANT)


def folder_in_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


def ring(path: Path) -> None:
    """A link to itself."""
    path.unlink()
    path.symlink_to(path.name)


def locked(path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything; the other cases are its twins")
    path.chmod(0)


IN_PLACE_OF_A_FILE = [pipe, sparse, folder_in_place, ring, locked]


# Checkpoints


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return pgn.save(tiny(), tmp_path / "net.safetensors")


@pytest.mark.parametrize("name", ["net.safetensors", "net.pth"])
@pytest.mark.parametrize("spoil", IN_PLACE_OF_A_FILE)
def test_what_stands_in_place_of_a_checkpoint_is_refused(
    spoil: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.touch()
    spoil(path)
    with refused("no file|GiB|no readable"):
        pgn.load(path)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": {"widths": [[10**6, 10**6], [10**6]]}}, "expected .1000000, 3, 3, 3"),
        ({"options": {"widths": [[1] * 10_000, [1]]}}, "cannot be built"),
        ({"options": {"widths": nested(300)}}, "cannot be built"),
        ({"options": {"widths": [[2**62], [2**62]]}}, "cannot be built"),
        ({"options": {"widths": None}}, "cannot be built"),
        ({"options": {"no": [4]}}, "cannot be built"),
        ({"backbone": "x" * 2**21}, "no valid 'pgn' metadata"),
        ({"backbone": ["lite"]}, "expected a str"),
        ({"alpha": float("nan")}, "positive number"),
        ({"gamma": -1}, "positive number"),
        pytest.param(
            {"alpha": 10**400}, "positive number", marks=pytest.mark.xfail(reason="pgn/model.py")
        ),
    ],
)
def test_metadata_that_asks_for_too_much_is_refused(
    change: dict[str, Any], message: str, checkpoint: Path, tmp_path: Path
) -> None:
    bad = rewrite(checkpoint, tmp_path / "bad.safetensors", lambda _, told: told.update(change))
    with refused(message):
        pgn.load(bad)


TEXTS = {
    "nested": "[" * 100_000,
    "digits": '{"format": ' + "9" * 5000 + "}",
    "list": "[]",
    "null": "null",
    "number": "7",
}


@pytest.mark.parametrize("kind", TEXTS)
def test_metadata_that_is_no_description_is_refused(kind: str, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "net.safetensors", {"pgn": TEXTS[kind]})
    with refused("no valid 'pgn' metadata"):
        pgn.load(tmp_path / "net.safetensors")


def test_a_number_that_only_float64_holds_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    def change(state: dict[str, torch.Tensor], _: dict[str, Any]) -> None:
        state["convs.0.bias"] = torch.full((4,), 1e300, dtype=torch.float64)

    bad = rewrite(checkpoint, tmp_path / "bad.safetensors", change)
    with refused("convs.0.bias: holds NaN or infinite"):
        pgn.load(bad)


def test_a_header_of_giant_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    told = {"dtype": "F32", "shape": [GIANT // 4], "data_offsets": [0, GIANT]}
    header = json.dumps({"a": told}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with refused("no readable .safetensors"):
        pgn.load(path)
    os.truncate(path, 8 + len(header) + GIANT)
    with refused("32.0 GiB"):
        pgn.load(path)


def doubled(depth: int) -> Any:
    """Nested tuples, each twice in the next: small in a pickle, and 2**depth ends when written."""
    value: Any = ()
    for _ in range(depth):
        value = (value, value)
    return value


WEIGHT = "model.0.weight"  # of the small resnet4 of `official`


@pytest.mark.filterwarnings("ignore")  # quantised and nested tensors are prototypes
@pytest.mark.parametrize(
    "make",
    [
        lambda zeros: zeros.to("meta"),
        lambda zeros: zeros.to_sparse(),
        lambda zeros: torch.quantize_per_tensor(zeros, 1.0, 0, torch.qint8),
        lambda zeros: torch.nested.nested_tensor([zeros, zeros]),
        lambda zeros: zeros.to(torch.complex64),
    ],
)
def test_tensors_that_are_no_plain_numbers_are_refused(
    make: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path
) -> None:
    content = official(2)
    content["state_dict"][WEIGHT] = make(content["state_dict"][WEIGHT])
    torch.save(content, tmp_path / "net.pth")
    with refused(f"{WEIGHT}: got a tensor of .* expected plain torch.float32"):
        pgn.load(tmp_path / "net.pth")


def test_a_small_pickle_of_giant_weights_is_refused(tmp_path: Path) -> None:
    """Strides of 0 make 6 GB of one number."""
    options = {"down": [4000, 4000], "up": [4000]}
    with torch.device("meta"):
        wanted = build("resnet4", **options).state_dict()
    content = official(2)
    content["backbone_params"].update(down_channels=options["down"], up_channels=options["up"])
    content["state_dict"] = {
        name: torch.zeros(1, dtype=w.dtype).as_strided(w.shape, [0] * w.dim())
        for name, w in wanted.items()
    }
    torch.save(content, tmp_path / "net.pth")
    assert (tmp_path / "net.pth").stat().st_size < 100_000
    with refused(r"5\.4 GiB, expected at most 1"):
        pgn.load(tmp_path / "net.pth")


ENDLESS = {  # by name: pytest writes a parameter out, and would itself not come back
    "nested": doubled(60),
    "digits": 10**600,  # all that torch.load takes
    "tensor": torch.tensor([1, 2]),
    "text": "x" * 10**6,
}


@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.parametrize(
    "keys",
    [
        ("version",),
        ("backbone_type",),
        ("backbone_to_grad_type",),
        ("backbone_params",),
        ("backbone_params", "num_blocks"),
        ("backbone_params", "down_channels"),
        ("backbone_to_grad_params", "type"),
        ("backbone_to_grad_params", "grad_scale"),
        ("state_dict",),
        ("state_dict", WEIGHT),
    ],
)
def test_values_of_a_pickle_that_have_no_end_are_refused(
    keys: tuple[str, ...], kind: str, tmp_path: Path
) -> None:
    content = official(2)
    part = content
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = ENDLESS[kind]
    torch.save(content, tmp_path / "net.pth")
    with refused("checkpoint: "):
        pgn.load(tmp_path / "net.pth")


def deflated(path: Path, megabytes: int) -> None:
    """A checkpoint whose first storage is compressed zeros."""
    torch.save(official(2), path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    first = next(name for name in records if name.endswith("/data/0"))
    records[first] = bytes(megabytes * 10**6)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, record in records.items():
            archive.writestr(name, record)


def test_a_zip_bomb_is_refused_before_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.pth"
    deflated(path, megabytes=50)
    content = path.read_bytes().replace(struct.pack("<I", 50 * 10**6), struct.pack("<I", 10**9))
    path.write_bytes(content)  # says 1 GB
    assert len(content) < 10**6
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was opened"))
    with refused(r"declares 1\d{9} bytes"):
        pgn.load(path)


def test_a_bomb_whose_directory_is_hidden_from_zipfile_is_no_longer_a_zip(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    deflated(path, megabytes=200)
    path.write_bytes(path.read_bytes() + b"PK\x05\x06")  # PyTorch's reader looks further back
    with refused("no readable PyTorch file"):
        pgn.load(path)


# Exports. The graph is the mean of its inputs: written by hand, within a second.


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    onnx = pytest.importorskip("onnx", reason="the extra export is not installed")
    folder = tmp_path_factory.mktemp("exports")
    shape = (1, 3, 48, 64)
    tensors = {
        name: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name in ("generated", "target", "proxy")
    }
    node = onnx.helper.make_node("Mean", ["generated", "target"], ["proxy"])
    graph = onnx.helper.make_graph(
        [node], "mean", [tensors["generated"], tensors["target"]], [tensors["proxy"]]
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), folder / NAME)
    random = np.random.default_rng(0)
    cases = []
    for distance, share in (("far", 1.0), ("mid", 0.3), ("near", 0.05)):
        target, blurred = torch.from_numpy(random.integers(0, 256, (2, *shape), np.uint8))
        proxy = torch.stack(generated_and_target(share, target, blurred)).mean(0)
        cases.append(Case(distance, share, target, blurred, proxy.double()))
    vectors.save(cases, folder / VECTORS)
    entry = {
        "sha256": sha256(folder / NAME),
        "alpha": 40.0,
        "target": "onnx",
        "precision": "fp32",
        "outputs": {"proxy": shape},
        "test_vectors": VECTORS,
        "parity": [],
    }
    content = {
        "schema": 1,
        "artifacts": {NAME: entry},
        "test_vectors": {VECTORS: sha256(folder / VECTORS)},
    }
    (folder / MANIFEST).write_text(json.dumps(content))
    return folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "exports"))


def adapt(folder: Path, **changes: Any) -> None:
    """As an attacker would: the entry changed, and the hashes made those of the files."""
    content = json.loads((folder / MANIFEST).read_text())
    content["artifacts"][NAME].update({"sha256": sha256(folder / NAME), **changes})
    content["test_vectors"][VECTORS] = sha256(folder / VECTORS)
    (folder / MANIFEST).write_text(json.dumps(content))


def run(folder: Path) -> Any:
    """The artifact's proxy of noise, through the runtime."""
    generated, target = np.random.default_rng(1).random((2, 1, 3, 48, 64), dtype=np.float32)
    return Artifact.load(folder / NAME, threads=1).proxy(generated, target)


def problem(folder: Path) -> str:
    (verdict,) = verify(folder)
    return verdict.problem


def test_what_was_not_touched_runs(folder: Path) -> None:
    assert run(folder).shape == (1, 3, 48, 64)
    assert problem(folder) == ""


@pytest.mark.parametrize("door", [run, problem, read_manifest])
@pytest.mark.parametrize("spoil", IN_PLACE_OF_A_FILE)
def test_what_stands_in_place_of_a_manifest_is_refused(
    spoil: Callable[[Path], None], door: Callable[[Path], Any], folder: Path
) -> None:
    if spoil is ring and door is read_manifest:
        pytest.skip("a link to nothing is no manifest, and a folder may have none")
    spoil(folder / MANIFEST)
    with refused("manifest|file: "):
        door(folder)


MANIFESTS = {
    "empty": "",
    "null": "null",
    "list": "[]",
    "too deep": "[" * 100_000,
    "deep": '{"schema": 1, "artifacts": ' + "[" * 900 + "]" * 900 + "}",
    "no artifacts": '{"schema": 1}',
    "a list of artifacts": '{"schema": 1, "artifacts": []}',
    "a null entry": '{"schema": 1, "artifacts": {"mean.onnx": null}}',
    "twice": '{"schema": 1, "artifacts": {"mean.onnx": {}}, "artifacts": {"mean.onnx": 3}}',
    "a list of hashes": '{"schema": 1, "artifacts": {"mean.onnx": {}}, "test_vectors": ["x"]}',
    "digits": '{"schema": ' + "9" * 5000 + ', "artifacts": {}}',
    "not a number": '{"schema": NaN, "artifacts": {}}',
    "long": '{"schema": "' + "x" * 10**6 + '", "artifacts": {}}',
}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_manifest_of_other_parts_is_refused(kind: str, folder: Path) -> None:
    (folder / MANIFEST).write_text(MANIFESTS[kind])
    with refused("manifest: "):
        read_manifest(folder)


def test_a_manifest_that_is_no_text_is_refused(folder: Path) -> None:
    (folder / MANIFEST).write_bytes(b'{"schema": "\xff"}')
    with refused("no UTF-8"):
        read_manifest(folder)


@pytest.mark.parametrize(
    "alpha", [None, "40", [], 0, -1, pytest.param(10**400, id="huge"), float("nan"), 1e999]
)
def test_an_entry_of_no_alpha_is_refused(alpha: Any, folder: Path) -> None:
    adapt(folder, alpha=alpha)
    with refused("no valid entry"):
        run(folder)


@pytest.mark.parametrize("outputs", [None, 3, [], "proxy", ["proxy"]])
def test_an_entry_of_no_outputs_is_refused(outputs: Any, folder: Path) -> None:
    adapt(folder, outputs=outputs)
    with refused("no valid entry"):
        run(folder)


OUTSIDE = ["..", "../secret.onnx", "/etc/passwd", "a/../b", ".", "./mean.onnx", "\0", "x" * 5000]
OF_OTHER_TYPES = [3, ["a"], {"a": 1}, True, 1e999]


@pytest.mark.parametrize("field", ["target_features", "test_vectors"])
@pytest.mark.parametrize("name", [*OUTSIDE, *OF_OTHER_TYPES])
def test_nothing_outside_of_the_folder_is_opened(
    name: Any, field: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = folder.parent / "secret.onnx"
    shutil.copy(folder / NAME, secret)
    adapt(folder, **{field: name})
    opened: list[Path] = []
    real = Path.open

    def watched(path: Path, *arguments: Any, **options: Any) -> Any:
        opened.append(path.resolve())
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", watched)
    assert problem(folder) != ""
    if field == "target_features":
        with pytest.raises(OURS, match="leads out|does not list"):
            run(folder)
    assert opened and all(path.parent == folder.resolve() for path in opened)


@pytest.mark.parametrize("name", ["..", "../exports/mean.onnx", "/etc/passwd", "", "\0"])
def test_an_entry_that_is_named_outside_of_the_folder_is_told(name: str, folder: Path) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    content["artifacts"] = {name: content["artifacts"][NAME]}
    (folder / MANIFEST).write_text(json.dumps(content))
    assert "leads out of the folder" in problem(folder) or "missing" in problem(folder)


@pytest.mark.parametrize("name", [NAME, VECTORS])
@pytest.mark.parametrize("spoil", IN_PLACE_OF_A_FILE)
def test_what_stands_in_place_of_an_artifact_is_never_waited_for(
    spoil: Callable[[Path], None], name: str, folder: Path
) -> None:
    """Its hash is that of nothing, which a careless hash would give a pipe."""
    (folder / "empty").touch()
    of_nothing = sha256(folder / "empty")
    content = json.loads((folder / MANIFEST).read_text())
    content["artifacts"][NAME]["sha256"] = content["test_vectors"][VECTORS] = of_nothing
    (folder / MANIFEST).write_text(json.dumps(content))
    spoil(folder / name)
    start = time.monotonic()
    assert problem(folder) != ""
    with refused("model|manifest|file: "):
        run(folder)
    assert time.monotonic() - start < SECONDS


def test_a_changed_graph_is_never_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / NAME).write_bytes((folder / NAME).read_bytes() + b"\0")
    monkeypatch.setattr("pgn_runtime.backends.load", lambda *_: pytest.fail("it was opened"))
    assert "was changed" in problem(folder)
    with refused("was changed after its export"):
        run(folder)


@pytest.mark.parametrize(
    ("outputs", "inputs", "message"),
    [
        (["other"], ["generated", "target"], "takes .* and gives other"),
        (["proxy"], ["generated"], "takes generated and gives proxy"),
        (["proxy"], ["a", "b"], "takes a, b and gives proxy"),
    ],
)
def test_a_graph_of_another_interface_is_refused(
    outputs: list[str], inputs: list[str], message: str, folder: Path
) -> None:
    rebuild(folder, "Mean", inputs, outputs, (1, 3, 48, 64))
    with refused(message):
        run(folder)
    assert problem(folder) != ""


@pytest.mark.parametrize(
    ("operator", "shape", "message"),
    [("Mean", (1, 3, 64), "takes"), ("Sub", (3, 48, 64), "takes"), ("Div", None, "not finite")],
)
def test_a_graph_that_gives_no_proxy_is_refused(
    operator: str, shape: tuple[int, ...] | None, message: str, folder: Path
) -> None:
    rebuild(folder, operator, ["generated", "target"], ["proxy"], shape or (1, 3, 48, 64))
    generated, target = np.zeros((2, 1, 3, 48, 64), np.float32)  # 0 / 0
    with refused(message):
        Artifact.load(folder / NAME, threads=1).proxy(generated, target)
    assert problem(folder) != ""


def rebuild(
    folder: Path, operator: str, inputs: list[str], outputs: list[str], shape: tuple[int, ...]
) -> None:
    """Another graph in the place of the artifact, with its hash in the manifest."""
    import onnx
    from onnx import helper

    values = {
        name: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name in (*inputs, *outputs)
    }
    graph = helper.make_graph(
        [helper.make_node(operator, inputs, outputs)],
        "other",
        [values[name] for name in inputs],
        [values[name] for name in outputs],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), folder / NAME)
    adapt(folder)


@pytest.mark.parametrize("spoil", IN_PLACE_OF_A_FILE)
def test_what_stands_in_place_of_test_vectors_is_refused(
    spoil: Callable[[Path], None], folder: Path
) -> None:
    spoil(folder / VECTORS)
    with refused("test vectors: .* is not readable"):
        vectors.load(folder / VECTORS)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop("share"),
        lambda t: t.update(share=t["share"][:2]),
        lambda t: t.update(share=t["share"][0]),
        lambda t: t.update(share=t["share"].double()),
        lambda t: t.update(target=t["target"].int()),
        lambda t: t.update(target=t["target"][:, :, :2]),
        lambda t: t.update(blurred=t["blurred"][0]),
        lambda t: t.update(proxy=t["proxy"].to(torch.float8_e4m3fn)),
        lambda t: t.update(proxy=t["proxy"][..., 1:]),
        lambda t: t.clear(),
    ],
)
def test_test_vectors_of_other_tensors_are_refused(
    change: Callable[[dict[str, torch.Tensor]], object], folder: Path
) -> None:
    tensors = load_file(folder / VECTORS)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / VECTORS)
    with refused("test vectors: "):
        vectors.load(folder / VECTORS)
    adapt(folder)
    assert "test vectors" in problem(folder)


# Packages, which are folders


def test_a_packages_hash_tells_where_one_file_ends_and_the_next_begins(tmp_path: Path) -> None:
    one, two = tmp_path / "one.mlpackage", tmp_path / "two.mlpackage"
    for package in (one, two):
        package.mkdir()
    (one / "a").write_bytes(b"1")
    (one / "b").write_bytes(b"2")
    (two / "a").write_bytes(b"1b\x002")
    assert sha256(one) != sha256(two)


def test_a_package_may_hold_no_pipe_that_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    before = sha256(tmp_path)
    pipe(tmp_path / "b")
    start = time.monotonic()
    assert sha256(tmp_path) == before
    assert time.monotonic() - start < SECONDS


def test_a_damaged_entry_is_no_up_to_date_artifact(folder: Path) -> None:
    from pgn_export.proof import Files

    for entry in ({}, {"key": "k"}, {"key": "k", "sha256": None}):
        assert not manifest.up_to_date({NAME: entry}, Files(folder / NAME), "k")
