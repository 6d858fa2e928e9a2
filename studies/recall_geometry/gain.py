"""Do some numbers tell more than others about who is right? Cross-validated logistic regression.

A baseline and further predictors of a yes or no, with and without each other; folds, permutations
and resamples are of groups (facts), since the rows of a group (a fact under several seeds) are
right or wrong together.

Axes: N rows, F facts, S seeds, d and e predictors of the baseline and beyond it, P fits at once.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from studies.recall_geometry.logistic import fit_logistic
from tightframe.knowledge.intervals import estimates

FOLDS = 5
PERMUTATIONS = 200
HELD = 4_000_000  # numbers of predictors held at once; memory only, never the result
FEWEST = 10  # facts on either side; with fewer, folds hold next to none of them

Fold = tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]  # rows of training, rows of test


class Fit(NamedTuple):
    """How well predictors foretell the outcome out of fold."""

    auc: float = math.nan  # in [0, 1]; 0.5 is chance, of the pooled out-of-fold log odds
    loss: float = math.nan  # mean log loss, nats a row


class Gain(NamedTuple):
    """What further predictors add to a baseline; NaN with a `reason` where that is undefined."""

    n: int  # rows
    n_facts: int
    share: float  # of the rows whose outcome is yes
    baseline: Fit = Fit()
    beyond: Fit = Fit()  # the further predictors alone
    both: Fit = Fit()
    gain: float = math.nan  # loss of the baseline less that of both, nats a row; above 0 is better
    low: float = math.nan  # 95 % over facts, of these out-of-fold losses
    high: float = math.nan
    p: float = math.nan  # one-sided, of permutations; the least is 1 / (permutations + 1)
    reason: str = ""


def recall_gain(
    baseline: Float[np.ndarray, "F S d"],
    beyond: Float[np.ndarray, "F S e"],
    outcome: Bool[np.ndarray, "F S"],
    *,
    folds: int = FOLDS,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Gain:
    """The out-of-fold gain of further predictors over a baseline, and how often chance gives it.

    Each fold standardises by its training part and fits a logistic regression (ridge, C = 1).
    A permutation deals what a least-squares line on the baseline leaves of the further predictors
    to other facts, all predictors and seeds of a fact together, and adds the line again: so what
    the further predictors share with the baseline is in every permutation, and what the seeds of
    a fact share as well.

    Args:
        baseline: Predictors that are known anyway; finite.
        beyond: Predictors that may add to them; finite.
        outcome: Yes or no.
        folds: Parts of the facts.
        permutations: For p.
        seed: Of folds, permutations and resamples.
    """
    n_facts, n_seeds = outcome.shape
    facts = np.repeat(np.arange(n_facts), n_seeds)
    known, more = (part.reshape(len(facts), part.shape[-1]) for part in (baseline, beyond))
    y = outcome.ravel()
    sizes = len(y), n_facts, float(y.mean()) if len(y) else math.nan
    sides = int(outcome.any(1).sum()), int((~outcome).any(1).sum())
    if min(sides) < FEWEST:
        said = f"{sides[0]} facts with yes, {sides[1]} with no, fewer than {FEWEST}"
        return Gain(*sizes, reason=said)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    parts = list(splitter.split(known, y, facts))
    alone, others, together = (
        out_of_fold(x[None], y, parts)[0] for x in (known, more, np.hstack([known, more]))
    )
    losses = _losses(alone, y)
    gains = losses - _losses(together, y)
    interval = estimates(gains[:, None], facts, [None], seed=seed)[0]

    reached = sum(
        int((losses.mean() - by_chance >= gains.mean() - 1e-12).sum())
        for by_chance in _losses_by_chance(
            known, more, y, parts, n_facts=n_facts, permutations=permutations, seed=seed
        )
    )
    return Gain(
        *sizes,
        baseline=_fit(alone, y),
        beyond=_fit(others, y),
        both=_fit(together, y),
        gain=float(gains.mean()),
        low=interval.low,
        high=interval.high,
        p=(1 + reached) / (1 + permutations),
    )


def out_of_fold(
    x: Float[np.ndarray, "P N d"], y: Bool[np.ndarray, " N"], parts: Sequence[Fold]
) -> Float[np.ndarray, "P N"]:
    """Log odds of each row by the models that were fitted without its part."""
    odds = np.empty(x.shape[:2])
    for train, test in parts:
        held, others = x[:, train], x[:, test]
        centre, scale = held.mean(1, keepdims=True), held.std(1, keepdims=True)
        scale[scale == 0] = 1.0
        weights, intercepts = fit_logistic((held - centre) / scale, y[train])
        sloped = ((others - centre) / scale @ weights[:, :, None])[..., 0]
        odds[:, test] = sloped + intercepts[:, None]
    return odds


def _losses_by_chance(
    known: Float[np.ndarray, "N d"],
    more: Float[np.ndarray, "N e"],
    y: Bool[np.ndarray, " N"],
    parts: Sequence[Fold],
    *,
    n_facts: int,
    permutations: int,
    seed: int,
) -> Iterator[Float[np.ndarray, " P"]]:
    """Mean loss of both kinds of predictors in each permutation, as many at once as are held."""
    line = np.hstack([np.ones((len(y), 1)), known])
    fitted = line @ np.linalg.lstsq(line, more, rcond=None)[0]
    left = (more - fitted).reshape(n_facts, -1, more.shape[1])  # (F, S, e)
    generator = np.random.default_rng(seed)
    step = max(1, HELD // (len(y) * (known.shape[1] + more.shape[1])))
    for start in range(0, permutations, step):
        orders = [generator.permutation(n_facts) for _ in range(min(step, permutations - start))]
        dealt = np.stack([fitted + left[order].reshape(more.shape) for order in orders])
        same = np.broadcast_to(known, (len(orders), *known.shape))
        found = out_of_fold(np.concatenate([same, dealt], axis=2), y, parts)  # (P, N)
        yield _losses(found, y).mean(-1)


def _losses(
    odds: Float[np.ndarray, "*P N"], y: Bool[np.ndarray, " N"]
) -> Float[np.ndarray, "*P N"]:
    losses: Float[np.ndarray, "*P N"] = np.logaddexp(0, np.where(y, -odds, odds))
    return losses


def _fit(odds: Float[np.ndarray, " N"], y: Bool[np.ndarray, " N"]) -> Fit:
    return Fit(float(roc_auc_score(y, odds)), float(_losses(odds, y).mean()))
