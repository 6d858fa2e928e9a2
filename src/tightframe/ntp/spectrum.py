"""Singular triplets of the centred support matrix, without ever forming it.

S~ = S - 1 (1^T S)/V is dense, S is sparse: products with S~ are products with S, and a mean taken
off. The leading triplets come from Lanczos iteration (ARPACK) on the smaller of S~ S~^T and
S~^T S~, as an operator: at V = 10^4 that is up to twice as fast as with the sparse Gram of
S formed, and three to five times as fast as block methods.

Axes: V tokens, M contexts, K triplets.
"""

import dataclasses

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

NULL = 1e-6  # singular values at most this share of the largest belong to the null part


@dataclasses.dataclass(frozen=True, eq=False)
class Triplets:
    """The leading singular triplets of a matrix, largest first; those of its null part left out.

    Attributes:
        left: (V, K), orthonormal columns; the largest entry of each is positive.
        singular_values: (K,).
        right: (M, K), orthonormal columns.
        residuals: (K,), the larger of ||S~ v - s u|| and ||S~^T u - s v||, over s; recomputed.
    """

    left: Float[np.ndarray, "V K"]
    singular_values: Float[np.ndarray, " K"]
    right: Float[np.ndarray, "M K"]
    residuals: Float[np.ndarray, " K"]


class CentredSupport:
    """S~ as an operator: diag(sqrt r) (S - 1 (r^T S)/sum(r)) diag(sqrt c), never dense.

    Args:
        support: S (V, M), sparse, 0/1 or boolean.
        row_counts: r (V,), how many tokens each row stands for; one each by default.
        column_counts: c (M,), how many contexts each column stands for.
    """

    def __init__(
        self,
        support: sp.csc_array,
        row_counts: Float[np.ndarray, " V"] | None = None,
        column_counts: Float[np.ndarray, " M"] | None = None,
    ) -> None:
        rows, columns = support.shape
        r = np.ones(rows) if row_counts is None else row_counts
        c = np.ones(columns) if column_counts is None else column_counts
        scaled = sp.diags_array(np.sqrt(r)) @ support.astype(float) @ sp.diags_array(np.sqrt(c))
        self.matrix = sp.csr_array(scaled)
        self._transposed = sp.csr_array(scaled.T)
        self._unit = np.sqrt(r / r.sum())  # S~ is S made orthogonal to it

    @property
    def shape(self) -> tuple[int, int]:
        """(V, M)."""
        rows, columns = self.matrix.shape
        return int(rows), int(columns)

    def times(self, x: Float[np.ndarray, "M ..."]) -> Float[np.ndarray, "V ..."]:
        """S~ x."""
        return self._centre(self.matrix @ x)

    def transposed_times(self, y: Float[np.ndarray, "V ..."]) -> Float[np.ndarray, "M ..."]:
        """S~^T y."""
        product: Float[np.ndarray, "M ..."] = self._transposed @ self._centre(y)
        return product

    def dense(self) -> Float[np.ndarray, "V M"]:
        """S~ itself, for small ones."""
        return self._centre(self.matrix.toarray())

    def _centre(self, y: Float[np.ndarray, "V ..."]) -> Float[np.ndarray, "V ..."]:
        along = self._unit @ y
        return y - (self._unit * along if y.ndim == 1 else np.outer(self._unit, along))


def leading_triplets(
    centred: CentredSupport, rank: int, *, tolerance: float = 1e-10, seed: int = 0
) -> Triplets:
    """The `rank` largest singular triplets, by Lanczos iteration on the smaller side.

    Args:
        centred: The matrix, as an operator.
        rank: How many, at least 1 and below both of its sides; fewer come back if the rest is null.
        tolerance: Relative, on the eigenvalues of the iterated side; triplets have a residual below
            it, too, save where a singular value is tiny beside the largest.
        seed: Of the starting vector.

    Raises:
        ValueError: `rank` or `tolerance` is out of range, or the iteration did not converge.
    """
    rows, columns = centred.shape
    if not 1 <= rank < min(rows, columns):
        raise ValueError(f"rank: {rank}, expected 1 to {min(rows, columns) - 1} of {centred.shape}")
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance: {tolerance}, expected between 0 and 1")
    on_tokens = rows <= columns
    side = min(rows, columns)

    def squared(x: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
        if on_tokens:
            return centred.times(centred.transposed_times(x))
        return centred.transposed_times(centred.times(x))

    operator = LinearOperator((side, side), matvec=squared, dtype=np.float64)
    start = np.random.default_rng(seed).normal(size=side)
    try:
        values, vectors = eigsh(operator, k=rank, which="LA", tol=tolerance, v0=start)
    except ArpackNoConvergence as error:
        raise ValueError(
            f"tolerance: {tolerance} was not reached for {rank} triplets ({error}); "
            "ask for fewer, or a larger tolerance"
        ) from None
    values = np.sqrt(np.maximum(values[::-1], 0))
    kept = values > NULL * values[0]
    singular_values, vectors = values[kept], vectors[:, ::-1][:, kept]
    other = centred.transposed_times(vectors) if on_tokens else centred.times(vectors)
    other = other / singular_values
    left, right = (vectors, other) if on_tokens else (other, vectors)
    return Triplets(
        *signed(left, singular_values, right), residuals(centred, left, singular_values, right)
    )


def dense_triplets(centred: CentredSupport) -> Triplets:
    """All triplets but the null part, by a dense decomposition."""
    matrix = centred.dense()
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    kept = values > NULL * values[0]
    left, values, transposed = left[:, kept], values[kept], right[kept].T
    return Triplets(*signed(left, values, transposed), residuals(centred, left, values, transposed))


def residuals(
    centred: CentredSupport,
    left: Float[np.ndarray, "V K"],
    singular_values: Float[np.ndarray, " K"],
    right: Float[np.ndarray, "M K"],
) -> Float[np.ndarray, " K"]:
    """Of each triplet, relative to its singular value."""
    tokens = np.linalg.norm(centred.times(right) - left * singular_values, axis=0)
    contexts = np.linalg.norm(centred.transposed_times(left) - right * singular_values, axis=0)
    relative: Float[np.ndarray, " K"] = np.maximum(tokens, contexts) / singular_values
    return relative


def signed(
    left: Float[np.ndarray, "V K"],
    singular_values: Float[np.ndarray, " K"],
    right: Float[np.ndarray, "M K"],
) -> tuple[Float[np.ndarray, "V K"], Float[np.ndarray, " K"], Float[np.ndarray, "M K"]]:
    """The same triplets with the entry of largest size of each left vector positive.

    Of entries equal to rounding the first decides.
    """
    sizes = np.abs(left)
    largest = np.argmax(sizes >= sizes.max(axis=0) * (1 - 1e-9), axis=0)
    signs = np.sign(left[largest, np.arange(left.shape[1])])
    return left * signs, singular_values, right * signs
