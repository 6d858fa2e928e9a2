"""The geometry that logits predict: word and context embeddings up to a rotation, and their Grams.

With L_mm = U Sg V^T (its null part left out), training drives word embeddings to the direction of
W = U Sg^(1/2) and context embeddings to that of Hm = V Sg^(1/2).

Axes: V tokens, M contexts, R rank.
"""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Float

from tightframe.errors import UserError
from tightframe.files import strict_json
from tightframe.formats import Count, Record, TensorFormat
from tightframe.ntp.options import PROXY, no_solution
from tightframe.ntp.proxies import MEMORY, ProxyReport, Support, checked_triplets, proxy_report
from tightframe.ntp.solution import best_solution, load_solution
from tightframe.ntp.support import (
    NULL,
    signed,
)
from tightframe.ntp.table import load_table, table_fingerprint

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


def proxy(support: Support, rank: int | None = None, *, memory: int = MEMORY) -> Prediction:
    """The geometry that the centred support matrix predicts.

    Args:
        support: S (V, M), boolean or 0/1, dense or sparse.
        rank: Only so many of the largest triplets, without forming S~; by default all of them.
        memory: Bytes that dense arrays may take where all are asked for.

    Returns:
        Labelled "exact" only where all triplets are kept and the test of `proxy_report` passes.

    Raises:
        ValueError: As `proxy_triplets`.
    """
    triplets, exact = checked_triplets(support, rank, memory=memory)
    return from_triplets(
        triplets.left,
        triplets.singular_values,
        triplets.right,
        kind="exact" if exact else "proxy",
        gap=0.0 if exact else float("nan"),
    )


def predict_table(
    folder: Path, source: str | None, rank: int | None, *, say: Callable[[str], None]
) -> tuple[Path, dict[str, Any]]:
    """Predict the geometry of a table and write it to `folder`/predictions.

    Args:
        folder: Of the table, with its solutions if there are any.
        source: "proxy", or the file of a solution; by default that of smallest gap in `folder`.
        rank: Dimensions to keep.
        say: Told what is going on.

    Returns:
        The file, and its summary: sizes, rank, kind, gap, singular values, and the report on the
        proxy where that is the source.
    """
    table = load_table(folder)
    made_from = _source(folder, source)
    name = made_from.stem if made_from else PROXY
    path = (
        folder / "predictions" / f"{name}{f'-rank{rank}' if rank is not None else ''}.safetensors"
    )
    support = table.soft_labels.support
    with _refused(folder):
        if made_from:
            say(f"{made_from}: predicting from it")
            predicted = predict_geometry(load_solution(made_from, table.matrix), rank=rank)
            report = None
        else:
            predicted = load_prediction(path) if path.exists() else proxy(support, rank)
            report = proxy_report(support)
    if path.exists():
        _check_worth(path, report, predicted, whole=rank is None)
        say(f"{path}: already predicted")
    else:
        facts = {"table": table_fingerprint(folder), "from": str(made_from or PROXY)}
        save_prediction(
            path, predicted, facts | {"proxy": report and strict_json(report.to_dict())}
        )
        say(f"{path}: written")
    return path, predicted.to_dict() | {"proxy": report and strict_json(report.to_dict())}


def _check_worth(
    path: Path, report: ProxyReport | None, predicted: Prediction, *, whole: bool
) -> None:
    """Refuse a file that says more, or less, of its worth than what it was made from proves.

    Args:
        path: Of the prediction.
        report: Where it was made from the proxy: the test whether that is exact.
        predicted: What a solution gives, computed anew; of the proxy, what is in the file.
        whole: Whether all dimensions were asked for.
    """
    if report is None:
        kind, gap = predicted.kind, predicted.gap
    elif whole and report.verdict == "exact":
        kind, gap = "exact", 0.0
    else:
        kind, gap = "proxy", float("nan")
    written = load_prediction(path)
    if (written.kind, f"{written.gap:.12g}") != (kind, f"{gap:.12g}"):
        raise UserError(
            f"{path}: says {written.kind} with gap {written.gap:.6g}, but what it was made from "
            f"gives {kind} with gap {gap:.6g}; remove it, and predict again"
        )


@contextlib.contextmanager
def _refused(folder: Path) -> Iterator[None]:
    try:
        yield
    except ValueError as error:  # the rank, or the size of the table
        raise UserError(f"{folder}: {error}") from None


def _source(folder: Path, source: str | None) -> Path | None:
    """The file of a solution; None is the proxy."""
    if source == PROXY:
        return None
    if source is not None:
        return Path(source)
    best = best_solution(folder, table_fingerprint(folder))
    if best is None:
        raise no_solution(folder)
    return best
