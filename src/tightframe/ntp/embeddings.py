"""A model's embedding of every context of a table, its classifier, and what its logits say.

Logits, their finite component and those that are predicted are made in blocks of contexts and never
held whole; one number is kept for each context.

Axes: M contexts, T tokens of a context, V tokens of the table, D embedding, B contexts of a batch.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tightframe.errors import UserError
from tightframe.lm.interface import LanguageModel
from tightframe.lm.loss import measuring
from tightframe.ntp.predict import Prediction
from tightframe.ntp.soft_labels import (
    SoftLabels,
    excess,
    finite_component,
    project_in_support,
    project_off_support,
)
from tightframe.ntp.table import PAD, ContextTable

BATCH_TOKENS = 8192  # tokens of a forward pass; memory only, but for its rounding
ROWS = 256  # and contexts at most: each has logits over the whole vocabulary

Progress = Callable[[int, int], None]
"""Takes the contexts that are done, and all."""


@dataclasses.dataclass(frozen=True, eq=False)
class Embedded:
    """What a model makes of a table: its logits are `finish(embeddings @ classifier.T + bias)`.

    Attributes:
        classifier: Rows of the table's tokens, in their order.
        embeddings: At the last position of each context, after the final norm, in table order.
        bias: Of the table's tokens; None if the model has none.
        outside: Of each context, -log of the share that the table's tokens have in the model's
            softmax over its whole vocabulary, in nats; 0 where it knows no other token.
        finish: What the model does to its logits last (a scale, a soft-cap), entry by entry; None
            if nothing.
    """

    classifier: Float[np.ndarray, "V D"]
    embeddings: Float[np.ndarray, "M D"]
    bias: Float[np.ndarray, " V"] | None
    outside: Float[np.ndarray, " M"]
    finish: Callable[[Float[np.ndarray, "B V"]], Float[np.ndarray, "B V"]] | None = None


@torch.no_grad()
def collect(
    model: LanguageModel,
    table: ContextTable,
    *,
    bos: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress | None = None,
) -> Embedded:
    """Read a model on every context of a table: one forward pass over M short sequences.

    Contexts of one length go together, so that none is ever padded: what a shorter context gives
    is what it gives by itself.

    Args:
        model: Any language model; it stays on its device.
        table: Its token ids must be the model's own (`lm.load.check_words`).
        bos: A token id that is put before every context that does not begin with it.
        batch_tokens: Tokens held at once; memory, and the rounding of the forward pass.
        progress: Called as the pass goes on.

    Raises:
        UserError: The table does not fit the model: unknown ids, contexts that are too long, or
            embeddings that are not finite.
        ValueError: A context of the table is empty, padded in the middle or there twice.
    """
    sequences = _sequences(table, bos)
    _check_fits(model, table, sequences)
    known = len(model.classifier)
    rows = torch.as_tensor(table.tokens, device=model.classifier.device)
    embeddings = np.empty((table.n_contexts, model.classifier.shape[1]))
    outside = np.zeros(table.n_contexts)
    done = 0
    with measuring(model):
        for contexts, inputs in _batches(sequences, batch_tokens):
            last = model.embed(inputs.to(model.classifier.device))[:, -1]  # (B, D)
            embeddings[contexts] = last.double().cpu().numpy()
            if table.vocab_size < known:
                outside[contexts] = _outside(model.head(last), rows)
            done += len(contexts)
            if progress is not None:
                progress(done, table.n_contexts)
        classifier = model.classifier[rows].double().cpu().numpy()
        bias = None if model.bias is None else model.bias[rows].double().cpu().numpy()
    _check_finite(model, embeddings, classifier)
    return Embedded(classifier, embeddings, bias, outside, _finish_of(model))


def _sequences(table: ContextTable, bos: int | None) -> list[Int[np.ndarray, " _"]]:
    """The token ids of each context without its padding."""
    contexts = table.contexts
    lengths = (contexts != PAD).sum(axis=1)
    width = contexts.shape[1]
    empty = np.flatnonzero(lengths == 0)
    if len(empty):
        raise ValueError(f"contexts: context {empty[0]} has no token")
    places = np.arange(width) >= (width - lengths)[:, None]
    broken = np.flatnonzero(((contexts != PAD) != places).any(axis=1))
    if len(broken):
        raise ValueError(f"contexts: context {broken[0]} has PAD ({PAD}) right of a token")
    _, first, inverse = np.unique(contexts, axis=0, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[inverse.ravel()] != np.arange(len(contexts)))
    if len(again):
        earlier = first[inverse.ravel()[again[0]]]
        raise ValueError(f"contexts: context {again[0]} is context {earlier} again; merge them")
    kept = (row[width - n :] for row, n in zip(contexts, lengths, strict=True))
    if bos is None:
        return list(kept)
    return [row if row[0] == bos else np.concatenate([[bos], row]) for row in kept]


def _batches(
    sequences: list[Int[np.ndarray, " _"]], batch_tokens: int
) -> Iterator[tuple[Int[np.ndarray, " B"], Int[Tensor, "B T"]]]:
    """Contexts of equal length and their token ids, shortest first."""
    lengths = np.array([len(row) for row in sequences])
    for length in np.unique(lengths):
        contexts = np.flatnonzero(lengths == length)
        size = max(1, min(ROWS, batch_tokens // int(length)))
        for start in range(0, len(contexts), size):
            part = contexts[start : start + size]
            ids = np.stack([sequences[context] for context in part]).astype(np.int64)
            yield part, torch.from_numpy(ids)


def _outside(logits: Float[Tensor, "B N"], rows: Int[Tensor, " V"]) -> Float[np.ndarray, " B"]:
    logits = logits.double()
    missing: Float[np.ndarray, " B"] = (
        (logits.logsumexp(1) - logits[:, rows].logsumexp(1)).clamp(min=0).cpu().numpy()
    )
    return missing


def _finish_of(
    model: LanguageModel,
) -> Callable[[Float[np.ndarray, "B V"]], Float[np.ndarray, "B V"]] | None:
    finish = getattr(model, "finish", None)
    if finish is None:
        return None
    like = model.classifier

    @torch.no_grad()
    def finished(logits: Float[np.ndarray, "B V"]) -> Float[np.ndarray, "B V"]:
        given = torch.from_numpy(logits).to(like.device, like.dtype)
        with measuring(model):
            made: Float[np.ndarray, "B V"] = finish(given).double().cpu().numpy()
        return made

    return finished


def _check_fits(
    model: LanguageModel, table: ContextTable, sequences: list[Int[np.ndarray, " _"]]
) -> None:
    known = len(model.classifier)
    largest = max(int(table.tokens.max()), *(int(row.max()) for row in sequences))
    if largest >= known:
        raise UserError(
            f"model {model.name} knows {known:,} tokens, but the table has token {largest:,}; "
            "make the table of tokens from the model's own tokenizer"
        )
    positions: int | None = getattr(model, "positions", None)
    longest = max(map(len, sequences))
    if positions is not None and longest > positions:
        raise UserError(
            f"a context of the table has {longest:,} tokens, but model {model.name} has "
            f"{positions:,} positions; make a table of shorter contexts"
        )


def _check_finite(
    model: LanguageModel,
    embeddings: Float[np.ndarray, "M D"],
    classifier: Float[np.ndarray, "V D"],
) -> None:
    for what, matrix in (
        ("embedding of context", embeddings),
        ("classifier row of token", classifier),
    ):
        wrong = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
        if len(wrong):
            raise UserError(
                f"model {model.name}: the {what} {wrong[0]} is not finite; did training diverge, "
                "or float16 overflow?"
            )


BLOCK = 4_000_000  # entries of a block of logits; memory only


Logits = Callable[[Int[np.ndarray, " B"]], Float[np.ndarray, "V B"]]
"""The logits of some contexts, each column centred over tokens."""


@dataclasses.dataclass(frozen=True, eq=False)
class Against:
    """Inner products with the columns of predicted logits, and these columns' squared norms."""

    whole: Float[np.ndarray, " M"]  # of the logits
    rest: Float[np.ndarray, " M"]  # of what is not in the support's differences
    finite: Float[np.ndarray, " M"]  # of L_in
    squared: Float[np.ndarray, " M"]


