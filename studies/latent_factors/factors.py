"""Classes that are combinations of independent latent factors, each with a label of its own.

The test bed of structure before collapse: the labels say nothing of the factors, the inputs do.
A small network learns them; its limit is the simplex, which has forgotten the factors.

Axes: V classes, F factors, L levels of all factors together, N samples, D width.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import nn

# Takes the step, the classifier (V, D) and the samples' embeddings (N, D): a `GramTracker`.
Watch = Callable[[int, Float[np.ndarray, "V D"], Float[np.ndarray, "N D"]], None]


def factor_combinations(sizes: Sequence[int]) -> Int64[np.ndarray, "V F"]:
    """Every combination of the levels of some factors; one class each, the last factor fastest."""
    wrong = [size for size in sizes if size < 2]
    if wrong or not sizes:
        raise ValueError(f"sizes: expected two or more levels for each factor, got {list(sizes)}")
    grid = np.indices(tuple(sizes)).reshape(len(sizes), -1).T
    return grid.astype(np.int64)


def one_hot_factors(combinations: Int64[np.ndarray, "V F"]) -> Float[np.ndarray, "V L"]:
    """Y: the level of each factor, one-hot; Y Y' counts the factors that two classes share."""
    columns = [np.eye(levels.max() + 1)[levels] for levels in combinations.T]
    return np.concatenate(columns, axis=1)


@dataclasses.dataclass(frozen=True)
class FactorStudy:
    """A small network (ReLU, no bias in the classifier) by gradient descent on all samples at once.

    Attributes:
        sizes: Levels of each factor; their product is the number of classes.
        samples: Of each class.
        noise: Standard deviation that is added to the inputs, which are the one-hot factors in a
            random rotation.
        width: D, units of each hidden layer; the last one's values are the embeddings.
        depth: Hidden layers.
        learning_rate: With momentum 0.9.
        weight_decay: Ridge on all weights: half of it times their squared norm is in the loss.
        embedding_decay: The same on the embeddings, their mean squared norm. What makes the end
            symmetric: without it the network stays where the factors put it.
        steps: Updates.
        seed: Of rotation, noise and weights.
    """

    sizes: tuple[int, ...] = (3, 3, 3)
    samples: int = 4
    noise: float = 0.1
    width: int = 128
    depth: int = 3
    learning_rate: float = 0.3
    weight_decay: float = 5e-4
    embedding_decay: float = 5e-3
    steps: int = 2000
    seed: int = 0

    def run(self, watch: Watch, *, at: Sequence[int] | None = None) -> float:
        """Train, showing the weights to `watch`.

        Args:
            watch: Called before the first step and after those in `at`.
            at: Steps; by default 60 or so, evenly on a logarithmic scale.

        Returns:
            The last cross-entropy, nats per sample.
        """
        rng = np.random.default_rng(self.seed)
        combinations = factor_combinations(self.sizes)
        inputs, targets = self._data(rng, one_hot_factors(combinations))
        layers: list[nn.Parameter] = []
        biases: list[nn.Parameter] = []
        for _ in range(self.depth):
            before = layers[-1].shape[0] if layers else inputs.shape[1]
            layers.append(_weights(rng, self.width, before, 2**0.5))
            biases.append(nn.Parameter(torch.zeros(self.width, dtype=torch.float64)))
        classifier = _weights(rng, len(combinations), self.width, 1.0)
        optimizer = torch.optim.SGD(
            [*layers, *biases, classifier],
            lr=self.learning_rate,
            momentum=0.9,
            weight_decay=self.weight_decay,
        )
        shown = {0, *(spread_steps(self.steps) if at is None else at)}
        for step in range(self.steps + 1):
            embeddings = inputs
            for weights, bias in zip(layers, biases, strict=True):
                embeddings = torch.relu(nn.functional.linear(embeddings, weights, bias))  # (N, D)
            loss = nn.functional.cross_entropy(embeddings @ classifier.T, targets)
            if step in shown:
                watch(step, classifier.detach().numpy().copy(), embeddings.detach().numpy())
            if step < self.steps:
                ridge = self.embedding_decay / 2 * embeddings.square().sum(1).mean()
                optimizer.zero_grad()
                (loss + ridge).backward()
                optimizer.step()
        return loss.item()

    @property
    def classes(self) -> Int64[np.ndarray, " N"]:
        """The class of each sample, in the order of the embeddings."""
        return np.repeat(np.arange(int(np.prod(self.sizes))), self.samples)

    def _data(
        self, rng: np.random.Generator, factors: Float[np.ndarray, "V L"]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rotation, _ = np.linalg.qr(rng.normal(size=(factors.shape[1], factors.shape[1])))
        clean = (factors @ rotation)[self.classes]
        noisy = clean + self.noise * rng.normal(size=clean.shape)
        return torch.from_numpy(noisy), torch.from_numpy(self.classes)


def spread_steps(steps: int, n: int = 60) -> list[int]:
    """0 and at most n steps up to `steps`, evenly on a logarithmic scale."""
    return sorted({0, *np.geomspace(1, max(1, steps), n).round().astype(int).tolist()})


def _weights(rng: np.random.Generator, rows: int, columns: int, gain: float) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(rng.normal(size=(rows, columns)) * gain / columns**0.5))
