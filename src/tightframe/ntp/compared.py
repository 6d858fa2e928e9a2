"""What a measure of the comparison is a function of (`Compared`) and what it gives (`Value`).

Axes: V tokens, M contexts, D embedding, r rank of predicted logits.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from tightframe.ntp.embeddings import Against, ByContext, by_context
from tightframe.ntp.predict import Prediction
from tightframe.ntp.similarity import unit_rows
from tightframe.ntp.soft_labels import SoftLabels, project_off_support
from tightframe.ntp.support_collapse import Collapse, SupportGroups, collapse, support_groups

Reference = Literal["solution", "proxy", "shuffled"]
"""What a model is compared with: L_mm, the centred support, that of supports drawn at random."""

Side = Literal["classifier", "embeddings"]

ROUNDING = 1e-10  # predicted rows this much shorter than the longest have no direction


@dataclasses.dataclass(frozen=True)
class Value:
    """One number, with what was averaged and what was not; NaN with n = 0 where undefined."""

    value: float
    n: int
    excluded: int = 0
    reason: str = ""


class Compared:
    """A model beside its table and what the table predicts; what measures share is made once.

    Args:
        classifier: A row a token; with a bias as its last column, if there is one.
        embeddings: A row a context; with a last column of ones, if there is a bias.
        labels: Of the table.
        solution: Predicted from L_mm.
        proxy: Predicted from the centred support.
        shuffled: The same of supports of the same sizes drawn at random.
        finish: What the model does to its logits last.
        outside: Of each context, see `Embedded.outside`.
    """

    def __init__(
        self,
        classifier: Float[np.ndarray, "V D"],
        embeddings: Float[np.ndarray, "M D"],
        labels: SoftLabels,
        *,
        solution: Prediction | None = None,
        proxy: Prediction | None = None,
        shuffled: Sequence[Prediction] = (),
        finish: Callable[[Float[np.ndarray, "B V"]], Float[np.ndarray, "B V"]] | None = None,
        outside: Float[np.ndarray, " M"] | None = None,
    ) -> None:
        self.classifier = classifier
        self.embeddings = embeddings
        self.labels = labels
        self.finish = finish
        self.outside = outside
        self.references: dict[Reference, tuple[Prediction, ...]] = {
            "solution": () if solution is None else (solution,),
            "proxy": () if proxy is None else (proxy,),
            "shuffled": tuple(shuffled),
        }

    def logits(self, contexts: Int[np.ndarray, " B"]) -> Float[np.ndarray, "V B"]:
        """The model's logits after some contexts, each column centred over tokens."""
        rows = self.embeddings[contexts] @ self.classifier.T  # (B, V)
        if self.finish is not None:
            rows = self.finish(rows)
        with np.errstate(invalid="ignore"):  # what is not finite is told of with its place
            columns: Float[np.ndarray, "V B"] = (rows - rows.mean(axis=1, keepdims=True)).T
        return columns

    @cached_property
    def contexts(self) -> ByContext:
        """The sweep over contexts, against every reference."""
        named = {
            f"{reference} {i}": prediction
            for reference, predictions in self.references.items()
            for i, prediction in enumerate(predictions)
        }
        return by_context(self.logits, self.labels, named)

    def against(self, reference: Reference) -> list[Against]:
        """Inner products with each prediction of a kind."""
        return [
            self.contexts.against[f"{reference} {i}"]
            for i in range(len(self.references[reference]))
        ]

    @cached_property
    def groups(self) -> SupportGroups:
        """Contexts of equal support."""
        return support_groups(self.labels)

    @cached_property
    def embedding_collapse(self) -> Collapse:
        """Of the embeddings as they are."""
        return collapse(lambda contexts: self.embeddings[contexts], self.groups)

    @cached_property
    def rest_collapse(self) -> Collapse:
        """Of P_perp of the logits."""
        labels = self.labels
        block = max(1, 4_000_000 // labels.vocab_size)

        def rest(contexts: Int[np.ndarray, " B"]) -> Float[np.ndarray, "B V"]:
            support = labels.support[:, contexts].toarray()
            return np.ascontiguousarray(project_off_support(self.logits(contexts), support).T)

        return collapse(rest, self.groups, block=block)

    @cached_property
    def centred_classifier(self) -> Float[np.ndarray, "V D"]:
        """Each column centred over tokens, which no softmax notices."""
        centred: Float[np.ndarray, "V D"] = self.classifier - self.classifier.mean(axis=0)
        return centred

    def rows(self, side: Side) -> Float[np.ndarray, "N D"]:
        """The model's rows whose Gram is compared."""
        return self.centred_classifier if side == "classifier" else self.embeddings

    def directions(
        self, side: Side, prediction: Prediction
    ) -> tuple[Float[np.ndarray, "n D"], Float[np.ndarray, "n r"], int]:
        """Unit rows of the model and of a prediction where both have one, and how many have not."""
        ours, here = unit_rows(self.rows(side), rounding=ROUNDING)
        theirs, there = unit_rows(predicted_rows(side, prediction), rounding=ROUNDING)
        both = here & there
        return ours[both], theirs[both], int((~both).sum())


def predicted_rows(side: Side, prediction: Prediction) -> Float[np.ndarray, "N r"]:
    """Rows whose Gram is the predicted one, up to its norm."""
    return prediction.classifier if side == "classifier" else prediction.embeddings
