"""The discriminator of a talking head: is this a photo of this person, with these landmarks?

References: Zakharov et al., arXiv 1905.08233, section 3: residual blocks, sum pooling and a
projection on the person; Miyato and Koyama, arXiv 1802.05637 (projection), and Miyato et al.,
arXiv 1802.05957 (spectral norm). It serves in meta-training and never leaves the server.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from pgn.avatar.embedder import HalvingBlock, pooled


class Discriminator(nn.Module):
    """Scores v^T (w + w0) + b: realism by w0 and b, likeness by the person's vector w.

    `people` (people, E) holds w of every training person, which the embedder learns to predict.

    Args:
        people: how many there are.
        widths: channels of the first convolution and of the residual blocks, all of which halve
            the sides; the last one is E, the size of the embedder's identities.
    """

    def __init__(self, people: int, widths: Sequence[int] = (16, 32, 64, 96, 128)) -> None:
        super().__init__()
        self.first = nn.Conv2d(6, widths[0], 4, stride=2, padding=1)
        self.blocks = nn.ModuleList(HalvingBlock(fine, coarse) for fine, coarse in pairwise(widths))
        self.realism = nn.Linear(widths[-1], 1)  # w0 and b
        for module in list(self.modules()):
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                spectral_norm(module)
        self.people = nn.Parameter(torch.randn(people, widths[-1]) * widths[-1] ** -0.5)

    def forward(
        self, image: Tensor, condition: Tensor, person: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Scores (N,), higher where more real, and the features of every block, finest first.

        Args:
            image, condition: (N, 3, H, W) in [0, 1], sides of 32 pixels at least.
            person: (N, E), w of each image's person: `people[indices]`, or of a newcomer the
                embedder's identity.
        """
        x = self.first(torch.cat([image, condition], dim=1))
        features = []
        for block in self.blocks:
            x = block(x)
            features.append(x)
        vector = pooled(x)  # (N, E)
        score: Tensor = self.realism(vector)[:, 0] + (vector * person).sum(1)
        return score, features
