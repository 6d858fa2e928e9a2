"""Scope classifiers: how likely each cluster of facts holds what a question asks about.

K independent yes-or-no classifiers, trained on statements and used on questions: linear ones on
weighted words, or an encoder of transformers that is fine-tuned with binary cross-entropy. A text
of no cluster is labelled no K times, and may still be given several by the classifier.

On disk a linear classifier is one file; an encoder is a folder: what transformers writes of a
model and its tokenizer (safetensors), and router.json with the clusters and the calibration.

Axes: N texts, K clusters, V words and word pairs.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol, runtime_checkable

import numpy as np
import pydantic
from jaxtyping import Bool, Float, Int
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from scipy.special import expit

from tightframe.errors import UserError
from tightframe.files import sha256, whole_folder
from tightframe.formats import FileName, Record, Sha256, TensorFormat, check_digest, read_signed
from tightframe.knowledge.clusters import Clusters
from tightframe.knowledge.data_files import write_report
from tightframe.knowledge.embedders import BATCH, TextEncoder, WeightedWords, load_encoder
from tightframe.knowledge.facts import Fact
from tightframe.progress import tell

WEAKNESS = 1000.0  # of the penalty: scikit-learn's C


@pydantic.dataclasses.dataclass(
    frozen=True, config=pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)
)
class EncoderSettings:
    """Settings of the fine-tuning of an encoder; the defaults are the paper's.

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
    """A classifier of texts by cluster."""

    def logits(self, texts: Sequence[str]) -> Float[np.ndarray, "N K"]:
        """Return one logit per text and cluster; above zero if the text is likelier inside."""
        ...


@dataclasses.dataclass(frozen=True)
class LinearClassifier:
    """K linear classifiers on weighted words."""

    words: WeightedWords
    weights: Float[np.ndarray, "K V"]
    intercepts: Float[np.ndarray, " K"]

    def logits(self, texts: Sequence[str]) -> Float[np.ndarray, "N K"]:
        """Return one logit per text and cluster, linear in the weighted words."""
        return np.asarray(self.words(texts) @ self.weights.T + self.intercepts)


@dataclasses.dataclass(frozen=True)
class Router:
    """A classifier and its calibration: how likely a text is about each cluster's facts.

    The probabilities are independent: they need not sum to one, and all may be small.
    """

    classifier: Classifier
    clusters: tuple[str, ...]  # fingerprint of each cluster's facts
    threshold: float = 0.5  # a cluster is positive above it
    scale: float = 1.0  # of the logits, and their shift: 1 and 0 as trained
    shift: float = 0.0

    def probabilities(self, texts: Sequence[str]) -> Float[np.ndarray, "N K"]:
        """Return the probability of each cluster for each text."""
        return np.asarray(expit(self.scale * self.classifier.logits(texts) + self.shift))


def outside_of(negatives: Sequence[Fact], clusters: Clusters) -> list[Fact]:
    """Return the negatives whose id and text are none of the injected facts'."""
    ids = {fact.id for fact in clusters.facts}
    texts = {fact.fact for fact in clusters.facts}
    return [fact for fact in negatives if fact.id not in ids and fact.fact not in texts]


