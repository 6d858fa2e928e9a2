"""A model's classifier and embeddings against the geometry that its table predicts.

A table's folder gives what models are compared with: its best solution, proxies, a baseline.

    ntp/<name>/   table.safetensors  manifest.json  solutions/*.safetensors
                  results/<model>/step-N-<hash>.jsonl

Gram matrices of centred sparse matrices agree to some degree by themselves, so an agreement with
the prediction is read beside that with the prediction of shuffled supports. `shuffled_support`
draws every context for itself; where supports repeat that is easily beaten, because the blocks of
equal supports are lost.

Axes: V tokens, M distinct contexts, D embedding.
"""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from tightframe.errors import UserError
from tightframe.files import sha256
from tightframe.geometry.values import Value
from tightframe.ntp.catalogue import MEASURES, TheoryMeasure
from tightframe.ntp.model_on_table import ModelOnTable
from tightframe.ntp.prediction import Prediction, predict_geometry, proxy
from tightframe.ntp.prediction import proxy as proxy_of
from tightframe.ntp.soft_labels import Columns, SoftLabels
from tightframe.ntp.solution import best_solution, load_solution


def shuffled_groups(support: Bool[np.ndarray, "V M"], seed: int) -> Bool[np.ndarray, "V M"]:
    """Supports of the same sizes, their tokens drawn anew, each token as likely as any other.

    Contexts that share a support share the new one: what repeats in the text repeats here, and
    only *which* tokens follow is lost.
    """
    generator = np.random.default_rng(seed)
    distinct, group = np.unique(support, axis=1, return_inverse=True)
    order = generator.random(distinct.shape).argsort(axis=0)  # a permutation of tokens a column
    shuffled: Bool[np.ndarray, "V M"] = np.take_along_axis(distinct, order, axis=0)
    return shuffled[:, group.ravel()]


DENSE = 4_000_000  # entries of the largest support whose proxy is decomposed whole
RANK = 64  # triplets of the proxy of a larger one


