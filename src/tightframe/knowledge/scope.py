"""Which cluster's model, if any, has learned what a question asks about.

K independent classifiers, trained on statements and used on questions: linear ones on weighted
words, or an encoder (see `scope_encoder`).
Axes: N texts, K clusters, V words and word pairs.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Protocol, runtime_checkable

import numpy as np
import pydantic
from jaxtyping import Bool, Float, Int
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from scipy.special import expit

from tightframe.errors import UserError
from tightframe.formats import Record, TensorFormat
from tightframe.knowledge.clusters import Clusters
from tightframe.knowledge.records import Fact
from tightframe.knowledge.text_embeddings import WeightedWords

WEAKNESS = 1000.0  # of the penalty: scikit-learn's C


@pydantic.dataclasses.dataclass(
    frozen=True, config=pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)
)
class EncoderSettings:
    """How an encoder is fine-tuned; the defaults are the paper's.

    AdamW without weight decay, the rate falling linearly to zero, gradients clipped at norm 1.
    """

    encoder: str  # a local folder or a name of the hub; the paper's: microsoft/deberta-v3-large
    learning_rate: PositiveFloat = 2e-5  # at the start
    batch: PositiveInt = 128  # texts of a step; the paper: 32 on each of 4 devices
    epochs: PositiveInt = 10
    clip: Annotated[float, Field(gt=0)] = 1.0
    seed: NonNegativeInt = 0  # of the new output layer, the order and dropout
    device: str = "cpu"


@runtime_checkable
class Classifier(Protocol):
    """What tells the clusters apart."""

    def logits(self, texts: Sequence[str]) -> Float[np.ndarray, "N K"]:
        """Of each text and cluster; above zero where the text is likelier inside than not."""
        ...


@dataclasses.dataclass(frozen=True)
class LinearClassifier:
    """K linear classifiers on weighted words."""

    words: WeightedWords
    weights: Float[np.ndarray, "K V"]
    intercepts: Float[np.ndarray, " K"]

    def logits(self, texts: Sequence[str]) -> Float[np.ndarray, "N K"]:
        """Linear in the weighted words."""
        return np.asarray(self.words(texts) @ self.weights.T + self.intercepts)


@dataclasses.dataclass(frozen=True)
class Scope:
    """How likely each cluster holds the fact that a text is about.

    The probabilities are independent: they need not sum to one, and all may be small.
    """

    classifier: Classifier
    clusters: tuple[str, ...]  # fingerprint of each cluster's facts
    threshold: float = 0.5  # a cluster is positive above it
    scale: float = 1.0  # of the logits, and their shift: 1 and 0 as trained
    shift: float = 0.0

    def probabilities(self, texts: Sequence[str]) -> Float[np.ndarray, "N K"]:
        """For each text the probability of each cluster."""
        return np.asarray(expit(self.scale * self.classifier.logits(texts) + self.shift))


def outside_of(negatives: Sequence[Fact], clusters: Clusters) -> list[Fact]:
    """The negatives whose id and text are none of the injected facts'."""
    ids = {fact.id for fact in clusters.facts}
    texts = {fact.fact for fact in clusters.facts}
    return [fact for fact in negatives if fact.id not in ids and fact.fact not in texts]


def statements(
    clusters: Clusters, negatives: Sequence[Fact]
) -> tuple[list[str], Int[np.ndarray, " N"]]:
    """What a scope classifier is trained on: facts and their clusters, negatives with -1.

    Raises:
        UserError: There are no negatives, or one of them is an injected fact.
    """
    if not negatives:
        raise UserError(
            "no facts outside the injected ones are left as negatives; without any, every "
            "question looks in scope"
        )
    if len(outside_of(negatives, clusters)) < len(negatives):
        raise UserError("a negative is one of the injected facts; leave it out")
    texts = [fact.fact for fact in (*clusters.facts, *negatives)]
    return texts, np.array([*clusters.assignments, *[-1] * len(negatives)])


