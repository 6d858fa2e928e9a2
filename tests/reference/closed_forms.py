"""Supports whose predicted geometry is a formula: what solvers and trained models are checked by.

In every case here the centred support matrix is optimal. Tokens (and contexts) fall into *levels*
whose members have equal norms and equal cosines; a level's name is a key of the result.

Axes: B blocks of tokens.
"""

import dataclasses
import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Float

Case: TypeAlias = Literal["one-hot", "two levels", "subsets", "design", "blocks"]
Values: TypeAlias = dict[str, float]


@dataclasses.dataclass(frozen=True)
class ClosedForm:
    """The geometry of L_mm = U Sg V^T, for W = U Sg^(1/2) and Hm = Sg^(1/2) V^T.

    Attributes:
        nuclear_norm: ||L_mm||_*, the least possible.
        classifier_norms: Squared norm of a word embedding, by level.
        classifier_cosines: Of two different word embeddings; "a, b" is between levels.
        embedding_norms: Squared norm of a context embedding, by level.
        embedding_cosines: Of two contexts with different supports; the key says which two.
    """

    nuclear_norm: float
    classifier_norms: Values
    classifier_cosines: Values
    embedding_norms: Values
    embedding_cosines: Values

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return dataclasses.asdict(self)


def closed_form(case: str, **parameters: Any) -> ClosedForm:
    """One case by its name, with the arguments of its function here.

    "one-hot" is `one_hot`, "two levels" is `two_levels`, and so on.

    Raises:
        ValueError: There is no such case, or a parameter can't be (each function says which).
    """
    match case:
        case "one-hot":
            return one_hot(**parameters)
        case "two levels":
            return two_levels(**parameters)
        case "subsets":
            return subsets(**parameters)
        case "design":
            return design(**parameters)
        case "blocks":
            return blocks(**parameters)
    raise ValueError(f"case: {case!r}, expected one of {', '.join(get_args(Case))}")


def one_hot(*, tokens: int, contexts: int) -> ClosedForm:
    """Each of V tokens alone after `contexts` contexts: neural collapse, a simplex ETF.

    .. math:: \\lVert L \\rVert_* = (V - 1) \\sqrt c
    """
    _at_least("tokens", tokens, 2)
    _at_least("contexts", contexts, 1)
    scale, own, cosine = math.sqrt(contexts), 1 - 1 / tokens, -1 / (tokens - 1)
    return ClosedForm(
        (tokens - 1) * scale,
        {"all": scale * own},
        {"all": cosine},
        {"all": own / scale},
        {"all": cosine},
    )


def two_levels(*, classes: int, ratio: int) -> ClosedForm:
    """One-hot, imbalanced (SELI): half of K tokens follow R contexts each, the others one each.

    Levels "majority" and "minority"; cosines of contexts are between different tokens.

    Source: Thrampoulidis et al. (2022), arXiv:2208.05512, without normalisation of the Grams.
    """
    _at_least("classes", classes, 4)
    if classes % 2:
        raise ValueError(f"classes: {classes}, expected an even number, half of them majority")
    _at_least("ratio", ratio, 1)
    k, root, a = classes, math.sqrt(ratio), math.sqrt((ratio + 1) / 2)
    rest = 1 - 2 / k
    words = {"majority": root * rest + a / k, "minority": rest + a / k}
    contexts = {"majority": rest / root + 1 / (k * a), "minority": rest + 1 / (k * a)}

    def between(pairs: float, norms: Values) -> float:
        return pairs / math.sqrt(norms["majority"] * norms["minority"])

    return ClosedForm(
        (k / 2 - 1) * (root + 1) + a,
        words,
        {
            "majority": (-2 * root + a) / ((k - 2) * root + a),
            "minority": (-2 + a) / ((k - 2) + a),
            "majority, minority": between(-a / k, words),
        },
        contexts,
        {
            "majority": (-2 / root + 1 / a) / ((k - 2) / root + 1 / a),
            "minority": (-2 + 1 / a) / ((k - 2) + 1 / a),
            "majority, minority": between(-1 / (k * a), contexts),
        },
    )


def subsets(*, tokens: int, sizes: Sequence[int]) -> ClosedForm:
    """Every subset of V tokens with a size in `sizes` is the support of one context: W an ETF.

    .. math:: \\lVert L \\rVert_* = (V - 1) \\Bigl(\\sum_k \\tbinom{V-2}{k-1}\\Bigr)^{1/2}

    Levels of contexts: "3" is support size 3; "2, 3 sharing 1" two supports with one common token.
    """
    _at_least("tokens", tokens, 2)
    if not sizes or len(set(sizes)) < len(sizes):
        raise ValueError(f"sizes: {list(sizes)}, expected different support sizes, at least one")
    for size in sizes:
        if not 1 <= size < tokens:
            raise ValueError(f"sizes: {size}, expected 1 to {tokens - 1} of {tokens} tokens")
    between = {
        (k, other, overlap)
        for k, other in _pairs(sizes)
        for overlap in range(max(0, k + other - tokens), min(k, other) + 1)
        if (k, overlap) != (other, k)  # one and the same support
    }
    squared = sum(math.comb(tokens - 2, size - 1) for size in sizes)
    return _tight_frame(tokens, squared, sizes, between)


