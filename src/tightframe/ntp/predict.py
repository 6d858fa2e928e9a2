"""The geometry that logits predict: word and context embeddings up to a rotation, and their Grams.

With L_mm = U Sg V^T (its null part left out), training drives word embeddings to the direction of
W = U Sg^(1/2) and context embeddings to that of Hm = V Sg^(1/2).

Axes: V tokens, M contexts, R rank.
"""

import dataclasses
import warnings
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Float

from tightframe.formats import Count, Record, TensorFormat
from tightframe.ntp.grouping import NULL, signed

Kind: TypeAlias = Literal["exact", "certified", "proxy"]
Factors: TypeAlias = tuple[
    Float[np.ndarray, "V _"], Float[np.ndarray, " _"], Float[np.ndarray, "M _"]
]
LARGEST_GRAM = 2 * 2**30  # bytes; a Gram above this is compared by its factors


class PredictionFacts(Record):
    """What a file says of a prediction."""

    kind: Kind
    gap: float | None  # None for a proxy
    rank: Count
    source: dict[str, Any]  # what it was made from


FORMAT: TensorFormat[PredictionFacts] = TensorFormat(
    "a prediction",
    PredictionFacts,
    {"classifier": "float* V R", "embeddings": "float* M R", "singular_values": "float* R"},
    remedy="predict again",
)