def statements(
    clusters: Clusters, negatives: Sequence[Fact]
) -> tuple[list[str], Int[np.ndarray, " N"]]:
    """Return the training set of a classifier: facts and their clusters, negatives with -1.

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


def fit_router(clusters: Clusters, negatives: Sequence[Fact]) -> Router:
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
    return Router(linear, clusters.fingerprints)


def calibrate_router(
    router: Router, texts: Sequence[str], clusters: Sequence[int | None]
) -> Router:
    """Scale and shift the logits so that probabilities are frequencies on `texts` (Platt).

    Args:
        router: The router as it was trained.
        texts: Questions whose facts may have been trained on, but which were not themselves;
            among them, ones out of scope, as many as will be met in use: frequencies depend on it.
        clusters: Cluster of each text, None if it is out of scope.
    """
    from sklearn.linear_model import LogisticRegression

    inside: Bool[np.ndarray, "N K"] = np.array(
        [[own == cluster for cluster in range(len(router.clusters))] for own in clusters]
    )
    if inside.all() or not inside.any():
        raise UserError("calibration needs questions in scope and out of it")
    fitted = LogisticRegression(max_iter=10_000).fit(
        router.classifier.logits(texts).reshape(-1, 1), inside.reshape(-1)
    )
    return dataclasses.replace(
        router, scale=float(fitted.coef_[0, 0]), shift=float(fitted.intercept_[0])
    )


def threshold_for(router: Router, texts: Sequence[str], *, false_accepts: float) -> float:
    """Return the lowest threshold that accepts at most this share of out-of-scope `texts`."""
    if not texts:
        raise UserError("a threshold is calibrated on questions out of scope; there are none")
    highest = np.sort(router.probabilities(texts).max(axis=1))[::-1]
    allowed = int(false_accepts * len(texts))
    # A text passes above the threshold, so the first one too many is held back by its own value.
    return float(highest[allowed]) if allowed < len(texts) else 0.0


def brier(router: Router, texts: Sequence[str], clusters: Sequence[int | None]) -> float:
    """Return the mean squared distance of probabilities from the truth; 0 is best."""
    truth = np.array(
        [[own == cluster for cluster in range(len(router.clusters))] for own in clusters],
        dtype=float,
    )
    return float(np.mean((router.probabilities(texts) - truth) ** 2))


class _Calibration(Record):
    """Fields of a router besides its classifier."""

    clusters: tuple[str, ...]
    threshold: float
    scale: float
    shift: float

    def router(self, classifier: Classifier) -> Router:
        """Return the router with a classifier."""
        return Router(classifier, self.clusters, self.threshold, self.scale, self.shift)


def _calibration(router: Router) -> dict[str, Any]:
    fields = {name: getattr(router, name) for name in _Calibration.model_fields}
    return fields | {"clusters": list(router.clusters)}


class _LinearFacts(_Calibration):
    """Content of a linear classifier's file besides its weights."""

    words: tuple[str, ...]


_FILE: TensorFormat[_LinearFacts] = TensorFormat(
    kind="a scope classifier",
    facts=_LinearFacts,
    tensors={"intercepts": "float64 K", "rarity": "float64 V", "weights": "float64 K V"},
    remedy="make it again with `tightframe knowledge router`",
)


def save_linear_router(path: str | Path, router: Router) -> None:
    """Write a router whose classifier is linear: weights and words, no code."""
    linear = router.classifier
    assert isinstance(linear, LinearClassifier)
    arrays = {
        "intercepts": linear.intercepts,
        "rarity": np.ascontiguousarray(linear.words.rarity),
        "weights": np.ascontiguousarray(linear.weights),
    }
    _FILE.write(Path(path), arrays, {"words": list(linear.words.words)} | _calibration(router))


def load_linear_router(path: str | Path) -> Router:
    """Load what `save_linear_router` wrote, to the last bit; another file is refused by name."""
    path = Path(path)
    tensors, facts = _FILE.read(path)
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    n_clusters, n_words = arrays["weights"].shape
    if (len(facts.clusters), len(facts.words)) != (n_clusters, n_words):
        raise UserError(
            f"{path}: weights of {n_clusters} clusters and {n_words} words, but "
            f"{len(facts.clusters)} clusters and {len(facts.words)} words; {_FILE.remedy}"
        )
    words = WeightedWords(facts.words, arrays["rarity"])
    return facts.router(LinearClassifier(words, arrays["weights"], arrays["intercepts"]))


_ROUTER = "router.json"


@dataclasses.dataclass(frozen=True)
class EncoderClassifier:
    """A fine-tuned encoder; `loss` is its mean binary cross-entropy of each epoch, if known."""

    encoder: TextEncoder
    losses: tuple[float, ...] = ()

    def logits(self, texts: Sequence[str]) -> Float[np.ndarray, "N K"]:
        """Return the logit of each text and cluster."""
        import torch

        model = self.encoder.model
        found = np.zeros((len(texts), model.config.num_labels))
        with torch.no_grad():
            for rows, tokens in self.encoder.batches(texts):
                found[rows] = model(**tokens).logits.double().numpy(force=True)
        return found


