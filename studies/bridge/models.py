r"""From what a text predicts to class means: what `collapse` would measure of an ideal model.

A prediction of `ntp` gives every context of a table an embedding, and every token a row of the
classifier. A class of `collapse` is a next token; its samples are the contexts before it, each as
often as the token follows it. So a prediction has class means and within_ss, and all measures of
neural collapse follow from the table, without a model:

`limit`   where training drives logits in direction, of rank D: the proxy S~ cut to the model's
          width. Text and width alone.
`finite`  how far a model has come on the way: L_in + R S~, with R such that the loss on the table
          is the model's, cut to its width. Text, width and one number of the model's own.

Both stand on the proxy, which is a heuristic unless its test says otherwise. Beside them stand
controls, which know less of the text: `shuffled` tables, `one_each` and `random_embeddings`.

Axes: V tokens of the table, M its contexts, N its stored (context, token) pairs, D embedding.
"""

import dataclasses
import math

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float, Float64, Int64
from scipy.optimize import brentq
from torch import Tensor

from tightframe.geometry.moments import ClassMoments
from tightframe.ntp import ContextTable, Prediction, SoftLabels
from tightframe.ntp.prediction import from_triplets
from tightframe.ntp.soft_labels import Columns, finite_component
from tightframe.ntp.support import CentredSupport, dense_triplets, leading_triplets

_CHUNK = 2**22  # numbers of embeddings gathered at once: 32 MiB
_FURTHEST = 700.0  # a margin whose exponential is still a float64


@dataclasses.dataclass(frozen=True, eq=False)
class Ideal:
    """A model that has become what a text predicts: what measures of collapse are made of."""

    moments: ClassMoments  # a class a token of the table, in its order
    classifier: Float64[Tensor, "V D"]  # rows in the same order
    margin: float = math.inf  # R of `finite`, nats; the limit is at infinity


def ideal(
    table: ContextTable,
    prediction: Prediction,
    *,
    dim: int | None = None,
    margin: float = math.inf,
) -> Ideal:
    """What a prediction for a table's tokens and contexts comes to, in classes.

    Args:
        table: Weights a class's samples: contexts j, each `counts[j, z]` times.
        prediction: Of the table: exact, certified or a proxy, by `ntp`.
        dim: The model's width D: dimensions beyond it, those of the smallest singular values, are
            cut off, or dimensions of 0 put there; the prediction's rank by default.
        margin: Kept in the answer.
    """
    if (rows := len(prediction.classifier)) != table.vocab_size:
        raise ValueError(
            f"prediction has {rows} rows of the classifier, expected one per token of the table, "
            f"{table.vocab_size}; is it of another vocabulary?"
        )
    dim = prediction.rank if dim is None else dim
    moments = class_moments(table, _as_wide(prediction.embeddings, dim))
    return Ideal(moments, torch.from_numpy(_as_wide(prediction.classifier, dim)), margin)


def limit(table: ContextTable, *, dim: int) -> Ideal:
    """The limit of training a model of width `dim` on the table, by the proxy S~ (a heuristic)."""
    support = table.soft_labels.support.astype(np.float64)
    return ideal(table, _predicted(support, dim), dim=dim)


def finite(table: ContextTable, *, dim: int, loss: float) -> Ideal:
    """A model of width `dim` on its way to the limit, at a training loss: L_in + R S~.

    Args:
        table: Of the text that the model was trained on.
        dim: The model's width.
        loss: Its cross-entropy on the training text, nats per token. Where it is not above the
            table's entropy, which a model that sees more than the table's contexts may reach,
            this is the limit.
    """
    labels = table.soft_labels
    margin = margin_at(labels, loss)
    if math.isinf(margin):
        return limit(table, dim=dim)
    support = labels.support.astype(np.float64)
    logits = sp.csc_array(finite_component(labels) + margin * support)
    return ideal(table, _predicted(logits, dim), dim=dim, margin=margin)


def margin_at(labels: SoftLabels, loss: float) -> float:
    r"""R at which logits L_in + R S~ have this loss; infinite where it is at most the entropy.

    .. math:: CE(R) - H = \sum_j \pi_j \ln(1 + (V - k_j) g_j e^{-R})

    with g_j the geometric mean of context j's probabilities on its support: in the support
    softmax is P times a factor, off it logits are equal. So R needs no logits. It is that of full
    rank: cut to a width, logits have a higher loss.

    Raises:
        ValueError: The loss is not finite, or as high as at R = -700.
    """
    excess = loss - labels.entropy
    if not math.isfinite(loss):
        raise ValueError(f"loss is {loss}, expected nats per token")
    if excess <= 0:
        return math.inf
    p, sizes = labels.probabilities, labels.support_sizes
    logs = np.add.reduceat(np.log(p.data), p.indptr[:-1]) / sizes  # (M,), ln g
    free = sizes < labels.vocab_size
    offsets = logs[free] + np.log(labels.vocab_size - sizes[free])
    weights = labels.weights[free]

    def missing(margin: float) -> float:
        return float(weights @ np.logaddexp(0.0, offsets - margin)) - excess

    if missing(-_FURTHEST) <= 0:
        raise ValueError(f"loss is {loss:.4g} nats per token, which no margin above -700 has")
    if missing(_FURTHEST) >= 0:
        return math.inf  # equal to the entropy but for rounding
    return float(brentq(missing, -_FURTHEST, _FURTHEST, xtol=1e-12))


