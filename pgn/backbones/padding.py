"""What every backbone shares: two normalised images in, three channels out, at any size >= 32."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch.nn.functional as F
from torch import Tensor, nn


class Backbone(nn.Module):
    """B of the paper: (u_generated, u_target), each (N, 3, H, W) -> (N, 3, H, W).

    A subclass implements `predict` for sizes that are multiples of `multiple`; other sizes are
    padded by replication at the right and the bottom, and cropped back.
    """

    multiple = 1

    def predict(self, u_generated: Tensor, u_target: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, u_generated: Tensor, u_target: Tensor) -> Tensor:
        height, width = u_generated.shape[-2:]
        out = self.predict(self._pad(u_generated), self._pad(u_target))
        return out[..., :height, :width]

    def _pad(self, u: Tensor) -> Tensor:
        bottom, right = (-side % self.multiple for side in u.shape[-2:])
        if isinstance(bottom, int) and isinstance(right, int) and bottom == right == 0:
            return u  # keeps graphs of a fixed, fitting size free of a needless Pad
        return F.pad(u, (0, right, 0, bottom), mode="replicate")


@runtime_checkable
class TargetBranch(Protocol):
    """A backbone that sees a target apart from the generated image until it compares the two.

    `forward_cached(g, target_features(t))` is `forward(g, t)`, images (N, 3, H, W).
    """

    def target_features(self, u_target: Tensor) -> list[Tensor]:
        """All that the gradient needs of a target; computed once a target."""

    def forward_cached(self, u_generated: Tensor, target: list[Tensor]) -> Tensor:
        """`forward` with the target's features computed before."""