def fit_encoder_router(
    clusters: Clusters, negatives: Sequence[Fact], settings: EncoderSettings
) -> Router:
    """Fine-tune an encoder on the facts, and on negatives that belong to no cluster.

    On a CPU the same settings give the same weights.

    Raises:
        UserError: See `router.statements` and `embedders.load_encoder`.
    """
    texts, labels = statements(clusters, negatives)
    with _seeded(settings):
        encoder = load_encoder(settings.encoder, outputs=clusters.k)
        encoder.lengths(texts)
        encoder.model.to(settings.device)
        losses = _train(encoder, texts, labels[:, None] == np.arange(clusters.k), settings)
    return Router(EncoderClassifier(encoder, tuple(losses)), clusters.fingerprints)


def save_encoder_router(path: str | Path, router: Router) -> None:
    """Write a new folder with a fine-tuned encoder, whole or not at all."""
    classifier = router.classifier
    assert isinstance(classifier, EncoderClassifier)
    model: Any = classifier.encoder.model
    with whole_folder(Path(path)) as folder:
        model.save_pretrained(folder)
        classifier.encoder.tokenizer.save_pretrained(folder)
        files = {one.name: sha256(one) for one in sorted(folder.iterdir())}
        write_report(folder / _ROUTER, _calibration(router) | {"files": files})


class _EncoderFiles(_Calibration):
    """Content of an encoder's router.json."""

    files: dict[FileName, Sha256]  # the encoder and its tokenizer
    fingerprint: str


def load_encoder_router(path: str | Path, *, device: str = "cpu") -> Router:
    """Load what `save_encoder_router` wrote; another folder is refused by name."""
    path = Path(path)
    if not (path / _ROUTER).is_file():
        raise UserError(
            f"{path}: holds no {_ROUTER}; `tightframe knowledge router --encoder` makes one"
        )
    about: _EncoderFiles = read_signed(path / _ROUTER, _EncoderFiles)
    for name, digest in about.files.items():
        check_digest(path / name, digest)
    encoder = load_encoder(str(path), outputs=len(about.clusters))
    encoder.model.to(device)
    return about.router(EncoderClassifier(encoder))


def _train(
    encoder: TextEncoder,
    texts: Sequence[str],
    inside: Bool[np.ndarray, "N K"],
    settings: EncoderSettings,
) -> list[float]:
    """Train with dropout on which cluster each text is of, and return the mean loss per epoch."""
    import torch

    truth = torch.as_tensor(inside, dtype=torch.float32)
    model = encoder.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.0)
    steps = settings.epochs * -(-len(texts) // settings.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    generator = torch.Generator().manual_seed(settings.seed)
    losses, done = [], 0
    for _ in range(settings.epochs):
        total = 0.0
        order = torch.randperm(len(texts), generator=generator)
        for rows in order.split(settings.batch):
            for part in rows.split(BATCH):  # of a step's texts, as many as are held at once
                logits = model(**encoder.tokens([texts[row] for row in part.tolist()])).logits
                wanted = truth[part].to(logits.device)
                loss = torch.nn.functional.binary_cross_entropy_with_logits(
                    logits, wanted, reduction="sum"
                )
                (loss / (len(rows) * truth.shape[1])).backward()
                total += float(loss.detach())
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            done += len(rows)
            tell("fine-tuning", done / (settings.epochs * len(texts)), done)
        losses.append(total / truth.numel())
    model.eval()
    return losses


@contextlib.contextmanager
def _seeded(settings: EncoderSettings) -> Iterator[None]:
    """Seed torch's own generators, which new layers and dropout draw from."""
    import torch

    try:
        device = torch.device(settings.device)
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        first = str(error).partition("\n")[0]
        raise UserError(f"device {settings.device}: cannot be used ({first})") from None
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(settings.seed)
        yield
