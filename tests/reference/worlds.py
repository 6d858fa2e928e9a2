"""Populations like text, whose geometry is known, and states measured on documents drawn from them.

Two kinds. `Text` is made: class means and classifier are drawn, counts are Zipf's and come in
bursts, samples have Student's t tails, classes differ in the size and shape of their covariance,
and the samples of a document depend on each other. `Sampled` is real: the embeddings of a trained
model on some hundred documents, of which documents are drawn with replacement.

Axes: C classes, D dimensions, M documents, G groups.
"""

import dataclasses

import numpy as np
import torch
from scipy.signal import lfilter
from scipy.special import ndtr

from tightframe.corpus import build
from tightframe.corpus.shards import Groups, TokenShards, even_cuts
from tightframe.geometry.measures import metrics
from tightframe.geometry.moments import ClassMoments
from tightframe.geometry.stream import Stream
from tightframe.lm.interface import IGNORE
from tightframe.lm.load import load_model
from tightframe.lm.options import TrainOptions
from tightframe.lm.training import train

MANY = 2**50  # samples of a class at which nothing is left to debias


@dataclasses.dataclass(frozen=True)
class World:
    """How a `Text` is made."""

    dim: int = 64
    tails: int = 4  # degrees of freedom of the samples' t distribution: 3 or 4
    outliers: bool = False  # whether tails are of whole samples, rather than of coordinates
    alike: float = 0.05  # share of variance that a document's samples of one class have in common
    n_classes: int = 150
    tokens: int = 150  # of a document, on average
    groups: int = 20
    memory: float = 0.0  # correlation of a document with the one before: blocks of one long text


WORLDS = {
    "text": World(),
    "text, D = 128": World(dim=128),
    "text, t3 tails": World(tails=3),
    "text, dependence 0.3": World(alike=0.3),
    "text, t4 outliers": World(outliers=True),
    "text, long documents": World(tokens=450),
    "text, 8 groups": World(groups=8),
    "one text, short memory": World(alike=0.3, memory=0.7),
    "one text, long memory": World(alike=0.3, memory=0.95),
}


class Population:
    """Class means, variances and a classifier."""

    def __init__(self, means, variances, classifier):
        self.means, self.variances = means, variances
        self.classifier = torch.from_numpy(classifier)

    def truth(self, measures, classes):
        """The values of the population over some classes: of its own means and variances."""
        counts = torch.zeros(len(self.means), dtype=torch.int64)
        counts[classes] += MANY
        means, variances = torch.from_numpy(self.means), torch.from_numpy(self.variances)
        moments = ClassMoments.from_dense(counts, means, variances * MANY)
        independent = {name: name.replace("_dbg", "_db") for name in measures}
        found = metrics(moments, self.classifier, measures=list(independent.values()))
        return {name: found[independent[name]].value for name in measures}

    def state(self, counts, deviations, squares):
        """The moments of groups, from sums of deviations from the true means and their squares."""
        shift = deviations / counts.clip(1)[..., None]
        within_ss = squares - (shift * deviations).sum(2)
        numbers = counts, self.means + shift, within_ss.clip(0)
        return ClassMoments.from_dense(*map(torch.from_numpy, numbers))


class Text(Population):
    """A made population; another one for each seed."""

    def __init__(self, world, seed):
        self.world, self._rng = world, np.random.default_rng(seed)
        shape = (world.n_classes, world.dim)
        means = self._rng.normal(size=shape) * np.sqrt(self._spectrum())
        # Covariances within classes: of a common shape in other axes, with differences, and of
        # sizes around 1.5. Squared distances between means are around 2.
        form = self._rng.permutation(self._spectrum()) * np.exp(0.3 * self._rng.normal(size=shape))
        size = 1.5 * np.exp(0.4 * self._rng.normal(size=(world.n_classes, 1)))
        self._deviations = np.sqrt(form * size / form.sum(1, keepdims=True))  # (C, D)
        classifier = means - means.mean(0) + self._rng.normal(size=shape) / np.sqrt(world.dim)
        super().__init__(means, np.square(self._deviations).sum(1), classifier)

    def _spectrum(self):
        powers = np.arange(1, self.world.dim + 1) ** -0.5
        return powers / powers.sum()

    def sample(self, n_documents):
        """Moments of so many documents, by group."""
        world, rng, groups = self.world, self._rng, self.world.groups
        lengths = 1 + rng.poisson(world.tokens * rng.lognormal(-0.125, 0.5, size=n_documents))
        zipf = 1 / (np.arange(world.n_classes) + 2.7)
        shares = zipf * self._bursts(n_documents)
        counts = rng.multinomial(lengths, shares / shares.sum(1, keepdims=True))  # (M, C)
        group = group_of(lengths, groups)
        document, label = counts.nonzero()
        order = np.lexsort((label, group[document]))  # samples of a group and class side by side
        document, label = document[order], label[order]
        n = counts[document, label]

        def normal(*shape):
            return rng.standard_normal((*shape, world.dim), dtype=np.float32)

        apart = normal(n.sum()) * (np.float32(np.sqrt(1 - world.alike)) * self._tails(n.sum()))
        if world.memory:
            of_class = self._remembered(normal(n_documents, world.n_classes))[document, label]
            together = self._remembered(normal(n_documents))[document] + of_class
        else:
            together = normal(n_documents)[document] + normal(len(n))
        apart += np.repeat(together * np.float32(np.sqrt(world.alike / 2)), n, axis=0)
        apart *= self._deviations.astype(np.float32)[np.repeat(label, n)]
        place, first = np.unique(group[document] * world.n_classes + label, return_index=True)
        start = (np.cumsum(n) - n)[first]  # of the samples of each group and class
        by_group = np.zeros(groups * world.n_classes, dtype=np.int64)
        by_group[place] = np.diff(start, append=n.sum())
        sums, squares = np.zeros((len(by_group), world.dim)), np.zeros(len(by_group))
        sums[place] = np.add.reduceat(apart, start, axis=0, dtype=np.float64)
        lengths_squared = np.einsum("nd,nd->n", apart, apart, dtype=np.float64)
        squares[place] = np.add.reduceat(lengths_squared, start)
        shape = (groups, world.n_classes)
        return self.state(by_group.reshape(shape), sums.reshape(*shape, -1), squares.reshape(shape))

    def _bursts(self, n_documents):
        """Exponential factors of the shares of words: they come in bursts."""
        shape = (n_documents, self.world.n_classes)
        if not self.world.memory:
            return self._rng.exponential(size=shape)
        return -np.log(ndtr(self._remembered(self._rng.normal(size=shape))))

    def _remembered(self, normal):
        """Make independent normal numbers an autoregressive process along the first axis."""
        memory = self.world.memory
        innovations = normal * np.sqrt(1 - memory**2)
        innovations[0] = normal[0]
        return lfilter([1], [1, -memory], innovations, axis=0).astype(normal.dtype)

    def _tails(self, n):
        """Factors that give normal numbers t tails and leave their variance."""
        world = self.world
        shape = (n, 1 if world.outliers else world.dim)
        # Chi-squared is an exponential for two degrees of freedom and a squared normal for one.
        chi2 = 2 * self._rng.standard_exponential(shape, dtype=np.float32)
        if world.tails == 4:
            chi2 += 2 * self._rng.standard_exponential(shape, dtype=np.float32)
        else:
            chi2 += np.square(self._rng.standard_normal(shape, dtype=np.float32))
        return np.sqrt(np.float32(world.tails - 2) / chi2)


