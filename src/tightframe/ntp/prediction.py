"""Predicted geometry: word and context embeddings up to a rotation, and their Gram matrices.

With L_mm = U Sg V^T (its null part left out), training drives word embeddings to the direction of
W = U Sg^(1/2) and context embeddings to that of Hm = V Sg^(1/2).

Axes: V tokens, M contexts, R rank.
"""

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float

from tightframe.errors import UserError
from tightframe.formats import Count, Record, TensorFormat
from tightframe.ntp.options import PROXY, PredictOptions
from tightframe.ntp.proxies import MEMORY, ProxyReport, Support, checked_triplets, proxy_report
from tightframe.ntp.solution import Solution, best_solution, load_solution
from tightframe.ntp.support import NULL, signed
from tightframe.ntp.table import load_table, no_solution, table_fingerprint
from tightframe.results import ResultTable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Kind: TypeAlias = Literal["exact", "certified", "proxy"]
Factors: TypeAlias = tuple[
    Float[np.ndarray, "V _"], Float[np.ndarray, " _"], Float[np.ndarray, "M _"]
]
LARGEST_GRAM = 2 * 2**30  # bytes; a Gram matrix above this is compared by its factors


class PredictionFacts(Record):
    """Facts in the file of a prediction."""

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


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Prediction(ResultTable):
    """Embeddings that a text predicts, up to one rotation of both and one scale.

    Attributes:
        classifier: (V, R), one row per token.
        embeddings: (M, R), one row per context.
        singular_values: (R,), of the logits, largest first.
        kind: "exact" (proved optimal), "certified" (optimal to `gap`) or "proxy" (the centred
            support matrix, or logits without a certificate).
        gap: Relative gap of the nuclear norm; 0 where exact, NaN for a proxy.
    """

    classifier: Float[np.ndarray, "V R"]
    embeddings: Float[np.ndarray, "M R"]
    singular_values: Float[np.ndarray, " R"]
    kind: Kind
    gap: float = float("nan")

    @property
    def rank(self) -> int:
        """Number R of dimensions that hold the geometry."""
        return len(self.singular_values)

    @property
    def label(self) -> str:
        """Label that stands beside every number and figure made from the prediction."""
        return f"certified (gap {self.gap:.1e})" if self.kind == "certified" else self.kind

    @property
    def logits(self) -> Float[np.ndarray, "V M"]:
        """Logits of the predicted embeddings."""
        logits: Float[np.ndarray, "V M"] = self.classifier @ self.embeddings.T
        return logits

    @property
    def classifier_gram(self) -> Float[np.ndarray, "V V"]:
        """Inner products of word embeddings, Frobenius norm 1."""
        return _gram(self.classifier, "classifier_gram", "tokens")

    @property
    def embedding_gram(self) -> Float[np.ndarray, "M M"]:
        """Inner products of context embeddings, Frobenius norm 1."""
        return _gram(self.embeddings, "embedding_gram", "contexts")

    @property
    def classifier_cosines(self) -> Float[np.ndarray, "V V"]:
        """Cosines between word embeddings; NaN for one that is 0."""
        return _gram(_directions(self.classifier), "classifier_cosines", "tokens", unit=False)

    @property
    def embedding_cosines(self) -> Float[np.ndarray, "M M"]:
        """Cosines between context embeddings; NaN for one that is 0 (all tokens follow it)."""
        return _gram(_directions(self.embeddings), "embedding_cosines", "contexts", unit=False)

    @property
    def one_line(self) -> str:
        """Label, sizes, rank and singular values."""
        values = self.singular_values
        return (
            f"{self.label}: {len(self.classifier):,} tokens and {len(self.embeddings):,} contexts "
            f"in {self.rank} dimensions, singular values {values[0]:.6g} to {values[-1]:.6g}"
        )

    def to_pandas(self) -> "pd.DataFrame":
        """Return one row per dimension: its singular value and share of the squared norm."""
        import pandas as pd

        values = self.singular_values
        shares = np.square(values) / np.square(values).sum()
        columns = {"singular_value": values, "share": shares}
        return pd.DataFrame({"dimension": np.arange(1, self.rank + 1), **columns})

    def to_dict(self) -> dict[str, Any]:
        """Return sizes, rank, kind, gap and singular values as plain values, for JSON."""
        return {
            "tokens": len(self.classifier),
            "contexts": len(self.embeddings),
            "rank": self.rank,
            "kind": self.kind,
            "gap": self.gap,
            "singular_values": self.singular_values.tolist(),
        }

    def save(self, path: str | Path, source: dict[str, Any] | None = None) -> Path:
        """Write the prediction whole or not at all.

        Args:
            path: A `.safetensors` file, which `load_prediction` reads; or .csv, .parquet, .json or
                .jsonl, for its singular values.
            source: Origin of the prediction, as plain values; in a `.safetensors` file alone.
        """
        path = Path(path)
        if path.suffix != ".safetensors":
            return super().save(path)
        tensors = {name: getattr(self, name) for name in FORMAT.tensors}
        gap = None if np.isnan(self.gap) else self.gap  # JSON has no NaN
        facts = {"kind": self.kind, "gap": gap, "rank": self.rank, "source": source or {}}
        FORMAT.write(path, tensors, facts)
        return path

    def plot(self) -> "Figure":
        """Draw the predicted cosines of words and of contexts as heat maps, and the spectrum."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 3), layout="constrained")
        words, contexts, spectrum = figure.subplots(1, 3)
        for axes, cosines, title in (
            (words, self.classifier_cosines, "words"),
            (contexts, self.embedding_cosines, "contexts"),
        ):
            image = axes.imshow(cosines, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
            axes.set_title(f"cosines of {title}")
        figure.colorbar(image, ax=[words, contexts], shrink=0.8)
        spectrum.plot(np.arange(1, self.rank + 1), self.singular_values, marker=".")
        spectrum.set(title=f"singular values, {self.label}", xlabel="dimension", ylim=(0, None))
        return figure


def predict(
    source: Solution | Float[np.ndarray, "V M"] | Factors,
    *,
    kind: Kind | None = None,
    gap: float | None = None,
    rank: int | None = None,
) -> Prediction:
    """Return word and context embeddings of a solution, of logits, or of singular triplets.

    Args:
        source: A solution; logits (V, M); or left vectors, singular values, right vectors.
        kind: Kind of the logits; by default "certified" for a solution, "proxy" for anything
            else. A solution brings its gap, "exact" means 0.
        gap: Gap of the certificate of logits that are called "certified".
        rank: Keep this many of the largest triplets; a warning says what is left out.

    Raises:
        ValueError: The logits are not finite or all 0, factors don't fit each other, `rank` is
            below 1, or certified logits come without a gap.

    >>> import numpy as np
    >>> import tightframe as tf
    >>> support = np.eye(3, dtype=bool)  # each context has its own next token
    >>> prediction = tf.ntp.predict(tf.ntp.solve_svm(support))
    >>> prediction.embedding_cosines.round(3)  # a simplex: neural collapse
    array([[ 1. , -0.5, -0.5],
           [-0.5,  1. , -0.5],
           [-0.5, -0.5,  1. ]])
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
            kind, gap = "proxy", float("nan")  # a part has no certificate
    return from_triplets(left, values, right, kind=kind, gap=gap)


