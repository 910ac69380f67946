"""What every backbone shares: two normalised images in, three channels out, at any size >= 32."""

from __future__ import annotations

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
