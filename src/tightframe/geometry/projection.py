"""A seeded random projection of embeddings, for layers whose moments would take too much memory.

Axes: N rows, D embedding, P projected.
"""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Projection:
    r"""From D to P dimensions by independent normal numbers of variance 1/P.

    Squared distances and inner products keep their expectation; that of a pair has a relative
    standard deviation of :math:`\sqrt{2/P}` (Johnson & Lindenstrauss 1984), and what is averaged
    over many pairs far less. Ranks and spectra are those of the P dimensions.
    """

    dim: int  # P
    seed: int = 0

    def matrix(self, source_dim: int) -> Float[Tensor, "D P"]:
        """The same for the same seed and dimensions, on any machine."""
        generator = torch.Generator().manual_seed(self.seed)
        matrix = torch.randn(source_dim, self.dim, generator=generator, dtype=torch.float64)
        scaled: Tensor = matrix / self.dim**0.5
        return scaled.float()
