"""A perceptual gradient network: backbone, head, and the closed-form gradient.

Reference: Nikulin et al. 2020, "Perceptual Gradient Networks", arXiv 2105.01957, section 3.

Shapes: N images, 3 channels (RGB), H x W pixels of at least 32 x 32.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pgn import backbones, heads
from pgn.errors import PgnError
from pgn.images import check_pair, denormalise, normalise, pixel_per_u

MAX_SCALE = 1e9  # of alpha, beta, gamma; more is a damaged file


@dataclass(frozen=True)
class PGNConfig:
    """All that is needed to build a PGN without its weights."""

    backbone: str = "lite"
    head: str = "direct"
    alpha: float = 40.0  # scale of the proxy MSE whose gradient the teacher's is (Eq. 5)
    beta: float = 1.1  # how far a constrained proxy may leave the range of photos (Eq. 7)
    gamma: float = 1.0 / 512.0  # scale of a predicted residual (Eq. 2, 8)
    options: dict[str, Any] = field(default_factory=dict)  # of the backbone: other widths

    def __post_init__(self) -> None:
        for name, kind in (("backbone", str), ("head", str), ("options", dict)):
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise PgnError(f"{name}: got {value!r}, expected a {kind.__name__}.")
        heads.head(self.head)
        for name in ("alpha", "beta", "gamma"):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (number and 0 < value < MAX_SCALE):
                raise PgnError(f"{name}: got {value!r}, expected a positive number.")


class PGN(nn.Module):
    """Predicts the gradient of a perceptual loss in one forward pass.

    `info` is free metadata that travels with a checkpoint: teacher, training, measured quality.
    `source` is the file it was loaded from. A `backbone` that `backbones.build` does not know can
    be given; `pgn.load` then does not know it either.
    """

    def __init__(
        self,
        config: PGNConfig,
        info: dict[str, Any] | None = None,
        backbone: backbones.Backbone | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.info = dict(info or {})
        self.source: Path | None = None
        self.backbone = backbone or backbones.build(config.backbone, **config.options)
        self._head = heads.head(config.head)

    def forward(self, u_generated: Tensor, u_target: Tensor) -> Tensor:
        """Proxy target on normalised images, unchecked: what training and export use.

        Args and result: (N, 3, H, W), ImageNet-normalised.
        """
        return self.proxy_of(self.backbone(u_generated, u_target), u_generated)

    def proxy_of(self, out: Tensor, u_generated: Tensor) -> Tensor:
        """The head: a backbone's output B to the proxy target, both (N, 3, H, W), normalised."""
        return self._head(out, u_generated, self.config.beta, self.config.gamma)

    @torch.no_grad()
    def proxy(self, generated: Tensor, target: Tensor) -> Tensor:
        """The proxy target P, the image towards which MSE would pull as the teacher does.

        Args:
            generated, target: (N, 3, H, W) pixels in [0, 1]; generated may leave it a little.

        Returns:
            (N, 3, H, W) pixels; they may leave [0, 1].

        Raises:
            PgnError: shapes differ or are no images; NaN; values of 0..255; another dtype or
                device than the network's.
        """
        check_pair(generated, target)
        weight = next(self.parameters())
        if generated.dtype != weight.dtype or generated.device != weight.device:
            raise PgnError(
                f"generated: got {generated.dtype} on {generated.device}, and the network is "
                f"{weight.dtype} on {weight.device}. Convert the images: image.to(torch.float32), "
                f"image.to(device)."
            )
        return denormalise(self(normalise(generated), normalise(target)))

    def gradient(self, generated: Tensor, target: Tensor, mse_weight: float = 0.0) -> Tensor:
        """The predicted gradient of the perceptual loss with respect to `generated` (Eq. 5).

        Per image, never divided by N: sum the losses of a batch, do not average them.

        Args:
            generated, target: (N, 3, H, W) pixels in [0, 1].
            mse_weight: weight of an MSE term towards `target` in normalised units (lambda,
                20 in the paper); 0 leaves it out.

        Returns:
            (N, 3, H, W), per pixel unit. Use: `generated.backward(gradient)`.

        Raises:
            PgnError: as `proxy`; a negative or infinite weight.
        """
        if not 0 <= mse_weight < float("inf"):
            raise PgnError(f"mse_weight: got {mse_weight}, expected a number of at least 0.")
        proxy = self.proxy(generated, target)
        return closed_form(generated.detach(), target, proxy, self.config.alpha, mse_weight)

    def metadata(self) -> dict[str, Any]:
        """Configuration and info as one JSON-ready dictionary."""
        return {**self.info, **asdict(self.config)}


def closed_form(
    generated: Tensor, target: Tensor, proxy: Tensor, alpha: float, mse_weight: float
) -> Tensor:
    """2/(CHW) * (alpha*(u_hat - P) + lambda*(u_hat - u)) / std, all images (N, 3, H, W) pixels.

    One 1/std belongs to the chain rule, the other turns pixel differences to normalised ones.
    """
    pull = alpha * (generated - proxy) + mse_weight * (generated - target)
    return pull * (2.0 / generated[0].numel()) / pixel_per_u(generated) ** 2


def residual_from_gradient(gradient: Tensor, alpha: float) -> Tensor:
    """The normalised residual u_hat - P whose closed form is the pixel `gradient` (N, 3, H, W)."""
    return gradient * pixel_per_u(gradient) * (gradient[0].numel() / (2.0 * alpha))
