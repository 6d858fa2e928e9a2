"""Terms beside the loss that push one property of the geometry, to see whether the loss follows.

Class means are averaged over batches: `DECAY` times the average so far, which is a constant, and
the rest the mean of the batch, through which the gradient goes. A class begins with its first mean.

Axes: N positions of a batch in one row, D embedding, V vocabulary, C classes of a batch.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from tightframe.lm.interface import IGNORE

DECAY = 0.9  # of the averaged class means, per batch that holds the class
SAMPLE = 512  # rows of the classifier that are pushed apart in one step


class Averages(NamedTuple):
    """Class means averaged over batches."""

    means: Float[Tensor, "V D"]  # zero for a class that has not been seen
    seen: Float[Tensor, " V"]  # 1 for a class that has been seen, else 0


class Regularizer:
    """A term of the loss by its name; it keeps the averages that the term needs.

    Args:
        name: "dispersion", "class_dispersion", "cdnv" or "duality".
        strength: Factor of the term.
        averages: State of the averaged class means, changed in place by each call.
        seed: Seed of the sampled rows.
    """

    def __init__(self, name: str, strength: float, averages: Averages, *, seed: int):
        self.name = name
        self.strength = strength
        self.averages = averages
        self.seed = seed

    @property
    def state(self) -> dict[str, Tensor]:
        """The tensors themselves that a training resumes from."""
        if self.name == "dispersion":
            return {}
        return {"averages.means": self.averages.means, "averages.seen": self.averages.seen}

    def __call__(
        self,
        embeddings: Float[Tensor, "N D"],
        classifier: Float[Tensor, "V D"],
        targets: Int[Tensor, " N"],
        step: int,
    ) -> Float[Tensor, ""]:
        """Return strength times the term of one batch, in at least float32.

        Args:
            embeddings: Vectors that the classifier multiplies.
            classifier: One row per token.
            targets: In [0, V), or IGNORE, which leaves a position out.
            step: Number of this update; it decides which rows are sampled.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            if self.name == "dispersion":
                rows = sampled_rows(len(classifier), self.seed, step).to(classifier.device)
                return self.strength * mean_log_kernel(classifier[rows])
            precise = torch.promote_types(embeddings.dtype, torch.float32)
            labelled = targets != IGNORE
            embeddings, targets = embeddings[labelled].to(precise), targets[labelled]
            classes, index = targets.unique(return_inverse=True)
            means = averaged_means(embeddings, index, classes, self.averages)
            if self.name == "class_dispersion":
                term = mean_log_kernel(means)
            elif self.name == "cdnv":
                term = class_distance_variance(embeddings, index, means)
            else:
                term = 1 - cosine_similarity(classifier[classes].to(precise), means).mean()
            return self.strength * term


def no_averages(n_classes: int, dim: int, *, device: str = "cpu") -> Averages:
    """Return the averages before the first batch."""
    return Averages(
        torch.zeros(n_classes, dim, device=device), torch.zeros(n_classes, device=device)
    )


def mean_log_kernel(rows: Float[Tensor, "C D"]) -> Float[Tensor, ""]:
    r"""Return the mean of :math:`-\ln\lVert u_i - u_j \rVert` over pairs of unit rows.

    Low for rows that are spread evenly. Squared distances below four units of rounding count as
    these and give no gradient. Of fewer than two rows it is 0.

    Source: Liu et al. (2021), the kernel of `gnc2_log_kernel_mean`.
    """
    n = len(rows)
    if n < 2:
        return rows.new_zeros(())
    unit = normalize(rows, dim=1)
    squared = 2 - 2 * (unit @ unit.T)  # (C, C)
    smallest = 4 * torch.finfo(squared.dtype).eps
    squared = squared.fill_diagonal_(1.0).clamp_min(smallest)
    return -squared.log().sum() / (2 * n * (n - 1))


def class_distance_variance(
    embeddings: Float[Tensor, "N D"], index: Int[Tensor, " N"], means: Float[Tensor, "C D"]
) -> Float[Tensor, ""]:
    """Return the sum of squared distances to the class mean over those of class means, averaged.

    Args:
        embeddings: Vectors of a batch.
        index: Class of each of them, as a row of `means`.
        means: Averaged class means; of fewer than two the term is 0.
    """
    n = len(means)
    if n < 2:
        return means.new_zeros(())
    within = (embeddings - means[index]).square().sum()
    between = (means - means.mean(0)).square().sum() * 2 / (n - 1)  # mean over pairs
    return within / between


def averaged_means(
    embeddings: Float[Tensor, "N D"],
    index: Int[Tensor, " N"],
    classes: Int[Tensor, " C"],
    averages: Averages,
) -> Float[Tensor, "C D"]:
    """Return the averages of a batch's classes with this batch in them, and store them."""
    counts = torch.bincount(index, minlength=len(classes)).to(embeddings.dtype)
    sums = embeddings.new_zeros(len(classes), embeddings.shape[1]).index_add(0, index, embeddings)
    means = sums / counts[:, None]  # (C, D)
    earlier: Float[Tensor, "C D"] = averages.means[classes].to(embeddings.dtype)
    known: Bool[Tensor, "C 1"] = averages.seen[classes, None] > 0
    averaged = torch.where(known, DECAY * earlier + (1 - DECAY) * means, means)
    averages.means[classes] = averaged.detach().to(averages.means.dtype)
    averages.seen[classes] = 1.0
    return averaged


def sampled_rows(n_rows: int, seed: int, step: int) -> Int[Tensor, " n"]:
    """Return which rows are pushed apart in a step: `SAMPLE` of them, or all if there are fewer."""
    if n_rows <= SAMPLE:
        return torch.arange(n_rows)
    generator = np.random.default_rng([seed, step])
    return torch.from_numpy(generator.choice(n_rows, SAMPLE, replace=False))
