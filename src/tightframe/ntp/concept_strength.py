"""Predicted concepts in a trained model: how strong each is, and how well its axis is aligned.

A model's embeddings are known up to a rotation of their D dimensions. The rotation that brings the
predicted ones nearest puts the k-th concept on an axis of the model.

Axes: V tokens, M contexts, K concepts, D width of the model.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from tightframe.ntp.concept_axes import Concepts


@dataclasses.dataclass(frozen=True, eq=False)
class Alignment:
    """Concepts on the axes of a model.

    Attributes:
        axes: Orthonormal columns: where the concepts lie in the model's dimensions.
        tokens: The model's classifier, centred over tokens, projected on the axes.
        contexts: Its embeddings, projected.
        strengths: u' L v / s: what the model's logits have of each concept, over its singular
            value; 1 for the predicted logits themselves, growing with their norm.
        token_cosines: Between `tokens[:, k]` and u, in [-1, 1]; 1 is perfect.
        context_cosines: Between `contexts[:, k]` and v, in [-1, 1]; 1 is perfect.
    """

    axes: Float[np.ndarray, "D K"]
    tokens: Float[np.ndarray, "V K"]
    contexts: Float[np.ndarray, "M K"]
    strengths: Float[np.ndarray, " K"]
    token_cosines: Float[np.ndarray, " K"]
    context_cosines: Float[np.ndarray, " K"]

    def to_dict(self) -> dict[str, Any]:
        """The three numbers of each concept."""
        names = ("strengths", "token_cosines", "context_cosines")
        return {name: getattr(self, name).tolist() for name in names}


def concept_strengths(
    concepts: Concepts,
    classifier: Float[np.ndarray, "V D"],
    embeddings: Float[np.ndarray, "M E"],
) -> Float[np.ndarray, " K"]:
    """u' L v / s of each concept in logits L = classifier @ embeddings.T, which is never made."""
    _check(concepts, classifier, embeddings)
    left, right = concepts.tokens.T @ classifier, concepts.contexts.T @ embeddings  # (K, D)
    strengths: Float[np.ndarray, " K"] = (left * right).sum(axis=1) / concepts.singular_values
    return strengths


def align(
    concepts: Concepts,
    classifier: Float[np.ndarray, "V D"],
    embeddings: Float[np.ndarray, "M E"],
) -> Alignment:
    r"""The concepts in a model, after the best orthogonal alignment (Procrustes).

    The axes R minimise :math:`\lVert W/\lVert W\rVert - a\,U\Sigma^{1/2}R^T\rVert^2 +
    \lVert H/\lVert H\rVert - a\,V\Sigma^{1/2}R^T\rVert^2` for any a > 0, with W centred over
    tokens: a vector added to all of its rows changes no prediction. The two are scaled apart,
    since optimizers leave them at different norms.

    Raises:
        ValueError: Shapes that don't fit, or fewer dimensions than concepts.
    """
    _check(concepts, classifier, embeddings)
    width = classifier.shape[1]
    if width < concepts.n:
        raise ValueError(
            f"classifier: {width} dimensions (axis 1) can't hold {concepts.n} concepts on axes "
            f"of their own; take at most {width}"
        )
    centred = classifier - classifier.mean(axis=0)
    both = centred.T @ concepts.classifier / np.linalg.norm(centred)
    both = both + embeddings.T @ concepts.embeddings / np.linalg.norm(embeddings)  # (D, K)
    u, _, vt = np.linalg.svd(both, full_matrices=False)
    axes = u @ vt
    tokens, contexts = centred @ axes, embeddings @ axes
    return Alignment(
        axes,
        tokens,
        contexts,
        concept_strengths(concepts, classifier, embeddings),
        _cosines(tokens, concepts.tokens),
        _cosines(contexts, concepts.contexts),
    )


def _cosines(
    left: Float[np.ndarray, "N K"], right: Float[np.ndarray, "N K"]
) -> Float[np.ndarray, " K"]:
    """Column by column, of a model's projections (left) with unit vectors.

    NaN where the model has nothing: below 1e-12 of its strongest, rounding alone.
    """
    norms = np.linalg.norm(left, axis=0)
    there = norms > 1e-12 * norms.max(initial=0.0)
    dots = (left * right).sum(axis=0)
    cosines: Float[np.ndarray, " K"] = np.full(len(norms), np.nan)
    cosines[there] = dots[there] / norms[there]
    return cosines


def _check(
    concepts: Concepts,
    classifier: Float[np.ndarray, "V D"],
    embeddings: Float[np.ndarray, "M E"],
) -> None:
    wanted = (
        ("classifier", classifier, len(concepts.tokens), "tokens"),
        ("embeddings", embeddings, len(concepts.contexts), "contexts"),
    )
    for name, matrix, rows, what in wanted:
        if len(matrix) != rows:
            raise ValueError(f"{name}: {len(matrix)} rows (axis 0), expected one of {rows} {what}")
    if classifier.shape[1] != embeddings.shape[1]:
        raise ValueError(
            f"embeddings: width {embeddings.shape[1]} (axis 1), expected the classifier's, "
            f"{classifier.shape[1]}"
        )
