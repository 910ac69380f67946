"""What a pack fits: a generator, and how it begins with a person's photos.

An avatar (Zakharov et al., arXiv 1905.08233) begins with the styles that its embedder sees in the
photos; they are its person's own, trained or not. Any other generator begins with its weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pgn import PgnError
from pgn.avatar import Avatar, PersonalGenerator, load, personalise
from pgn.avatar.generator import TRAINABLE
from pgn.errors import unknown_name
from pgn_export.fitting.names import VALUE, tensor_name
from pgn_export.graph import Size, Tensors

STYLES = "*.style"  # a person's own parameters of an avatar


class Start(nn.Module):
    """photo, condition (M, 3, H, W) -> styles, (1, ...) each: the person as M photos show it."""

    def __init__(self, avatar: Avatar, names: Sequence[str]) -> None:
        super().__init__()
        self.embedder = avatar.embedder
        self.sizes = avatar.generator.style_sizes
        self.names = [VALUE + tensor_name(name) for name in names]

    def forward(self, photo: Tensor, condition: Tensor) -> Tensors:
        # the style is linear in the identity: the mean over photos may be taken behind it
        identity = self.embedder(photo, condition).mean(0, keepdim=True)
        parts = torch.split(self.embedder.style(identity), self.sizes, dim=1)
        return dict(zip(self.names, parts, strict=True))


@dataclass(frozen=True)
class Subject:
    """`generator`(condition) -> image, (N, 3, H, W) pixels in [0, 1] both."""

    name: str
    generator: nn.Module
    size: Size
    condition: str  # landmarks: drawn by pgn_runtime.landmarks; image: given as pictures
    start: Start | None = None
    personal: Sequence[str] = ()  # names of the parameters that `start` gives
    metadata: dict[str, Any] = field(default_factory=dict)

    def trainable(self, wanted: str) -> list[str]:
        """Names of the parameters to train.

        Args:
            wanted: a preset (all, decoder, adain, last: of avatars), or patterns of names, with
                commas between them.

        Raises:
            PgnError: nothing is called so.
        """
        names = [name for name, _ in self.generator.named_parameters()]
        avatar = isinstance(self.generator, PersonalGenerator)
        presets = TRAINABLE if avatar else {"all": TRAINABLE["all"]}
        patterns = presets.get(wanted, tuple(part.strip() for part in wanted.split(",")))
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise unknown_name("trainable", pattern, [*presets, *names])
        return [n for n in names if any(fnmatchcase(n, pattern) for pattern in patterns)]

    def given(self, trainable: Sequence[str]) -> list[str]:
        """Names of the person's own parameters that are not trained."""
        return [name for name in self.personal if name not in trainable]


def of_avatar(name_or_path: str | Path) -> Subject:
    """A bundled avatar or one of a checkpoint.

    Raises:
        PgnError: as pgn.avatar.load.
    """
    avatar = load(name_or_path)
    config = avatar.config
    generator = personalise(avatar.generator, torch.zeros(avatar.generator.style_size)).eval()
    names = [name for name, _ in generator.named_parameters() if fnmatchcase(name, STYLES)]
    return Subject(
        name=Path(name_or_path).stem,
        generator=generator,
        size=(config.size, config.size),
        condition="landmarks",
        start=Start(avatar, names).eval(),
        personal=names,
        metadata=avatar.metadata(),
    )


def of_generator(generator: nn.Module, name: str, size: Size) -> Subject:
    """Any generator(condition) -> image; the condition is a picture.

    Raises:
        PgnError: it is no module.
    """
    if not isinstance(generator, nn.Module):
        raise PgnError(f"generator: got {type(generator).__name__}, expected a torch.nn.Module.")
    return Subject(name, generator.eval(), size, "image")