@runtime_checkable
class Factored(Protocol):
    """A solution: its singular triplets, and how far it is at most from optimal."""

    @property
    def gap(self) -> float:
        """(upper - lower)/upper of its certificate."""
        ...

    def factors(self) -> Factors:
        """Left vectors (V, R), singular values (R,), right vectors (M, R)."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """Embeddings that a text predicts, up to one rotation of both and one scale.

    Attributes:
        classifier: (V, R), a row a token.
        embeddings: (M, R), a row a context.
        singular_values: (R,), of the logits, largest first.
        kind: "exact" (proved optimal), "certified" (optimal to `gap`) or "proxy" (the centred
            support matrix, or logits that come without a certificate).
        gap: Relative, of the nuclear norm; 0 where exact, NaN for a proxy.
    """

    classifier: Float[np.ndarray, "V R"]
    embeddings: Float[np.ndarray, "M R"]
    singular_values: Float[np.ndarray, " R"]
    kind: Kind
    gap: float = float("nan")

    @property
    def rank(self) -> int:
        """R, the dimensions that hold the geometry."""
        return len(self.singular_values)

    @property
    def label(self) -> str:
        """What stands beside every number and figure made from it."""
        return f"certified (gap {self.gap:.1e})" if self.kind == "certified" else self.kind

    @property
    def logits(self) -> Float[np.ndarray, "V M"]:
        """The logits that the embeddings make."""
        logits: Float[np.ndarray, "V M"] = self.classifier @ self.embeddings.T
        return logits

    @property
    def classifier_gram(self) -> Float[np.ndarray, "V V"]:
        """G_W: inner products of word embeddings, Frobenius norm 1."""
        return _gram(self.classifier, "classifier_gram", "tokens")

    @property
    def embedding_gram(self) -> Float[np.ndarray, "M M"]:
        """G_H: inner products of context embeddings, Frobenius norm 1."""
        return _gram(self.embeddings, "embedding_gram", "contexts")

    @property
    def classifier_cosines(self) -> Float[np.ndarray, "V V"]:
        """Between word embeddings; NaN for one that is 0."""
        return _gram(_directions(self.classifier), "classifier_cosines", "tokens", unit=False)

    @property
    def embedding_cosines(self) -> Float[np.ndarray, "M M"]:
        """Between context embeddings; NaN for one that is 0 (all tokens follow it)."""
        return _gram(_directions(self.embeddings), "embedding_cosines", "contexts", unit=False)

    def to_dict(self) -> dict[str, Any]:
        """What fits a line: sizes, rank, kind, gap, singular values."""
        return {
            "tokens": len(self.classifier),
            "contexts": len(self.embeddings),
            "rank": self.rank,
            "kind": self.kind,
            "gap": self.gap,
            "singular_values": self.singular_values.tolist(),
        }


def predict_geometry(
    source: Factored | Float[np.ndarray, "V M"] | Factors,
    *,
    kind: Kind | None = None,
    gap: float | None = None,
    rank: int | None = None,
) -> Prediction:
    """Word and context embeddings of logits, of their singular triplets, or of a solution.

    Args:
        source: A solution; logits (V, M); or left vectors, singular values, right vectors.
        kind: What the logits are; "certified" for a solution, "proxy" for anything else, unless
            said. A solution brings its gap, "exact" means 0.
        gap: Of the certificate of logits that are called "certified".
        rank: Keep this many of the largest triplets; a warning says what it leaves out.

    Raises:
        ValueError: The logits are not finite or all 0, factors don't fit each other, `rank` is
            below 1, or certified logits come without a gap.
    """
    kind, gap = _label(source, kind, gap)
    left, values, right = _triplets(source)
    if rank is not None:
        if rank < 1:
            raise ValueError(f"rank: {rank}, expected at least 1")
        if rank < len(values):
            left_out = float(np.square(values[rank:]).sum() / np.square(values).sum())
            warnings.warn(
                f"rank {rank} is below that of the logits, {len(values)}: {left_out:.2%} of their "
                f"squared norm is left out; an embedding needs {len(values)} dimensions",
                UserWarning,
                stacklevel=2,
            )
            left, values, right = left[:, :rank], values[:rank], right[:, :rank]
            kind, gap = "proxy", float("nan")  # no certificate is one of a part
    return from_triplets(left, values, right, kind=kind, gap=gap)


def from_triplets(
    left: Float[np.ndarray, "V R"],
    singular_values: Float[np.ndarray, " R"],
    right: Float[np.ndarray, "M R"],
    *,
    kind: Kind,
    gap: float,
) -> Prediction:
    """Balanced embeddings: each side takes the root of the singular values."""
    left, values, right = signed(left, singular_values, right)
    roots = np.sqrt(values)
    return Prediction(left * roots, right * roots, values, kind, gap)


def save_prediction(path: Path, prediction: Prediction, source: dict[str, Any]) -> None:
    """Write a prediction whole; `source` says what it was made from."""
    tensors = {name: getattr(prediction, name) for name in FORMAT.tensors}
    gap = prediction.gap if prediction.gap == prediction.gap else None  # JSON has no NaN
    facts = {"kind": prediction.kind, "gap": gap, "rank": prediction.rank, "source": source}
    FORMAT.write(path, tensors, facts)


def load_prediction(path: Path) -> Prediction:
    """Read what `save_prediction` wrote; anything else is refused in one line.

    Its kind and gap are those of the file, which holds no dual matrix to prove them by;
    `predict_table` holds them against the solution, or against the test of the proxy.
    """
    tensors, facts = FORMAT.read(path)
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    gap = float("nan") if facts.gap is None else facts.gap
    return Prediction(**arrays, kind=facts.kind, gap=gap)


def _label(source: Any, kind: Kind | None, gap: float | None) -> tuple[Kind, float]:
    if isinstance(source, Factored):
        gap = source.gap if gap is None else gap
        kind = kind or ("certified" if np.isfinite(gap) else "proxy")
    kind = kind or "proxy"
    if kind == "certified" and (gap is None or not np.isfinite(gap)):
        raise ValueError(f"gap: {gap}, expected that of the certificate of certified logits")
    return kind, {"exact": 0.0, "proxy": float("nan")}.get(kind, gap if gap is not None else 0.0)


def _triplets(source: Any) -> Factors:
    if isinstance(source, Factored):
        factors = source.factors()
    elif isinstance(source, tuple):
        factors = source
    else:
        if not np.isfinite(source).all():
            token, context = np.argwhere(~np.isfinite(source))[0]
            raise ValueError(
                f"logits: {source[token, context]} for token {token}, context {context}"
            )
        left, values, right = np.linalg.svd(source, full_matrices=False)
        factors = left, values, right.T
    left, values, right = factors
    for name, vectors in (("left", left), ("right", right)):
        if vectors.shape[1] != len(values):
            raise ValueError(
                f"{name} vectors: {vectors.shape[1]} columns (axis 1), expected one for each of "
                f"{len(values)} singular values"
            )
    if not len(values) or values[0] <= 0:
        raise ValueError("logits: all are 0, they have no direction")
    kept = values > NULL * values[0]
    return left[:, kept], values[kept], right[:, kept]


def _gram(
    rows: Float[np.ndarray, "N R"], name: str, axis: str, *, unit: bool = True
) -> Float[np.ndarray, "N N"]:
    size = 8 * len(rows) ** 2
    if size > LARGEST_GRAM:
        raise ValueError(
            f"{name}: {len(rows):,} {axis} make a matrix of {size / 1e9:.1f} GB; compare the "
            "embeddings by `gram_cosine` and `gram_distance`, which need none"
        )
    gram: Float[np.ndarray, "N N"] = rows @ rows.T
    return gram / np.linalg.norm(rows.T @ rows) if unit else gram


def _directions(rows: Float[np.ndarray, "N R"]) -> Float[np.ndarray, "N R"]:
    """Rows of length 1; NaN where a row is 0, to rounding."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    lengths = np.where(norms > 1e-12 * norms.max(), norms, np.nan)
    directions: Float[np.ndarray, "N R"] = rows / lengths
    return directions
