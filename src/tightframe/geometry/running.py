"""Count, mean and spread of a stream of numbers, in one pass.

Axes: N numbers of a part.
"""

import dataclasses
import math

from jaxtyping import Float
from torch import Tensor

__all__ = ["Moments"]

# A sum of squares keeps its digits where this share of it, at least, is about the mean.
SPREAD = 1e-4


@dataclasses.dataclass
class Moments:
    """Count, mean and spread of a stream of numbers."""

    n: int = 0
    mean: float = math.nan
    spread: float = 0.0  # sum of squared deviations from the mean

    def take(self, values: Float[Tensor, " N"]) -> None:
        """Join a part by Chan's formula; its memory may be used up for the deviations."""
        if (n := values.numel()) == 0:
            return
        mean = float(values.sum()) / n
        square = float(values @ values)
        spread = square - n * mean * mean
        if not spread > SPREAD * square:
            deviations = values.sub_(mean)
            spread = float(deviations @ deviations)
        self.join(Moments(n, mean, spread))

    def join(self, part: "Moments") -> None:
        """Join another stream."""
        if self.n == 0 or part.n == 0:
            if self.n == 0:
                self.n, self.mean, self.spread = part.n, part.mean, part.spread
            return
        shift, before = part.mean - self.mean, self.n
        self.n += part.n
        self.mean += shift * (part.n / self.n)
        self.spread += part.spread + shift * shift * (before * part.n / self.n)

    @property
    def effective(self) -> float:
        """How many equal numbers have a sum that rests on as few: (sum x)^2 / sum x^2."""
        square = self.spread + self.n * self.mean**2
        return (self.n * self.mean) ** 2 / square if square > 0 else math.nan

    def variance(self, *, ddof: int) -> float:
        """Spread over n - ddof; NaN where that is not positive."""
        return self.spread / (self.n - ddof) if self.n > ddof else math.nan
