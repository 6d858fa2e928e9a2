"""Documents whose positions depend on each other, and classes as frequent as words, of known truth.

A sample of class c in document d is mu_c + a deviation that the document has for that class + one
that it has for all classes + a deviation of its own. Only sufficient statistics are drawn.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np
import torch

from tightframe.geometry.class_rows import ClassRows
from tightframe.geometry.measures import choose, metrics
from tightframe.geometry.moments import ClassMoments
from tightframe.geometry.values import Geometry

TELLING = ("sampling is ", "a few pairs decide", "rather read")  # reasons that a value is biased
KINDS = 8  # of words, whose class means crowd together as those of a language do


@dataclasses.dataclass(frozen=True)
class World:
    """Parts of the variance of a sample (around 1) that its document decides, and the rest.

    Args:
        own: Part that samples of one class in one document share.
        shared: Part that all samples of one document share, of the classes that do.
        sharing: Share of the classes that do.
        distance: Mean squared norm of a class mean, against a variance of 1.
        bursts: How unevenly a class lies in documents: variance of its relative rate.
        length: Samples of a document.
    """

    own: float = 0.0
    shared: float = 0.0
    sharing: float = 1.0
    distance: float = 1.0
    bursts: float = 1.0
    length: int = 400
    n_classes: int = 200
    dim: int = 64

    def draw(self, n_documents, rng, groups=20):
        """A state of so many documents in contiguous groups, its classifier, and the truth.

        The truth is a state, too: of the true means, and of so many samples that nothing is left
        to debias.
        """
        k, dim = self.n_classes, self.dim
        zipf = 1 / np.arange(1, k + 1)
        rates = rng.gamma(1 / self.bursts, self.bursts, size=(n_documents, k))
        counts = rng.poisson(self.length * zipf / zipf.sum() * rates)
        # Directions of unequal variance, of means and of samples.
        axes, noise_axes = (np.arange(1.0, dim + 1) ** -slope for slope in (0.5, 0.5))
        axes, noise_axes = axes / axes.sum(), noise_axes / noise_axes.sum()
        kinds = rng.normal(size=(KINDS, dim))[rng.integers(KINDS, size=k)]
        of_kind, of_word = math.sqrt(0.6), math.sqrt(0.4)
        means = of_kind * kinds + of_word * rng.normal(size=(k, dim))
        means *= np.sqrt(self.distance * axes)
        variances = np.exp(0.3 * rng.normal(size=k))
        d, c = counts.nonzero()
        n = counts[d, c].astype(float)
        scale = np.sqrt(variances[c][:, None] * noise_axes)
        rest = 1 - self.own
        of_class = rng.normal(size=(len(d), dim)) * scale * math.sqrt(self.own)
        of_all = rng.normal(size=(n_documents, dim)) * np.sqrt(self.shared * noise_axes)
        alone = rng.normal(size=(len(d), dim)) * scale * np.sqrt(rest / n)[:, None]
        takes = np.arange(k) % 2 < 2 * self.sharing
        at = means[c] + of_class + of_all[d] * takes[c][:, None] + alone
        freedom = np.maximum(n - 1, 1e-12)[:, None] / 2
        within = 2 * (rng.standard_gamma(freedom, size=(len(d), dim)) * scale**2 * rest).sum(1)
        within *= n > 1
        places = torch.from_numpy(d * groups // n_documents * k + c)
        order = np.argsort(places.numpy(), kind="stable")
        moments = ClassMoments(k, dim, groups=groups)
        moments.rows = _rows(k, places.numpy()[order], n[order], at[order], within[order], groups)
        rows = rng.normal(size=(k, dim)) * math.sqrt(self.distance / dim)
        classifier = torch.from_numpy(means - means.mean(0) + rows)
        within_ss = torch.from_numpy(variances + self.shared * takes) * 2**50
        truth = torch.full((k,), 2**50), torch.from_numpy(means), within_ss
        return moments, classifier, ClassMoments.from_dense(*truth)


def _rows(n_classes, places, n, at, within, groups):
    """Rows of means (P, D) of n samples, with their within_ss; places ascend."""
    found, first = np.unique(places, return_index=True)
    total = np.add.reduceat(n, first)
    mean = np.add.reduceat(n[:, None] * at, first) / total[:, None]
    between = n * ((at - np.repeat(mean, np.diff([*first, len(n)]), 0)) ** 2).sum(1)
    columns = {
        "counts": torch.from_numpy(total).long(),
        "means": torch.from_numpy(mean),
        "within_ss": torch.from_numpy(np.add.reduceat(within + between, first)),
    }
    return ClassRows.of(n_classes, torch.from_numpy(found), columns, groups)


class Bias(NamedTuple):
    """Mean relative error over draws, its standard error, and in what share of them it is told."""

    mean: float
    error: float
    announced: float = math.nan


def biases(world, n_documents, measures, *, draws, min_count=20, middles=(), seed=0):
    """The bias of each measure, and under `<name> middle` that of the middle of its interval.

    Each is compared with the truth over the classes that it is about: those with `min_count`
    samples, and of measures by groups, those of which no group holds more than half.
    """
    errors = {name: [] for name in (*measures, *(f"{name} middle" for name in middles))}
    announced = {name: [] for name in errors}
    for draw in range(draws):
        rng = np.random.default_rng([seed, draw])
        moments, classifier, truth = world.draw(n_documents, rng)
        counts = moments.counts_by_group
        enough = counts.sum(0) >= min_count
        told = enough & (2 * counts.amax(0) <= counts.sum(0))
        for names, classes in (
            ([name for name in measures if "_dbg" not in name], enough),
            ([name for name in measures if "_dbg" in name], told),
        ):
            twins = {name: name.replace("_dbg", "_db") for name in names}
            true = metrics(truth, classifier, measures=list(twins.values()), classes=classes)
            geometry = Geometry(moments, classifier, min_count=min_count)
            for measure in choose(names) if names else ():
                value = measure.function(geometry)
                expected = true[twins[measure.name]].value
                errors[measure.name].append(value.value / expected - 1)
                announced[measure.name].append(any(word in value.reason for word in TELLING))
                if measure.name in middles:
                    found = metrics(
                        moments, classifier, measures=[measure.name], min_count=min_count
                    )[measure.name]
                    middle = (found.low + found.high) / 2
                    errors[f"{measure.name} middle"].append(middle / expected - 1)
                    decided = "decides the mean of their log kernels" in found.reason
                    announced[f"{measure.name} middle"].append(math.isnan(found.low) or decided)
    return {name: _bias(np.array(x), announced[name]) for name, x in errors.items()}


def _bias(x, announced):
    """Of those that there are: an interval that is refused has no middle."""
    there = x[~np.isnan(x)]
    if len(there) < 2:
        return Bias(math.nan, math.nan, float(np.mean(announced)))
    error = float(there.std(ddof=1)) / math.sqrt(len(there))
    return Bias(float(there.mean()), error, float(np.mean(announced)))