class Sampled(Population):
    """Real embeddings: all of these documents are the population.

    Args:
        embeddings: Of each labelled position.
        labels: Its class; all of the classes occur.
        documents: Its document.
        classifier: A row for each class.
    """

    def __init__(self, embeddings, labels, documents, classifier):
        n_classes, n_documents = len(classifier), documents.max() + 1
        counts = np.bincount(labels, minlength=n_classes)
        sums = np.zeros(classifier.shape)
        np.add.at(sums, labels, embeddings)
        means = sums / counts[:, None]
        deviations = embeddings - means[labels]
        squares = np.square(deviations).sum(1)
        variances = np.bincount(labels, squares, n_classes) / counts
        super().__init__(means, variances, classifier)
        self._counts = np.zeros((n_documents, n_classes), dtype=np.int64)
        self._sums = np.zeros((n_documents, n_classes, classifier.shape[1]))
        self._squares = np.zeros((n_documents, n_classes))
        np.add.at(self._counts, (documents, labels), 1)
        np.add.at(self._sums, (documents, labels), deviations)
        np.add.at(self._squares, (documents, labels), squares)
        self.rng = np.random.default_rng(0)

    def sample(self, n_documents, groups=20):
        """Moments of so many documents that are drawn with replacement, by group."""
        drawn = self.rng.integers(len(self._counts), size=n_documents)
        group = group_of(self._counts.sum(1)[drawn], groups)
        times = np.zeros((groups, len(self._counts)), dtype=np.int64)
        np.add.at(times, (group, drawn), 1)
        sums = np.tensordot(times.astype(float), self._sums, 1)
        return self.state(times @ self._counts, sums, times @ self._squares)


def of_stories(folder):
    """The documents of generated stories, as a small model sees them that was trained on them.

    Tokens and model are kept in the folder; training takes about half a minute. Classes are the
    tokens that occur fifty times or more.
    """
    tokens, run = folder / "tokens", folder / "run"
    if not run.exists():
        build("stories", out=tokens, tokens=150_000)
        quick = {"threads": 1, "device": "cpu", "precision": "fp32"}
        train(TrainOptions(tokens=tokens, out=run, width=64, depth=2, epochs=8, **quick))
    split = TokenShards.open(tokens).split("train")
    model = load_model(run, device="cpu")
    starts = split.document_starts()
    bounds = torch.cat(
        [starts.new_zeros(1), starts[1:], starts.new_tensor([split.n_blocks * split.block])]
    )
    stream = Stream(model, split, groups=Groups(bounds, "documents"))
    found = []
    for part in stream.parts([model.depth], [(0, split.n_blocks)]):
        kept = part.labels != IGNORE
        found.append((part.embeddings[model.depth][kept], part.labels[kept], part.groups[kept]))
    embeddings, labels, documents = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
    counts = np.bincount(labels, minlength=len(model.classifier))
    kept, number = counts[labels] >= 50, np.cumsum(counts >= 50) - 1
    classifier = model.classifier.detach().double().numpy()[counts >= 50]
    documents = np.unique(documents[kept], return_inverse=True)[1]
    return Sampled(embeddings[kept].astype(float), number[labels[kept]], documents, classifier)


def group_of(lengths, groups):
    """The group of each document, as those of a split are made: contiguous, about equally long."""
    return np.searchsorted(even_cuts(lengths, groups), np.arange(len(lengths)), side="right")
