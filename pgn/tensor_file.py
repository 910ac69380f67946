"""Networks on disk: tensors in one .safetensors file whose metadata holds a JSON description.

Reading runs no code, and allocates nothing on the word of a file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pgn.errors import PgnError, unknown_name
from pgn.files import atomic_path

FORMAT_VERSION = 1
MAX_BYTES = 2**30  # of a file, and of the weights in it; the largest published network has 0.1 %
MAX_LAYERS = 100  # a network of 10,000 takes minutes to be found wanting
MAX_METADATA = 2**20  # characters


@dataclass(frozen=True)
class Kind:
    """What a file describes."""

    key: str  # of the metadata
    bundled: tuple[str, ...]  # names of files that come with the package
    suffixes: str  # that are understood, in words
    writer: str  # what writes such files, in words

    def find(self, name_or_path: str | Path) -> Path:
        """The file of a bundled name, or at a path.

        Raises:
            PgnError: there is none, or it is too large to be one.
        """
        path = self._find(str(name_or_path))
        check_bytes(path, path.stat().st_size)
        return path

    def _find(self, name_or_path: str) -> Path:
        if name_or_path in self.bundled:
            path = Path(str(resources.files("pgn") / "assets" / f"{name_or_path}.safetensors"))
            if path.is_file():
                return path
            raise PgnError(
                f"checkpoint: {name_or_path} does not come with this version: no {path}."
            )
        path = Path(name_or_path)
        try:
            exists = path.is_file()
        except OSError:  # a name that is too long, say
            exists = False
        if exists:
            return path
        if path.suffix or len(path.parts) > 1:
            raise PgnError(
                f"checkpoint: no file {name_or_path}. Give a {self.suffixes} file that exists, "
                f"or a bundled name: {', '.join(self.bundled)}."
            )
        raise unknown_name("checkpoint", name_or_path, self.bundled)

    def read(self, path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Description and tensors of a file.

        Raises:
            PgnError: it is damaged, of another kind, or of a newer version.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            advice = (
                "It may be cut short: copy or train it again."
                if path.suffix == ".safetensors"
                else f"Expected a {self.suffixes} file."
            )
            raise PgnError(
                f"checkpoint: {path} is no readable .safetensors file ({error}). {advice}"
            ) from None
        return self._described(metadata, path), state

    def _described(self, metadata: dict[str, str], path: Path) -> dict[str, Any]:
        try:
            if len(metadata[self.key]) > MAX_METADATA:
                raise ValueError("too long")
            described: dict[str, Any] = json.loads(metadata[self.key])
            version = described.pop("format")
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
            raise PgnError(
                f"checkpoint: {path} has no valid '{self.key}' metadata. "
                f"Expected a file written by {self.writer}."
            ) from None
        if version != FORMAT_VERSION:
            raise PgnError(
                f"checkpoint: {path} has format {version!r:.20}, this version reads "
                f"{FORMAT_VERSION}. If it is newer, upgrade pgn-edge."
            )
        return described

    def write(
        self, path: str | Path, state: Mapping[str, Tensor], description: dict[str, Any]
    ) -> Path:
        """Write a file, by rename, so that a crash leaves the old one; returns its path.

        Raises:
            PgnError: the suffix is not .safetensors, the weights are not finite, or the folder
                cannot be written.
        """
        final = Path(path)
        if not all(torch.isfinite(tensor).all() for tensor in state.values()):
            raise PgnError(
                "checkpoint: the weights hold NaN or infinite values: the network diverged."
            )
        if final.suffix != ".safetensors":
            raise PgnError(f"checkpoint: got {final.name}, expected a name ending in .safetensors.")
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        described = json.dumps({"format": FORMAT_VERSION, **description}, sort_keys=True)
        with atomic_path(final) as temporary:
            save_file(plain, temporary, {self.key: described})
        return final


def check_bytes(path: Path, size: int) -> None:
    """Refuse what is larger than any network of ours."""
    if size > MAX_BYTES:
        raise PgnError(
            f"checkpoint: {path} asks for {size / 2**30:.1f} GiB, expected at most "
            f"{MAX_BYTES / 2**30:.0f}: no network of this project is that large."
        )


def check_counts(path: Path, what: str, counts: Iterable[Any]) -> None:
    """Refuse what would build without end, before anything is built of it or shown."""
    found = list(islice(counts, MAX_LAYERS + 1))
    numbers = all(isinstance(count, (int, float)) and abs(count) < 2**31 for count in found)
    if len(found) > MAX_LAYERS or not numbers:
        raise PgnError(
            f"checkpoint: {path}: its {what} cannot be built: expected options of at most "
            f"{MAX_LAYERS} channel counts."
        )


def fill(net: nn.Module, state: Mapping[str, Tensor], path: Path, what: str) -> None:
    """Copy `state` into a network, or say in one message everything that does not fit.

    Args:
        net: on the device meta, so that nothing is allocated before shapes are compared.
        path, what: the file and the kind of network, for messages.

    Raises:
        PgnError: it does not fit, or holds NaN or infinite values.
    """
    expected = net.state_dict()
    problems = []
    if missing := sorted(expected.keys() - state.keys()):
        problems.append(f"missing: {', '.join(missing[:5])}{_more(missing)}")
    if extra := sorted(map(str, state.keys() - expected.keys())):
        problems.append(f"not expected: {', '.join(extra[:5])}{_more(extra)}")
    for name in sorted(expected.keys() & state.keys()):
        if misfit := _misfit(state[name], expected[name]):
            problems.append(f"{name}: {misfit}")
    if problems:
        shown = "; ".join(problems[:5])
        raise PgnError(
            f"checkpoint: {path} does not fit {what}: {shown}. "
            f"Expected exactly the tensors of that {what.partition(' ')[0]}."
        )
    check_bytes(path, sum(tensor.nbytes for tensor in expected.values()))
    typed = {name: tensor.to(expected[name].dtype) for name, tensor in state.items()}
    for name, tensor in typed.items():
        if not torch.isfinite(tensor).all():
            raise PgnError(f"checkpoint: {path}: {name}: holds NaN or infinite values.")
    net.load_state_dict(typed, assign=True)


def _misfit(tensor: Any, expected: Tensor) -> str:
    """Why a tensor from elsewhere is not of the expected kind; else ""."""
    if not isinstance(tensor, Tensor):
        return f"got {type(tensor).__name__}, expected a tensor"
    dense = tensor.is_cpu and tensor.layout is torch.strided
    numbers = torch.can_cast(tensor.dtype, expected.dtype) and not tensor.is_quantized
    if not (dense and numbers) or tensor.is_nested:
        got = f"{tensor.dtype}, {tensor.layout}, {tensor.device}"
        return f"got a tensor of {got}, expected plain {expected.dtype}"
    if tensor.shape != expected.shape:
        return f"got shape {tuple(tensor.shape)}, expected {tuple(expected.shape)}"
    return ""


def _more(names: list[str]) -> str:
    return f" and {len(names) - 5} more" if len(names) > 5 else ""
