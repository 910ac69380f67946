"""Hostile and damaged checkpoints: a clear error of ours, soon, and with little memory."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import (
    GIANT,
    IN_PLACE_OF_A_FILE,
    refused,
)
from safetensors.torch import save_file
from test_checkpoint import official, rewrite, tiny

import pgn
from pgn.backbones import build

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
        ({"alpha": 10**400}, "positive number"),
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