@dataclasses.dataclass(frozen=True, eq=False)
class ByContext:
    """A number a context; `squared_*` are squared norms of its column.

    Attributes:
        excess: CE(L) - H of all contexts together, in nats.
        squared_logits: Of the logits, centred over tokens.
        squared_rest: Of P_perp of the logits.
        squared_within: Of P_F of the logits.
        squared_finite: Of L_in.
        squared_error: Of P_F(L) - L_in.
        within_dot_finite: <P_F(L), L_in>.
        spread: The largest error of a difference of logits in the support, log P being right.
        margin: The least logit in the support minus the largest off it; infinite where no token
            is off the support.
        against: By the name of the prediction.
    """

    excess: float
    squared_logits: Float[np.ndarray, " M"]
    squared_rest: Float[np.ndarray, " M"]
    squared_within: Float[np.ndarray, " M"]
    squared_finite: Float[np.ndarray, " M"]
    squared_error: Float[np.ndarray, " M"]
    within_dot_finite: Float[np.ndarray, " M"]
    spread: Float[np.ndarray, " M"]
    margin: Float[np.ndarray, " M"]
    against: dict[str, Against]


def by_context(
    logits: Logits,
    labels: SoftLabels,
    predictions: Mapping[str, Prediction],
    *,
    block: int = BLOCK,
) -> ByContext:
    """Sweep over the contexts.

    Args:
        logits: Of the model.
        labels: What follows each context.
        predictions: Logits to compare the model's with.
        block: Entries of a block of logits; memory only, never the result.

    Raises:
        ValueError: A logit is not finite; the message names token and context.
    """
    n = labels.n_contexts
    names = [field.name for field in dataclasses.fields(ByContext)][1:-1]
    found = {name: np.empty(n) for name in names}
    against = {name: Against(*(np.empty(n) for _ in range(4))) for name in predictions}
    total = 0.0
    for contexts in _blocks(np.arange(n), labels.vocab_size, block):
        made = logits(contexts)
        _check_finite_logits(made, contexts)
        part, share = _part(labels, contexts)
        total += share * excess(made, part)
        support = part.matrix
        within, rest = project_in_support(made, support), project_off_support(made, support)
        finite = finite_component(part).toarray()
        error = within - finite
        numbers = {
            "squared_logits": _dots(made, made),
            "squared_rest": _dots(rest, rest),
            "squared_within": _dots(within, within),
            "squared_finite": _dots(finite, finite),
            "squared_error": _dots(error, error),
            "within_dot_finite": _dots(within, finite),
            # Off the support the error is 0, in it its mean is 0: its range is that in the support.
            "spread": error.max(axis=0) - error.min(axis=0),
            "margin": made.min(axis=0, where=support, initial=np.inf)
            - made.max(axis=0, where=~support, initial=-np.inf),
        }
        for name, column in numbers.items():
            found[name][contexts] = column
        for name, prediction in predictions.items():
            predicted = prediction.classifier @ prediction.embeddings[contexts].T  # (V, B)
            one = against[name]
            one.whole[contexts] = _dots(made, predicted)
            one.rest[contexts] = _dots(rest, predicted)
            one.finite[contexts] = _dots(finite, predicted)
            one.squared[contexts] = _dots(predicted, predicted)
    return ByContext(excess=total, **found, against=against)


def _blocks(
    contexts: Int[np.ndarray, " M"], vocab_size: int, block: int
) -> Iterator[Int[np.ndarray, " B"]]:
    size = max(1, block // vocab_size)
    for start in range(0, len(contexts), size):
        yield contexts[start : start + size]


def _part(labels: SoftLabels, contexts: Int[np.ndarray, " B"]) -> tuple[SoftLabels, float]:
    """The soft labels of some contexts as a table of their own, and its share in the whole."""
    weights = labels.weights[contexts]
    share = float(weights.sum())
    return SoftLabels(labels.probabilities[:, contexts], weights / share), share


def _dots(a: Float[np.ndarray, "V B"], b: Float[np.ndarray, "V B"]) -> Float[np.ndarray, " B"]:
    products: Float[np.ndarray, " B"] = np.einsum("vb,vb->b", a, b)
    return products


def _check_finite_logits(logits: Float[np.ndarray, "V B"], contexts: Int[np.ndarray, " B"]) -> None:
    if not np.isfinite(logits).all():
        token, place = np.argwhere(~np.isfinite(logits))[0]
        raise ValueError(
            f"logits: {logits[token, place]} for token {token}, context {contexts[place]}"
        )
