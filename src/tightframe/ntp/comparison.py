"""A model's classifier and embeddings against the geometry that its table predicts.

The folder of a table holds what models are compared with: its best solution; proxies and a
baseline are made from the table.

Gram matrices of centred sparse matrices agree to some degree by themselves, so an agreement with
the prediction is read beside that with the prediction of random supports. `shuffled_support` draws
every context independently; where supports repeat that is easily beaten, because the blocks of
equal supports are lost. `shuffled_groups` keeps these.

Axes: V tokens, M distinct contexts, D embedding.
"""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from tightframe.errors import UserError
from tightframe.files import sha256
from tightframe.geometry.values import Value
from tightframe.ntp.catalogue import MEASURES, TheoryMeasure
from tightframe.ntp.model_on_table import ModelOnTable
from tightframe.ntp.prediction import Prediction, predict
from tightframe.ntp.prediction import proxy as proxy_of
from tightframe.ntp.soft_labels import Columns, SoftLabels
from tightframe.ntp.solution import best_solution, load_solution
from tightframe.results import ResultTable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

DENSE = 4_000_000  # entries of the largest support whose proxy is decomposed whole
RANK = 64  # triplets of the proxy of a larger one


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Comparison(ResultTable):
    """Measures of a model against what a table predicts, at one checkpoint or more.

    Attributes:
        model: Name of the model.
        table: Name of the table.
        n_contexts: Number of contexts of the table.
        n_tokens: Number of tokens of the table.
        by_step: Values by step and name of the measure.
        paths: Results files, one per checkpoint; empty where none was written.
    """

    model: str
    table: str
    n_contexts: int
    n_tokens: int
    by_step: dict[int, dict[str, Value]]
    paths: tuple[Path, ...] = ()

    @property
    def values(self) -> dict[str, Value]:
        """Values at the last checkpoint, by the name of the measure."""
        return self.by_step[max(self.by_step)]

    def __getitem__(self, measure: str) -> Value:
        return self.values[measure]

    @property
    def one_line(self) -> str:
        """Model, last step, table and their sizes."""
        n = len(self.by_step)
        return (
            f"{self.model} at step {max(self.by_step)} on {self.table}: {self.n_contexts:,} "
            f"contexts, {self.n_tokens:,} tokens, {n} checkpoint{'' if n == 1 else 's'}"
        )

    def to_pandas(self) -> "pd.DataFrame":
        """Return one row per checkpoint and measure."""
        import pandas as pd

        return pd.DataFrame(
            [
                {"step": step, "measure": name, "value": value.value, "n": value.n,
                 "excluded": value.excluded, "reason": value.reason}
                for step, values in self.by_step.items()
                for name, value in values.items()
            ]
        )  # fmt: skip

    def plot(self) -> "Figure":
        """Draw the cosines with solution, proxy and random supports along the checkpoints."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 3), layout="constrained")
        panels = figure.subplots(1, 3, sharey=True)
        quantities = ("ntp_rest_cos", "ntp_gram_classifier_cos", "ntp_gram_embeddings_cos")
        titles = ("logits off the support", "words", "contexts")
        for axes, quantity, title in zip(panels, quantities, titles, strict=True):
            for suffix, label in (("", "solution"), ("_proxy", "proxy"), ("_shuffled", "random")):
                name = f"{quantity}{suffix}"
                steps = [step for step, values in self.by_step.items() if name in values]
                cosines = [self.by_step[step][name].value for step in steps]
                axes.plot(steps, cosines, marker="o", label=label)
            axes.set(title=title, xlabel="step", ylim=(-0.05, 1.05))
        panels[0].set_ylabel("cosine")
        panels[0].legend()
        return figure


def compare_embeddings(
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
) -> Comparison:
    """Compute all measures of a classifier and embeddings against their table and predictions.

    Measures are those of `MEASURES` for which something to compare with is given. A bias is a last
    column of the classifier, where embeddings have a 1: the logits, and all that is made of them,
    are the model's own, and the Gram matrices are those of the longer rows.

    Args:
        classifier: One row per token of the table.
        embeddings: One row per context of the table, in its order.
        labels: Soft labels of the table.
        prediction: Prediction from a solution; a proxy is used as `proxy`.
        bias: Added to the logits.
        proxy: Prediction from the centred support.
        shuffled: Proxies of random supports, see `shuffled_proxies`.
        finish: Function that the model applies to its logits last, entry by entry.
        outside: Share of other tokens, see `Embedded.outside`.

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
    values = {
        measure.name: _labelled(measure.function(model), measure, prediction, proxy)
        for measure in MEASURES
        if measure.reference is None or model.references[measure.reference]
    }
    return Comparison("model", "table", labels.n_contexts, labels.vocab_size, {0: values})