def design(*, points: int, replication: int, concurrence: int) -> ClosedForm:
    """The blocks of a 2-design are the supports: W is an ETF.

    Args:
        points: v, the tokens.
        replication: r, the blocks that a token is in.
        concurrence: lam, the blocks that two tokens share; r (k - 1) = lam (v - 1).

    .. math:: \\lVert L \\rVert_* = (v - 1) \\sqrt{r - \\lambda}

    Cosines of contexts are given for every overlap that two blocks of this size may have.
    """
    _at_least("points", points, 2)
    _at_least("replication", replication, 1)
    if not 0 <= concurrence < replication:
        raise ValueError(f"concurrence: {concurrence}, expected 0 to replication - 1")
    size, rest = divmod(concurrence * (points - 1), replication)
    if rest or (points * replication) % (size + 1):
        raise ValueError(
            f"points: there is no 2-design on {points} with replication {replication} and "
            f"concurrence {concurrence}; its block size or number of blocks is no whole number"
        )
    size += 1
    if replication < size:  # Fisher's inequality: at least as many blocks as points
        raise ValueError(
            f"replication: {replication} is below the block size {size}; there is no such 2-design"
        )
    between = {(size, size, overlap) for overlap in range(max(0, 2 * size - points), size)}
    return _tight_frame(points, replication - concurrence, [size], between)


def blocks(*, tokens: Sequence[int], contexts: Sequence[int]) -> ClosedForm:
    """B disjoint blocks: each token of block b follows each of its contexts, and no other.

    Args:
        tokens: t, how many tokens each block has.
        contexts: c, how many contexts.

    Levels "0", "1", ... are blocks; within one, all tokens and all contexts are equal. For equal
    blocks the nuclear norm is (B - 1) sqrt(t c), else it is that of the B x B matrix

    .. math:: \\sqrt{t_b c_{b'}} \\, (\\delta_{bb'} - t_{b'} / V)
    """
    if len(tokens) < 2:
        raise ValueError(f"tokens: {len(tokens)} blocks, expected at least 2")
    if len(contexts) != len(tokens):
        raise ValueError(f"contexts: {len(contexts)} blocks, expected {len(tokens)} as in tokens")
    for name, counts in (("tokens", tokens), ("contexts", contexts)):
        for block, count in enumerate(counts):
            if count < 1:
                raise ValueError(f"{name}: {count} in block {block}, expected at least 1")
    t, c = np.array(tokens, dtype=float), np.array(contexts, dtype=float)
    centred = np.eye(len(t)) - t / t.sum()
    left, values, right = np.linalg.svd(np.sqrt(t)[:, None] * centred * np.sqrt(c))
    words = (left * values) @ left.T / np.sqrt(np.outer(t, t))
    embeddings = (right.T * values) @ right / np.sqrt(np.outer(c, c))
    return ClosedForm(
        float(values.sum()),
        _norms(words),
        _cosines(words),
        _norms(embeddings),
        _cosines(embeddings),
    )


def _tight_frame(
    tokens: int, squared: int, sizes: Sequence[int], between: set[tuple[int, int, int]]
) -> ClosedForm:
    """S~ S~^T = squared (I - 11^T/V), so S~ = sqrt(squared) times its polar factor."""
    scale = math.sqrt(squared)

    def product(k: int, other: int, overlap: int) -> float:
        return (overlap - k * other / tokens) / scale

    norms = {k: product(k, k, k) for k in sizes}
    return ClosedForm(
        (tokens - 1) * scale,
        {"all": scale * (1 - 1 / tokens)},
        {"all": -1 / (tokens - 1)},
        {str(k): norm for k, norm in norms.items()},
        {
            f"{k}, {other} sharing {overlap}": product(k, other, overlap)
            / math.sqrt(norms[k] * norms[other])
            for k, other, overlap in sorted(between)
        },
    )


def _pairs(sizes: Sequence[int]) -> list[tuple[int, int]]:
    return [(k, k) for k in sizes] + list(combinations(sorted(sizes), 2))


def _norms(gram: Float[np.ndarray, "B B"]) -> Values:
    return {str(block): float(value) for block, value in enumerate(np.diag(gram))}


def _cosines(gram: Float[np.ndarray, "B B"]) -> Values:
    norms = np.sqrt(np.diag(gram))
    return {
        f"{a}, {b}": float(gram[a, b] / (norms[a] * norms[b]))
        for a, b in combinations(range(len(gram)), 2)
    }


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name}: {value}, expected at least {least}")
