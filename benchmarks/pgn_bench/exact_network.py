"""An exact perceptual loss as a PGN: exported, checked and measured as any other network.

Its proxy target is the one whose closed form (Nikulin et al., arXiv 2105.01957, Eq. 5) is the
loss's own gradient. The backbone is the plain graph of that gradient; nothing is differentiated
at run time.
"""

from __future__ import annotations

from torch import Tensor

from pgn import PGN, PGNConfig
from pgn.backbones import Backbone
from pgn.images import denormalise
from pgn.model import residual_from_gradient
from pgn.teachers import PerceptualLoss
from pgn_bench.gradient_graph import gradient_graph
from pgn_bench.providers import RANDOM_WEIGHTS

ALPHA = 40.0  # as the paper's networks: residuals of order 1


class ExactGradient(Backbone):
    """(u_generated, u_target) -> the residual u_generated - proxy of the loss's exact gradient."""

    def __init__(self, loss: PerceptualLoss) -> None:
        """Raises PgnError: as `gradient_graph`."""
        super().__init__()
        self.loss = loss
        self.gradient = gradient_graph(loss)

    def predict(self, u_generated: Tensor, u_target: Tensor) -> Tensor:
        return self.forward_cached(u_generated, self.target_features(u_target))

    def target_features(self, u_target: Tensor) -> list[Tensor]:
        """What the loss compares, of a target (N, 3, H, W)."""
        return self.loss.features(denormalise(u_target))

    def forward_cached(self, u_generated: Tensor, target: list[Tensor]) -> Tensor:
        """`forward` with the target's features computed before."""
        gradient = self.gradient(denormalise(u_generated), target)
        return residual_from_gradient(gradient, ALPHA)


def exact_network(loss: PerceptualLoss, name: str, random: bool) -> PGN:
    """A PGN whose `gradient` is that of `loss`, in evaluation mode.

    Args:
        name: its backbone's name in manifests and model cards, "exact vgg19".
        random: whether the loss has random weights; manifests say so, and so do results.

    Raises:
        PgnError: a loss whose gradient is not written out.
    """
    info = {"teacher": loss.source} | (RANDOM_WEIGHTS if random else {})
    config = PGNConfig(name, "direct", ALPHA, gamma=1.0)
    return PGN(config, info, ExactGradient(loss)).eval()
