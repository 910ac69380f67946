"""An export that is written by hand within a second, for tests to spoil: the mean of its inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import MANIFEST, NAME, VECTORS

from pgn_export import vectors
from pgn_export.parity import Case, generated_and_target
from pgn_runtime.files import sha256


def write_export(folder: Path) -> None:
    """Graph, test vectors and manifest into `folder`."""
    onnx = pytest.importorskip("onnx", reason="the extra export is not installed")
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


def adapt(folder: Path, **changes: Any) -> None:
    """As an attacker would: the entry changed, and the hashes made those of the files."""
    content = json.loads((folder / MANIFEST).read_text())
    content["artifacts"][NAME].update({"sha256": sha256(folder / NAME), **changes})
    content["test_vectors"][VECTORS] = sha256(folder / VECTORS)
    (folder / MANIFEST).write_text(json.dumps(content))


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
