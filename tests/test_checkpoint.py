"""Checkpoints: round trip, official versions, and everything that must be refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import assert_close
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import pgn
from pgn import PGN, PGNConfig, PgnError
from pgn.backbones import build


def tiny() -> PGN:
    torch.manual_seed(1)
    config = PGNConfig("lite", "direct", gamma=1.0, options={"widths": [[4], [6, 6]]})
    return PGN(config, {"teacher": "vgg19-oxford", "training": {"images": 3}}).eval()


def rewrite(source: Path, path: Path, change: Any) -> Path:
    """Copy a checkpoint with its tensors and metadata changed in place."""
    with safe_open(source, framework="pt") as file:
        metadata = dict(file.metadata())
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    described = json.loads(metadata["pgn"])
    change(state, described)
    save_file(state, path, {"pgn": json.dumps(described)})
    return path


def test_round_trip_keeps_weights_configuration_and_info(
    tmp_path: Path, pair: tuple[Tensor, Tensor]
) -> None:
    net = tiny()
    again = pgn.load(pgn.save(net, tmp_path / "net.safetensors"))
    assert again.config == net.config and again.info == net.info and not again.training
    assert_close(again.proxy(*pair), net.proxy(*pair), 0)


@pytest.mark.parametrize(("name", "cosine"), [("pgn-lite", 0.80), ("pgn-nano", 0.70)])
def test_bundled_network_loads_and_says_what_it_is(
    name: str, cosine: float, pair: tuple[Tensor, Tensor]
) -> None:
    net = pgn.load(name)
    assert f"pgn-{net.config.backbone}" == name
    assert net.info["teacher"] == "vgg19-oxford"
    assert net.info["training"]["images"] >= 18_000
    assert net.info["quality"]["mean_cosine"] >= cosine
    assert net.info["licence"]
    assert torch.isfinite(net.gradient(*pair)).all()


def test_a_failing_save_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pgn.save(tiny(), tmp_path / "net.safetensors")
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("pgn.tensor_file.save_file", fail)
    with pytest.raises(PgnError, match="disk full"):
        pgn.save(tiny(), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def missing(state: dict[str, Tensor], described: dict[str, Any]) -> None:
    del state["convs.0.bias"]


def extra(state: dict[str, Tensor], described: dict[str, Any]) -> None:
    state["convs.9.bias"] = torch.zeros(3)


def shape(state: dict[str, Tensor], described: dict[str, Any]) -> None:
    state["convs.0.weight"] = torch.zeros(4, 3, 5, 5)


def not_finite(state: dict[str, Tensor], described: dict[str, Any]) -> None:
    state["convs.0.weight"][0, 0, 0, 0] = torch.nan


def newer(state: dict[str, Tensor], described: dict[str, Any]) -> None:
    described["format"] = 99


def options_list(state: dict[str, Tensor], described: dict[str, Any]) -> None:
    described["options"] = [1]


def huge(state: dict[str, Tensor], described: dict[str, Any]) -> None:
    described["options"] = {"widths": [[1_000_000], [1_000_000, 6]]}


def no_widths(state: dict[str, Tensor], described: dict[str, Any]) -> None:
    described["options"] = {"widths": [[4.5], [6, 6]]}


def truth_for_number(state: dict[str, Tensor], described: dict[str, Any]) -> None:
    described["alpha"] = True


def other_backbone(state: dict[str, Tensor], described: dict[str, Any]) -> None:
    described["backbone"] = "ligth"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (missing, r"missing: convs.0.bias"),
        (extra, r"not expected: convs.9.bias"),
        (shape, r"convs.0.weight: got shape \(4, 3, 5, 5\), expected \(4, 3, 3, 3\)"),
        (not_finite, r"convs.0.weight: holds NaN"),
        (newer, r"format 99"),
        (options_list, r"options: got \[1\], expected a dict"),
        (huge, r"got shape \(4, 3, 3, 3\), expected \(1000000, 3, 3, 3\)"),
        (no_widths, "cannot be built"),
        (truth_for_number, "alpha: got True"),
        (other_backbone, r"Did you mean 'lite'"),
    ],
)
def test_what_does_not_fit_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    source = pgn.save(tiny(), tmp_path / "net.safetensors")
    with pytest.raises(PgnError, match=message):
        pgn.load(rewrite(source, tmp_path / "bad.safetensors", change))


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = pgn.save(tiny(), tmp_path / "net.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(PgnError, match="no readable .safetensors"):
        pgn.load(path)


def test_tensors_without_our_metadata_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(PgnError, match="no valid 'pgn' metadata"):
        pgn.load(tmp_path / "other.safetensors")


def test_a_diverged_network_is_not_saved(tmp_path: Path) -> None:
    net = tiny()
    with torch.no_grad():
        net.backbone.get_parameter("convs.0.bias")[0] = torch.inf
    with pytest.raises(PgnError, match="diverged"):
        pgn.save(net, tmp_path / "net.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pgn-light", "Did you mean 'pgn-lite'"),
        ("missing.safetensors", "no file missing.safetensors"),
        ("folder/net.pth", "no file folder/net.pth"),
        ("x" * 5000, "expected one of pgn-lite"),
    ],
)
def test_unknown_names_and_paths_are_refused(name: str, message: str) -> None:
    with pytest.raises(PgnError, match=message):
        pgn.load(name)


class Exploit:
    """A pickle that would create a file when loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("protocol", ["torch", "pickle"])
