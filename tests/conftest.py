"""Fixtures: small images, golden files, and the shared material where it is present."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from pgn import PGN, PGNConfig
from pgn.distill.bank import Lesson

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"
FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    """generated and target, (2, 3, 40, 56) pixels in [0, 1]."""
    generator = torch.Generator().manual_seed(3)
    generated, target = torch.rand(2, 2, 3, 40, 56, generator=generator)
    return generated, target


@pytest.fixture
def golden() -> Path:
    """Outputs of the official networks; absent outside of the development machines."""
    folder = SHARED / "golden"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here; test_golden's tiny fixtures are the offline twin")
    return folder


@pytest.fixture
def photo() -> Tensor:
    """A bundled photo, (1, 3, 96, 96)."""
    from pgn_export.parity import photos

    return photos((96, 96))[0]


@pytest.fixture(scope="session")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pack of tests/packs.py, for reading."""
    from packs import write_pack

    return write_pack(tmp_path_factory.mktemp("packs") / "tiny.pgnpack")


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, of two photos at a time."""
    from packs import write_pack

    return write_pack(tmp_path_factory.mktemp("packs") / "pairs.pgnpack", microbatch=2)


def photo_folder(where: Path, count: int, side: int) -> Path:
    """A new folder `where` with the bundled photos, in turn, as square pictures."""
    from pgn.degrade import to_pil
    from pgn_export.parity import photos

    where.mkdir()
    shown = photos((side, side))
    for index in range(count):
        to_pil(shown[index % len(shown)][0]).save(where / f"{index}.png")
    return where


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, and no package lpips."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # no earlier download
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    monkeypatch.setitem(sys.modules, "lpips", None)


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str


Type = Callable[..., Done]  # a command's words -> how it ended


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Type:
    """Runs a command of ours as its script does, without the seconds of a new process.

    An exception that a user would see as a traceback is raised.
    """

    def run(*words: object) -> Done:
        command, *flags = map(str, words)
        (script,) = entry_points(group="console_scripts", name=command)
        monkeypatch.setattr(sys, "argv", [command, *flags])
        with pytest.raises(SystemExit) as ended:
            sys.exit(script.load()())
        return Done(int(ended.value.code or 0), *capfd.readouterr())

    return run


def small_network(seed: int = 0) -> PGN:
    """A PGN of random weights that converts in a third of pgn-nano's time.

    Its residuals are as large as a trained one's, and its transposed layers are not tied.
    """
    torch.manual_seed(seed)
    net = PGN(PGNConfig("lite", gamma=20.0, options={"widths": ((8,), (8, 8))}))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return net.eval()


def lesson(seed: int = 0) -> Lesson:
    """Six images of 32 pixels, of noise."""
    generator = torch.Generator().manual_seed(seed)
    return Lesson(*torch.randn(3, 6, 3, 32, 32, generator=generator))


def worst(found: Tensor | NDArray[np.generic], wanted: Tensor | NDArray[np.generic]) -> float:
    """Largest difference over the largest wanted value; shapes must agree first."""
    a, b = (np.asarray(value, dtype=np.float64) for value in (found, wanted))
    assert a.shape == b.shape, f"got shape {a.shape}, expected {b.shape}"
    assert np.isfinite(a).all(), "got NaN or infinity"
    return float(np.abs(a - b).max() / np.abs(b).max())


def assert_close(
    found: Tensor | NDArray[np.generic], wanted: Tensor | NDArray[np.generic], limit: float
) -> None:
    """Relative to the largest wanted value, in float64; reports the worst element."""
    error = worst(found, wanted)
    assert error <= limit, f"worst element differs by {error:.3e} of the largest, limit {limit:.0e}"
