"""Mixtures of Gaussians whose geometry is known, and states that were measured on them."""

import math

import torch

from tightframe.geometry.measures import metrics
from tightframe.geometry.moments import ClassMoments


class Mixture:
    """K classes in D dimensions: means N(0, I/D), variances around 1, a classifier beside them.

    Documents hold `together` samples of a class, which share a part of their deviation from the
    class mean: `shared` of the variance.
    """

    def __init__(self, n_classes, dim, generator, *, shared=0.0, together=2):
        self._generator = generator
        self.shape = (n_classes, dim)
        self.means = self._normal(n_classes, dim) / math.sqrt(dim)
        self.variances = (0.3 * self._normal(n_classes)).exp()
        self.classifier = self.means - self.means.mean(0) + self._normal(*self.shape) / dim**0.5
        self._shared, self._together = shared, together

    def truth(self, measures, classes=slice(None)):
        """The values of the population over some classes: of its own means and variances."""
        n = 2**50  # so many samples that nothing is left to debias
        counts = torch.zeros(self.shape[0], dtype=torch.int64)
        counts[classes] += n
        moments = ClassMoments.from_dense(counts, self.means, self.variances * n)
        found = metrics(moments, self.classifier, measures=measures)
        return {name: value.value for name, value in found.items()}

    def sample(self, n, groups):
        """Moments of n samples a class whose documents fall into groups at random.

        Only sufficient statistics are drawn: a group's means have variance s / n_g around the
        class mean, its within_ss are s times chi-squared.
        """
        n_classes, dim = self.shape
        together = self._together if self._shared else 1
        n_documents = -(-n // together)
        where = torch.randint(groups, (n_classes, n_documents), generator=self._generator)
        documents = torch.zeros(n_classes, groups, dtype=torch.float64)
        documents.scatter_add_(1, where, torch.ones(where.shape, dtype=torch.float64))
        documents = documents.T  # (G, C)
        per_dimension = self.variances / dim
        means, within_ss = self._level(documents, per_dimension * self._shared)
        within_ss *= together  # each document stands for as many samples
        within = self._level(documents * together, per_dimension * (1 - self._shared))
        counts, means = (documents * together).long(), self.means + means + within[0]
        return ClassMoments.from_dense(counts, means, within_ss + within[1])

    def _level(self, n, variance):
        """Means (G, C, D) and within_ss (G, C) of n independent deviations from 0."""
        scale = (variance / n.clamp(min=1)).sqrt()
        means = self._normal(*n.shape, self.shape[1]) * scale[..., None]
        freedom = (n - 1).clamp(min=0) * self.shape[1]
        gamma = torch._standard_gamma(freedom.clamp(min=1e-9) / 2, generator=self._generator)
        return means, 2 * gamma * variance * (freedom > 0)

    def _normal(self, *shape):
        return torch.randn(*shape, dtype=torch.float64, generator=self._generator)