def test_a_pickle_that_wants_to_run_code_is_refused(protocol: str, tmp_path: Path) -> None:
    trace, path = tmp_path / "it-ran", tmp_path / "evil.pth"
    if protocol == "torch":
        torch.save({"state_dict": Exploit(trace), "version": 2}, path)
    else:
        path.write_bytes(pickle.dumps(Exploit(trace), protocol=2))
    with pytest.raises(PgnError, match="refused|no readable"):
        pgn.load(path)
    assert not trace.exists()


def official(version: int, **changes: Any) -> dict[str, Any]:
    """An official checkpoint of a small resnet4, as each version wrote it."""
    torch.manual_seed(2)
    state = build("resnet4", down=[8, 16], up=[8]).state_dict()
    params = {"num_blocks": 4, "down_channels": (8, 16), "up_channels": (8,)}
    if version == 0:
        return {**state, **params, "grad_scale": 0.025, **changes}
    if version == 1:
        return {"state_dict": state, "params": params, "version": 1, **changes}
    to_gradient = {
        "type": "sigmoid",
        "sigmoid": {"scale": 1.1},
        "grad_type": "mse",
        "grad_scale": 0.025,
    }
    return {
        "state_dict": state,
        "backbone_type": "resnet",
        "backbone_params": params,
        "backbone_to_grad_type": "proxy",
        "backbone_to_grad_params": {**to_gradient, **changes},
        "version": 2,
    }


@pytest.mark.parametrize("version", [0, 1, 2])
def test_official_versions_load_as_one_network(
    version: int, tmp_path: Path, pair: tuple[Tensor, Tensor]
) -> None:
    torch.save(official(version), tmp_path / "net.pth")
    net = pgn.load(tmp_path / "net.pth")
    assert (net.config.backbone, net.config.head) == ("resnet4", "constrained")
    assert [net.config.alpha, net.config.beta] == pytest.approx([40, 1.1])
    torch.manual_seed(2)
    reference = PGN(PGNConfig("resnet4", "constrained", options=net.config.options)).eval()
    reference.backbone.load_state_dict(official(2)["state_dict"])
    assert_close(net.proxy(*pair), reference.proxy(*pair), 0)


@pytest.mark.parametrize(
    ("kind", "params", "head"),
    [
        ("direct", {"type": "raw", "out_scale": 512}, "direct"),
        ("direct", {"type": "sigmoid", "out_scale": 512}, "hybrid"),
        ("proxy", {"type": "raw"}, "proxy"),
    ],
)
def test_official_heads_keep_their_scales(
    kind: str, params: dict[str, Any], head: str, tmp_path: Path
) -> None:
    checkpoint = official(2, **params)
    checkpoint["backbone_to_grad_type"] = kind
    torch.save(checkpoint, tmp_path / "net.pth")
    config = pgn.load(tmp_path / "net.pth").config
    assert config.head == head
    if kind == "direct":
        assert config.gamma == pytest.approx(1 / 512)


def test_the_head_of_an_old_version_can_be_given(tmp_path: Path) -> None:
    torch.save(official(1), tmp_path / "net.pth")
    assert pgn.load(tmp_path / "net.pth", head="hybrid").config.head == "hybrid"
    torch.save(official(2), tmp_path / "new.pth")
    with pytest.raises(PgnError, match="records its own"):
        pgn.load(tmp_path / "new.pth", head="hybrid")


def test_the_legacy_unet_scale_is_understood(tmp_path: Path) -> None:
    options = {"down": [8, 8, 8, 8, 8], "up": [8, 8, 8, 8, 8]}
    state = build("unet", **options).state_dict()
    params = {"down_channels": options["down"], "up_channels": options["up"], "grad_scale": 1e-3}
    torch.save({**state, **params}, tmp_path / "net.pth")
    assert pgn.load(tmp_path / "net.pth").config.alpha == pytest.approx(1 / 0.048)


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        (official(2, type="warped_target"), "expected direct or proxy"),
        (official(2, grad_type="l1"), "expected direct or proxy"),
        ({**official(2), "version": 7}, "version 7"),
        ({"version": 2}, "malformed for version 2"),
        ({"version": 1}, "malformed for version 1"),
        ({"version": 1, "state_dict": {}, "params": {}}, "holds no weights"),
        ({**official(1), "params": {"num_blocks": 5}}, "5 residual blocks"),
        ({**official(1), "params": {"dropout": 1}}, "never published: dropout"),
        ({**official(1), "state_dict": [1]}, "malformed"),
        ({**official(1), "state_dict": {3: 0, "model.0.weight": "x"}}, "not expected: 3"),
        (official(0, grad_scale=0), "a scale is 0"),
        ([1, 2], "holds a list"),
    ],
)
def test_official_files_of_no_use_are_refused(
    checkpoint: Any, message: str, tmp_path: Path
) -> None:
    torch.save(checkpoint, tmp_path / "net.pth")
    with pytest.raises(PgnError, match=message):
        pgn.load(tmp_path / "net.pth")