def fit_scope(clusters: Clusters, negatives: Sequence[Fact]) -> Scope:
    """Train linear classifiers on the facts, and on negatives that belong to no cluster.

    Each class weighs the same, however few facts a cluster has.

    Raises:
        UserError: See `statements`.
    """
    from sklearn.linear_model import LogisticRegression

    texts, labels = statements(clusters, negatives)
    words = WeightedWords.fit(texts)
    weighted = words(texts)
    classifiers = [
        LogisticRegression(C=WEAKNESS, class_weight="balanced", max_iter=10_000).fit(
            weighted, labels == cluster
        )
        for cluster in range(clusters.k)
    ]
    linear = LinearClassifier(
        words,
        np.concatenate([one.coef_ for one in classifiers]),
        np.concatenate([one.intercept_ for one in classifiers]),
    )
    return Scope(linear, clusters.fingerprints)


def calibrate_scope(scope: Scope, texts: Sequence[str], clusters: Sequence[int | None]) -> Scope:
    """Scale and shift the logits so that probabilities are frequencies on `texts` (Platt).

    Args:
        scope: As trained.
        texts: Questions whose facts may have been trained on, but which were not themselves;
            among them, ones out of scope, as many as will be met in use: frequencies depend on it.
        clusters: Of each, None where it is out of scope.
    """
    from sklearn.linear_model import LogisticRegression

    inside: Bool[np.ndarray, "N K"] = np.array(
        [[own == cluster for cluster in range(len(scope.clusters))] for own in clusters]
    )
    if inside.all() or not inside.any():
        raise UserError("calibration needs questions in scope and out of it")
    fitted = LogisticRegression(max_iter=10_000).fit(
        scope.classifier.logits(texts).reshape(-1, 1), inside.reshape(-1)
    )
    return dataclasses.replace(
        scope, scale=float(fitted.coef_[0, 0]), shift=float(fitted.intercept_[0])
    )


def threshold_for(scope: Scope, texts: Sequence[str], *, false_accepts: float) -> float:
    """The lowest threshold that lets pass at most this share of out-of-scope `texts`."""
    if not texts:
        raise UserError("a threshold is calibrated on questions out of scope; there are none")
    highest = np.sort(scope.probabilities(texts).max(axis=1))[::-1]
    allowed = int(false_accepts * len(texts))
    # A text passes above the threshold, so the first one too many is held back by its own value.
    return float(highest[allowed]) if allowed < len(texts) else 0.0


def brier(scope: Scope, texts: Sequence[str], clusters: Sequence[int | None]) -> float:
    """Mean squared distance of probabilities from the truth, over texts and clusters; 0 is best."""
    truth = np.array(
        [[own == cluster for cluster in range(len(scope.clusters))] for own in clusters],
        dtype=float,
    )
    return float(np.mean((scope.probabilities(texts) - truth) ** 2))


class _Facts(Record):
    """What the file of a linear classifier says besides its weights."""

    words: tuple[str, ...]
    clusters: tuple[str, ...]
    threshold: float
    scale: float
    shift: float


_FILE: TensorFormat[_Facts] = TensorFormat(
    kind="a scope classifier",
    facts=_Facts,
    tensors={"intercepts": "float64 K", "rarity": "float64 V", "weights": "float64 K V"},
    remedy="make it again with `tightframe knowledge scope`",
)


def save_scope(path: str | Path, scope: Scope) -> None:
    """Write a scope whose classifier is linear: weights and words, no code."""
    linear = scope.classifier
    assert isinstance(linear, LinearClassifier)
    facts = {
        "words": list(linear.words.words),
        "clusters": list(scope.clusters),
        "threshold": scope.threshold,
        "scale": scope.scale,
        "shift": scope.shift,
    }
    arrays = {
        "intercepts": linear.intercepts,
        "rarity": np.ascontiguousarray(linear.words.rarity),
        "weights": np.ascontiguousarray(linear.weights),
    }
    _FILE.write(Path(path), arrays, facts)


def load_scope(path: str | Path) -> Scope:
    """Return what `save_scope` wrote, to the last bit; another file is refused by name."""
    path = Path(path)
    tensors, facts = _FILE.read(path)
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    n_clusters, n_words = arrays["weights"].shape
    if (len(facts.clusters), len(facts.words)) != (n_clusters, n_words):
        raise UserError(
            f"{path}: weights of {n_clusters} clusters and {n_words} words, but "
            f"{len(facts.clusters)} clusters and {len(facts.words)} words; {_FILE.remedy}"
        )
    return Scope(
        LinearClassifier(
            WeightedWords(facts.words, arrays["rarity"]), arrays["weights"], arrays["intercepts"]
        ),
        facts.clusters,
        facts.threshold,
        facts.scale,
        facts.shift,
    )