@dataclasses.dataclass(frozen=True, eq=False)
class References:
    """Predictions of one table.

    Attributes:
        solution: Of L_mm, or of the centred support where that is proved to be exact; None where
            there is neither.
        proxy: Of the centred support.
        shuffled: Of supports drawn at random.
        facts: What they are, for headers.
    """

    solution: Prediction | None
    proxy: Prediction
    shuffled: tuple[Prediction, ...]
    facts: dict[str, Any]

    @classmethod
    def read(
        cls, folder: Path, labels: SoftLabels, fingerprint: str, *, shuffles: int, seed: int
    ) -> "References":
        """Of a table's folder.

        Args:
            folder: Its `solutions/` may be empty or absent.
            labels: Of the table.
            fingerprint: Of the table; solutions of other ones are passed over.
            shuffles: Draws of the baseline.
            seed: Of these draws.

        Raises:
            UserError: The table predicts nothing, or has solutions of other tables alone.
        """
        large = labels.vocab_size * labels.n_contexts > DENSE
        rank = min(RANK, labels.vocab_size, labels.n_contexts) if large else None
        try:
            stand_in = proxy(labels.support, rank=rank)
        except ValueError as error:  # nothing is to be separated
            raise UserError(f"{folder}: {error}") from None
        path = best_solution(folder, fingerprint)
        solution, name, digest = None, "", ""
        if path is not None:
            solution = predict_geometry(load_solution(path, labels.matrix))
            name, digest = path.name, sha256(path)[:12]
        elif stand_in.kind == "exact":
            solution, name, digest = stand_in, "proxy", "exact"
        facts = {
            "solution": name,
            "solution_sha256": digest,
            "solution_kind": "" if solution is None else solution.kind,
            "gap": None if solution is None else solution.gap,
            "proxy_kind": stand_in.kind,
            "proxy_rank": stand_in.rank,
            "shuffles": shuffles,
            "seed": seed,
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # on supports that nobody asked about
            drawn = shuffled_proxies(labels, shuffles, seed=seed, rank=rank)
        return cls(solution, stand_in, drawn, facts)


def compare(
    classifier: Float[np.ndarray, "V D"],
    embeddings: Float[np.ndarray, "M _"],
    labels: SoftLabels,
    prediction: Prediction | None,
    *,
    bias: Float[np.ndarray, " _"] | None = None,
    proxy: Prediction | None = None,
    shuffled: Sequence[Prediction] = (),
    finish: Callable[[Float[np.ndarray, "B V"]], Float[np.ndarray, "B V"]] | None = None,
    outside: Float[np.ndarray, " M"] | None = None,
) -> dict[str, Value]:
    """All measures of `MEASURES` for which something to compare with is given.

    A bias is a last column of the classifier, where embeddings have a 1: the logits, and all that
    is made of them, are the model's own, and the Gram matrices are of the longer rows.

    Args:
        classifier: A row a token of the table.
        embeddings: A row a context of the table, in its order.
        labels: Of the table.
        prediction: From a solution; one that is a proxy is taken as `proxy`.
        bias: Added to the logits.
        proxy: Predicted from the centred support.
        shuffled: Proxies of supports drawn at random, see `shuffled_proxies`.
        finish: What the model does to its logits last, entry by entry.
        outside: See `Embedded.outside`.

    Raises:
        ValueError: A shape does not fit the table, or a number is not finite; the message names
            the argument and the axis, row or entry.

    Warns:
        UserWarning: No two contexts have one support; the model has fewer dimensions than the
            predicted logits have rank.
    """
    _check(classifier, embeddings, labels, bias)
    if prediction is not None and prediction.kind == "proxy":
        prediction, proxy = None, proxy or prediction
    for name, given in (("prediction", prediction), ("proxy", proxy)):
        _check_prediction(given, labels, name)
    for each in shuffled:
        _check_prediction(each, labels, "shuffled")
    if prediction is not None and classifier.shape[1] < prediction.rank:
        warnings.warn(
            f"embeddings have {classifier.shape[1]} dimensions, but the predicted logits have rank "
            f"{prediction.rank}: the theory asks for at least {prediction.rank}",
            UserWarning,
            stacklevel=2,
        )
    if bias is not None:
        classifier = np.column_stack([classifier, bias])
        embeddings = np.column_stack([embeddings, np.ones(len(embeddings))])
    model = ModelOnTable(
        classifier,
        embeddings,
        labels,
        solution=prediction,
        proxy=proxy,
        shuffled=shuffled,
        finish=finish,
        outside=outside,
    )
    if not model.groups.members:
        warnings.warn(
            "no two contexts have one support; subspace collapse is undefined",
            UserWarning,
            stacklevel=2,
        )
    return {
        measure.name: _labelled(measure.function(model), measure, prediction, proxy)
        for measure in MEASURES
        if measure.reference is None or model.references[measure.reference]
    }


def _labelled(
    value: Value, measure: TheoryMeasure, prediction: Prediction | None, proxy: Prediction | None
) -> Value:
    """The value with the label of what it is compared with."""
    against = {"solution": prediction, "proxy": proxy}.get(measure.reference or "")
    if against is None:
        return value
    reason = "; ".join(part for part in (against.label, value.reason) if part)
    return dataclasses.replace(value, reason=reason)


def shuffled_support(labels: SoftLabels, *, seed: int) -> Columns:
    """A support matrix with the same number of tokens after each context, drawn at random."""
    generator = np.random.default_rng(seed)
    sizes, size = labels.support_sizes, labels.vocab_size
    drawn = [np.sort(generator.choice(size, k, replace=False, shuffle=False)) for k in sizes]
    support = labels.support.copy()
    support.indices = np.concatenate(drawn).astype(support.indices.dtype)
    return support


def shuffled_proxies(
    labels: SoftLabels, draws: int, *, seed: int = 0, rank: int | None = None
) -> tuple[Prediction, ...]:
    """What cosines are worth by themselves: proxies of random supports with the same sizes."""
    seeds = np.random.SeedSequence(seed).generate_state(draws)
    with warnings.catch_warnings():  # a random support leaves tokens out, which is no one's mistake
        warnings.filterwarnings("ignore", message=".*follow no context")
        return tuple(
            proxy_of(shuffled_support(labels, seed=int(each)), rank=rank) for each in seeds
        )


def _check(
    classifier: Float[np.ndarray, "V D"],
    embeddings: Float[np.ndarray, "M _"],
    labels: SoftLabels,
    bias: Float[np.ndarray, " _"] | None,
) -> None:
    expected = labels.vocab_size, labels.n_contexts
    found = len(classifier), len(embeddings)
    if found != expected and found == expected[::-1]:
        raise ValueError(
            f"classifier has {found[0]} rows and embeddings {found[1]}, but the table has "
            f"{expected[0]} tokens and {expected[1]} contexts; are the two exchanged?"
        )
    if found[0] != expected[0]:
        raise ValueError(
            f"classifier: {found[0]} rows, expected one a token of the table, {expected[0]}"
        )
    if found[1] != expected[1]:
        raise ValueError(
            f"embeddings: {found[1]} rows, expected one a context of the table, {expected[1]}"
        )
    if classifier.shape[1] != embeddings.shape[1]:
        raise ValueError(
            f"classifier has {classifier.shape[1]} columns and embeddings {embeddings.shape[1]}; "
            "expected rows of one length"
        )
    if bias is not None and bias.shape != (expected[0],):
        raise ValueError(f"bias: {bias.shape}, expected one a token of the table, {expected[0]}")
    for name, rows in (("classifier", classifier), ("embeddings", embeddings), ("bias", bias)):
        if rows is not None and not np.isfinite(rows).all():
            place = tuple(int(i) for i in np.argwhere(~np.isfinite(rows))[0])
            raise ValueError(f"{name}: {rows[place]} in row {place[0]}; expected finite numbers")


def _check_prediction(given: Prediction | None, labels: SoftLabels, name: str) -> None:
    if given is None:
        return
    found = len(given.classifier), len(given.embeddings)
    if found != (labels.vocab_size, labels.n_contexts):
        raise ValueError(
            f"{name}: of {found[0]} tokens and {found[1]} contexts, but the table has "
            f"{labels.vocab_size} and {labels.n_contexts}; is it of another table?"
        )