def _labelled(
    value: Value, measure: TheoryMeasure, prediction: Prediction | None, proxy: Prediction | None
) -> Value:
    """Return the value with the label of what it is compared with."""
    against = {"solution": prediction, "proxy": proxy}.get(measure.reference or "")
    if against is None:
        return value
    reason = "; ".join(part for part in (against.label, value.reason) if part)
    return dataclasses.replace(value, reason=reason)


@dataclasses.dataclass(frozen=True, eq=False)
class References:
    """Predictions of one table.

    Attributes:
        solution: Prediction from L_mm, or from the centred support where that is proved to be
            exact; None where there is neither.
        proxy: Prediction from the centred support.
        shuffled: Predictions from random supports.
        facts: Facts about them, for headers.
    """

    solution: Prediction | None
    proxy: Prediction
    shuffled: tuple[Prediction, ...]
    facts: dict[str, Any]

    @classmethod
    def read(
        cls, folder: Path, labels: SoftLabels, fingerprint: str, *, shuffles: int, seed: int
    ) -> "References":
        """Load or compute the predictions of a table in a folder.

        Args:
            folder: Folder of the table; `solutions/` may be empty or absent.
            labels: Soft labels of the table.
            fingerprint: Fingerprint of the table; solutions of other ones are passed over.
            shuffles: Number of random supports of the baseline.
            seed: Seed of these.

        Raises:
            UserError: The table predicts nothing, or has solutions of other tables alone.
        """
        large = labels.vocab_size * labels.n_contexts > DENSE
        rank = min(RANK, labels.vocab_size, labels.n_contexts) if large else None
        try:
            centred = proxy_of(labels.support, rank=rank)
        except ValueError as error:  # nothing is to be separated
            raise UserError(f"{folder}: {error}") from None
        path = best_solution(folder, fingerprint)
        solution, name, digest = None, "", ""
        if path is not None:
            solution = predict(load_solution(path, labels.matrix))
            name, digest = path.name, sha256(path)[:12]
        elif centred.kind == "exact":
            solution, name, digest = centred, "proxy", "exact"
        facts = {
            "solution": name,
            "solution_sha256": digest,
            "solution_kind": "" if solution is None else solution.kind,
            "gap": None if solution is None else solution.gap,
            "proxy_kind": centred.kind,
            "proxy_rank": centred.rank,
            "shuffles": shuffles,
            "seed": seed,
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # on supports of random supports
            drawn = shuffled_proxies(labels, shuffles, seed=seed, rank=rank)
        return cls(solution, centred, drawn, facts)


def shuffled_support(labels: SoftLabels, *, seed: int) -> Columns:
    """Return a random support matrix with the same number of tokens after each context."""
    generator = np.random.default_rng(seed)
    sizes, size = labels.support_sizes, labels.vocab_size
    drawn = [np.sort(generator.choice(size, k, replace=False, shuffle=False)) for k in sizes]
    support = labels.support.copy()
    support.indices = np.concatenate(drawn).astype(support.indices.dtype)
    return support


def shuffled_proxies(
    labels: SoftLabels, draws: int, *, seed: int = 0, rank: int | None = None
) -> tuple[Prediction, ...]:
    """Return proxies of random supports with the same sizes: what cosines are worth by chance."""
    seeds = np.random.SeedSequence(seed).generate_state(draws)
    with warnings.catch_warnings():  # a random support leaves tokens out, which is nobody's mistake
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
            f"classifier: {found[0]} rows, expected one per token of the table, {expected[0]}"
        )
    if found[1] != expected[1]:
        raise ValueError(
            f"embeddings: {found[1]} rows, expected one per context of the table, {expected[1]}"
        )
    if classifier.shape[1] != embeddings.shape[1]:
        raise ValueError(
            f"classifier has {classifier.shape[1]} columns and embeddings {embeddings.shape[1]}; "
            "expected rows of one length"
        )
    if bias is not None and bias.shape != (expected[0],):
        raise ValueError(f"bias: {bias.shape}, expected one per token of the table, {expected[0]}")
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


def shuffled_groups(support: Bool[np.ndarray, "V M"], seed: int) -> Bool[np.ndarray, "V M"]:
    """Return random supports of the same sizes; contexts that share a support share the new one.

    Each token is as likely as any other. What repeats in the text repeats here, and only *which*
    tokens follow is lost.
    """
    generator = np.random.default_rng(seed)
    distinct, group = np.unique(support, axis=1, return_inverse=True)
    order = generator.random(distinct.shape).argsort(axis=0)  # a permutation of tokens a column
    shuffled: Bool[np.ndarray, "V M"] = np.take_along_axis(distinct, order, axis=0)
    return shuffled[:, group.ravel()]
