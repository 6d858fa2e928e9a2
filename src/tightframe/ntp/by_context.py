"""What a model's logits say context by context: one sweep, in blocks of contexts.

Logits, their finite component and those that are predicted are made block by block and never held
whole; what is kept is a number a context.

Axes: V tokens, M contexts, B contexts of a block.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from jaxtyping import Float, Int

from tightframe.ntp.predict import Prediction
from tightframe.ntp.soft_labels import (
    SoftLabels,
    excess,
    finite_component,
    project_in_support,
    project_off_support,
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
        _check_finite(made, contexts)
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


def _check_finite(logits: Float[np.ndarray, "V B"], contexts: Int[np.ndarray, " B"]) -> None:
    if not np.isfinite(logits).all():
        token, place = np.argwhere(~np.isfinite(logits))[0]
        raise ValueError(
            f"logits: {logits[token, place]} for token {token}, context {contexts[place]}"
        )
