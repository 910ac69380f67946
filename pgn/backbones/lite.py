"""`lite`, our student with the shape of a backward pass: a thin VGG and its transposed pass.

The gradient of sum_k |phi_k(generated) - phi_k(target)| is a forward pass, a sign of differences
and a transposed pass. This backbone has that form, written out as ordinary feed-forward layers:
nothing is differentiated at run time.

    f_k = relu(conv_k(f_k-1)), average pooling as in VGG
    d_k = f_k(generated) - f_k(target)
    g   = transposed_k([g + strength_k * d_k / sqrt(d_k^2 + softness_k^2)] * (f_k > 0))

transposed_k begins as the exact transpose of conv_k (`tie`), which makes the whole the gradient
of an explicit distance, and then learns freely: a thin pass down can make up for what the thin
pass up lacks. The output is the residual u_generated - proxy: the `direct` head with gamma = 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgn.backbones.padding import Backbone
from pgn.errors import PgnError

WIDTHS = ((16, 16), (48, 48), (64, 64, 64, 64), (128,))  # VGG-19's blocks up to conv4_1, thinned
NANO_WIDTHS = ((16,), (32, 32), (48, 48, 48), (64,))  # `nano`: layers left out, too
MASK_SLOPE = 2.0**15  # min(slope * f, 1) is the step function f > 0, and stays finite in fp16
SOFTNESS_FLOOR = 1e-6


class Lite(Backbone):
    """Thin VGG: channel counts of its layers, one sequence a block.

    The first block's features are not compared: they carry 4 % of the gradient's energy.
    """

    def __init__(self, widths: Sequence[Sequence[int]] = WIDTHS) -> None:
        super().__init__()
        if len(widths) < 2 or not all(widths):
            raise PgnError(f"widths: got {widths}, expected two blocks or more, none empty.")
        self.multiple = 2 ** (len(widths) - 1)
        self.first_compared = len(widths[0])
        flat = [width for block in widths for width in block]
        starts = {sum(len(block) for block in widths[:i]) for i in range(1, len(widths))}
        self.pooled = [k in starts for k in range(len(flat))]  # is conv k fed by pooled features?
        self.convs = nn.ModuleList(
            nn.Conv2d(in_channels, out_channels, 3, padding=1)
            for in_channels, out_channels in zip([3, *flat], flat, strict=False)
        )
        self.transposed = nn.ModuleList(
            nn.Conv2d(out_channels, in_channels, 3, padding=1, bias=False)
            for in_channels, out_channels in zip([3, *flat], flat, strict=False)
        )
        compared = flat[self.first_compared :]
        self.strength = nn.ParameterList(torch.full((1, c, 1, 1), 1.0 / c) for c in compared)
        self.softness = nn.ParameterList(torch.full((1, c, 1, 1), 0.1) for c in compared)
        self.tie()

    @torch.no_grad()
    def tie(self) -> None:
        """Make every transposed layer the exact transpose of its convolution."""
        for conv, transposed in zip(self.convs, self.transposed, strict=True):
            assert isinstance(conv, nn.Conv2d) and isinstance(transposed, nn.Conv2d)
            transposed.weight.copy_(conv.weight.flip(2, 3).transpose(0, 1))

    def features(self, u: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> the thin features of every layer, finest first."""
        out = []
        for conv, pooled in zip(self.convs, self.pooled, strict=True):
            u = torch.relu(conv(F.avg_pool2d(u, 2) if pooled else u))
            out.append(u)
        return out

    def residual(self, generated: list[Tensor], target: list[Tensor]) -> Tensor:
        """The transposed pass: features -> u_generated - proxy (N, 3, H, W).

        Args:
            generated: `features` of the generated image, of every layer.
            target: those of the target, of the compared layers only.
        """
        gradient: Tensor | None = None
        for k in reversed(range(len(generated))):
            if k >= self.first_compared:
                compared = k - self.first_compared
                push = self._push(compared, generated[k] - target[compared])
                gradient = push if gradient is None else gradient + push
            assert gradient is not None  # the last layer is always compared
            mask = torch.clamp(generated[k].detach() * MASK_SLOPE, max=1.0)
            gradient = self.transposed[k](gradient * mask)
            if self.pooled[k]:
                gradient = F.interpolate(gradient * 0.25, scale_factor=2.0, mode="nearest")
        assert gradient is not None
        return gradient

    def predict(self, u_generated: Tensor, u_target: Tensor) -> Tensor:
        target = self.features(u_target)[self.first_compared :]
        return self.residual(self.features(u_generated), target)

    def target_features(self, u_target: Tensor) -> list[Tensor]:
        """All that the gradient needs of a target, (N, 3, H, W) -> features of compared layers.

        Computed once a target: `forward_cached(g, target_features(t))` is `forward(g, t)`.
        """
        return self.features(self._pad(u_target))[self.first_compared :]

    def forward_cached(self, u_generated: Tensor, target: list[Tensor]) -> Tensor:
        """`forward` with the target's features computed before."""
        height, width = u_generated.shape[-2:]
        return self.residual(self.features(self._pad(u_generated)), target)[..., :height, :width]

    def _push(self, k: int, difference: Tensor) -> Tensor:
        energy = difference * difference + (self.softness[k] ** 2 + SOFTNESS_FLOOR)
        push: Tensor = self.strength[k] * difference * torch.rsqrt(energy)
        return push