def class_moments(table: ContextTable, embeddings: Float[np.ndarray, "M D"]) -> ClassMoments:
    """Moments of the table's contexts by next token: context j is `counts[j, z]` samples of z.

    In two passes over the stored pairs, so that classes whose contexts agree have no spread.
    """
    if len(embeddings) != table.n_contexts:
        raise ValueError(
            f"embeddings has {len(embeddings)} rows, expected one per context of the table, "
            f"{table.n_contexts}"
        )
    wrong = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(wrong):
        raise ValueError(f"embeddings: that of context {wrong[0]} is not finite")
    pairs = table.counts.tocoo()
    contexts, tokens = (ids.astype(np.int64) for ids in pairs.coords)
    counts = _per_class(tokens, pairs.data, table.vocab_size)
    # Seen from a context of the class itself: where all are equal, their mean is exact.
    first = np.zeros(table.vocab_size, dtype=np.int64)
    first[tokens[::-1]] = contexts[::-1]
    origins = np.where(counts[:, None] > 0, embeddings[first], 0.0)  # (V, D)
    shifts, within_ss = np.zeros_like(origins), np.zeros(table.vocab_size)
    step = max(1, _CHUNK // embeddings.shape[1])
    chunks = [slice(start, start + step) for start in range(0, len(tokens), step)]
    for here in chunks:
        deviations = embeddings[contexts[here]] - origins[tokens[here]]  # (n, D)
        shifts += _summing(tokens[here], pairs.data[here], table.vocab_size) @ deviations
    means = origins + shifts / np.maximum(counts, 1)[:, None]
    for here in chunks:
        deviations = embeddings[contexts[here]] - means[tokens[here]]
        squares = pairs.data[here] * np.square(deviations).sum(axis=1)
        within_ss += np.bincount(tokens[here], squares, minlength=table.vocab_size)
    return ClassMoments.from_dense(*map(torch.from_numpy, (counts, means, within_ss)))


def classes_of(table: ContextTable, moments: ClassMoments) -> ClassMoments:
    """Of a model's moments, those of the table's tokens, in its order."""
    if int(table.tokens.max()) >= moments.n_classes:
        raise ValueError(
            f"the table has token {int(table.tokens.max())}, but the moments are of "
            f"{moments.n_classes} classes; are they of another vocabulary?"
        )
    chosen = moments.of_classes(torch.from_numpy(table.tokens).to(moments.device))
    numbers = chosen.counts, chosen.means, chosen.within_ss
    return ClassMoments.from_dense(*(each.cpu() for each in numbers))


def shuffled(table: ContextTable, *, seed: int) -> ContextTable:
    """Control: next tokens dealt anew to the same contexts; all counts of both are kept."""
    pairs = table.counts.tocoo()
    contexts, tokens = (np.repeat(ids.astype(np.int64), pairs.data) for ids in pairs.coords)
    return _counted(table, contexts, np.random.default_rng(seed).permutation(tokens))


def one_each(table: ContextTable) -> ContextTable:
    """Control: every occurrence a context of its own, so that only token counts are left.

    It is what contexts come to as they grow longer; the proxy is exact then, and NC1 is 0.
    """
    pairs = table.counts.tocoo()
    tokens = np.repeat(pairs.coords[1].astype(np.int64), pairs.data)
    contexts = np.repeat(table.contexts[pairs.coords[0]], pairs.data, axis=0)
    owned = dataclasses.replace(table, contexts=contexts, counts=_empty(len(tokens), table))
    return _counted(owned, np.arange(len(tokens)), tokens)


def random_embeddings(table: ContextTable, *, dim: int, seed: int) -> Ideal:
    """Control: contexts and classifier drawn at random; classes still share their contexts."""
    rng = np.random.default_rng(seed)
    classifier = rng.standard_normal((table.vocab_size, dim))
    embeddings = rng.standard_normal((table.n_contexts, dim))
    return ideal(table, Prediction(classifier, embeddings, np.ones(dim), "proxy"))


def _predicted(logits: Columns, dim: int) -> Prediction:
    """At most `dim` dimensions of sparse logits, whose columns are centred implicitly."""
    centred = CentredSupport(logits)
    if 2 * dim < min(logits.shape):
        found = leading_triplets(centred, dim)
    else:
        found = dense_triplets(centred)
    triplets = (found.left, found.singular_values, found.right)
    return from_triplets(*triplets, kind="proxy", gap=math.nan)


def _as_wide(matrix: Float[np.ndarray, "N r"], dim: int) -> Float64[np.ndarray, "N D"]:
    """The first `dim` columns, and columns of 0 where there are fewer."""
    kept = matrix[:, :dim].astype(np.float64)
    return np.ascontiguousarray(np.pad(kept, ((0, 0), (0, dim - kept.shape[1]))))


def _counted(
    table: ContextTable, contexts: Int64[np.ndarray, " N"], tokens: Int64[np.ndarray, " N"]
) -> ContextTable:
    """The table with these pairs in place of its own."""
    ones = np.ones(len(tokens), dtype=np.int64)
    counts = sp.csr_array((ones, (contexts, tokens)), shape=table.counts.shape)
    counts.sum_duplicates()
    return dataclasses.replace(table, counts=counts)


def _empty(n_contexts: int, table: ContextTable) -> sp.csr_array:
    return sp.csr_array((n_contexts, table.vocab_size), dtype=np.int64)


def _per_class(
    tokens: Int64[np.ndarray, " N"], counts: Int64[np.ndarray, " N"], n: int
) -> Int64[np.ndarray, " V"]:
    """Sums of whole numbers; exact below 2^53."""
    return np.bincount(tokens, counts, minlength=n).astype(np.int64)


def _summing(
    tokens: Int64[np.ndarray, " n"], weights: Int64[np.ndarray, " n"], n: int
) -> sp.csr_array:
    """A sparse matrix whose product with rows is their weighted sum by token."""
    columns = np.arange(len(tokens))
    return sp.csr_array((weights.astype(np.float64), (tokens, columns)), shape=(n, len(tokens)))