def proxy(support: Support, rank: int | None = None, *, memory: int = MEMORY) -> Prediction:
    """Return the geometry that the centred support matrix predicts.

    Args:
        support: S (V, M), boolean or 0/1, dense or sparse.
        rank: Only this many of the largest triplets, without forming S~; by default all of them.
        memory: Bytes that dense arrays may use where all triplets are computed.

    Returns:
        A prediction that is labelled "exact" only where all triplets are kept and the test of
        `proxy_report` passes.

    Raises:
        ValueError: S or `rank` is not valid, see `proxy_triplets`.
    """
    triplets, exact = checked_triplets(support, rank, memory=memory)
    return from_triplets(
        triplets.left,
        triplets.singular_values,
        triplets.right,
        kind="exact" if exact else "proxy",
        gap=0.0 if exact else float("nan"),
    )


def from_triplets(
    left: Float[np.ndarray, "V R"],
    singular_values: Float[np.ndarray, " R"],
    right: Float[np.ndarray, "M R"],
    *,
    kind: Kind,
    gap: float,
) -> Prediction:
    """Return balanced embeddings: each side gets the root of the singular values."""
    left, values, right = signed(left, singular_values, right)
    roots = np.sqrt(values)
    return Prediction(left * roots, right * roots, values, kind, gap)


def load_prediction(path: str | Path) -> Prediction:
    """Load a prediction; a file that is anything else is refused in one line.

    Its kind and gap are those of the file, which holds no dual matrix to prove them by;
    `predict_table` checks them against the solution, or by the test of the proxy.
    """
    tensors, facts = FORMAT.read(Path(path))
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    gap = float("nan") if facts.gap is None else facts.gap
    return Prediction(**arrays, kind=facts.kind, gap=gap)


def predict_table(
    folder: Path, options: PredictOptions, *, say: Callable[[str], None]
) -> tuple[Path, Prediction, ProxyReport | None]:
    """Predict the geometry of a table and write it to `folder`/predictions.

    Args:
        folder: Folder of the table, with its solutions if there are any.
        options: Source and rank of the prediction.
        say: Function that takes lines about the progress.

    Returns:
        The file, the prediction, and the report on the proxy where that is the source.
    """
    table, fingerprint = load_table(folder), table_fingerprint(folder)
    solution_path, rank = _solution_path(folder, fingerprint, options.source), options.rank
    name = solution_path.stem if solution_path else PROXY
    suffix = "" if rank is None else f"-rank{rank}"
    path = folder / "predictions" / f"{name}{suffix}.safetensors"
    report = None
    try:
        if solution_path:
            say(f"{solution_path}: predicting from it")
            prediction = predict(load_solution(solution_path, table.support), rank=rank)
        else:
            support = table.soft_labels.support
            prediction = load_prediction(path) if path.exists() else proxy(support, rank)
            report = proxy_report(support)
    except ValueError as error:  # the rank, or the size of the table
        raise UserError(f"{folder}: {error}") from None
    if path.exists():
        _check_label(path, report, prediction, whole=rank is None)
        say(f"{path}: already predicted")
    else:
        source = {"table": fingerprint, "from": str(solution_path or PROXY)}
        prediction.save(path, source | {"proxy": report and report.to_dict()})
        say(f"{path}: written")
    return path, prediction, report


def _solution_path(folder: Path, fingerprint: str, source: str | None) -> Path | None:
    """Return the file of the solution to predict from; None for the proxy."""
    if source is not None:
        return None if source == PROXY else Path(source)
    best = best_solution(folder, fingerprint)
    if best is None:
        raise no_solution(folder)
    return best


def _check_label(
    path: Path, report: ProxyReport | None, prediction: Prediction, *, whole: bool
) -> None:
    """Refuse a file whose kind and gap are not those that its source proves.

    Args:
        path: File of the prediction.
        report: Test whether the proxy is exact, where the prediction was made from it.
        prediction: Prediction recomputed from a solution; from a proxy, that of the file.
        whole: True if all dimensions are kept.
    """
    if report is None:
        kind, gap = prediction.kind, prediction.gap
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


def _label(source: Any, kind: Kind | None, gap: float | None) -> tuple[Kind, float]:
    if isinstance(source, Solution):
        gap = source.gap if gap is None else gap
        kind = kind or ("certified" if np.isfinite(gap) else "proxy")
    kind = kind or "proxy"
    if kind == "certified" and (gap is None or not np.isfinite(gap)):
        raise ValueError(f"gap: {gap}, expected that of the certificate of certified logits")
    return kind, {"exact": 0.0, "proxy": float("nan")}.get(kind, gap if gap is not None else 0.0)


def _triplets(source: Any) -> Factors:
    if isinstance(source, Solution):
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
    """Return rows of length 1; NaN where a row is 0, to rounding."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    lengths = np.where(norms > 1e-12 * norms.max(), norms, np.nan)
    directions: Float[np.ndarray, "N R"] = rows / lengths
    return directions
