"""Does the geometry of a fact tell whether it is recalled, beyond the model's own outputs?

A table of facts has a line a run and fact: run, arm, n_facts, exposures, seed, fact_id, position
("front", "back"), recalled, log_probability (of the answer after the question, nats),
log_probability_seen (after the sentence that was trained), answer_start (words before the answer
over all), answer_words, verbatim (whether the question is the masked sentence), and what
`fact_geometry` gives.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import false_discovery_control

from studies.recall_geometry.gain import PERMUTATIONS, Gain, recall_gain
from studies.recall_geometry.geometry import FEATURES, regressors

CELL = ("arm", "n_facts", "exposures")  # runs that differ in nothing but the seed
OF_THE_SENTENCE = ("answer_start", "answer_words", "verbatim", "longer")
# What is known without geometry: the model's own belief in the answer; all that its outputs say of
# it; and what the sentence says, since variants of answers at its ends are of other kinds.
BASELINES = {
    "log-probability": ("log_probability",),
    "outputs": ("log_probability", "log_probability_seen", "logit_margin"),
    "log-probability, answer": ("log_probability", *OF_THE_SENTENCE),
}
BLOCKS = {
    "collapse": tuple(one.name for one in FEATURES if one.block == "collapse"),
    "question": tuple(one.name for one in FEATURES if one.block == "question"),
    "all": tuple(one.name for one in FEATURES),
}
POSITIONS = ("all", "front", "back")


def recall_statistics(
    table: pd.DataFrame, *, permutations: int = PERMUTATIONS, seed: int = 0
) -> pd.DataFrame:
    """What each block of geometry, and each feature, adds to each baseline.

    Facts that lack a number in a run of the cell are left out of all its runs, and counted.
    Features one by one, and positions, have the first baseline only.

    Args:
        table: Of facts.
        permutations: For p.
        seed: Of folds, permutations and resamples.

    Returns:
        A line a cell, position, baseline and geometry ("collapse", "question", "all" or a
        feature): seeds, n, n_facts_used, excluded (facts), recalled (share), auc_baseline,
        auc_geometry, auc_both, loss_baseline, loss_geometry, loss_both, gain (nats an answer), low,
        high, p, q (p of the features one by one, Benjamini-Hochberg within the cell; NaN for
        blocks), reason.
    """
    first = next(iter(BASELINES))
    lines: list[dict[str, Any]] = []
    for key, cell in table.groupby(list(CELL), sort=False):
        named = dict(zip(CELL, key, strict=True))
        asked = [(baseline, block, "all") for baseline in BASELINES for block in BLOCKS]
        asked += [(first, block, where) for where in POSITIONS[1:] for block in BLOCKS]
        asked += [(first, one.name, "all") for one in FEATURES]
        found: list[dict[str, Any]] = []
        for baseline, geometry, where in asked:
            rows = cell if where == "all" else cell[cell["position"] == where]
            names = BLOCKS.get(geometry, (geometry,))
            line, gain = _line(rows, BASELINES[baseline], names, permutations, seed)
            asked_of = {"position": where, "baseline": baseline, "geometry": geometry}
            found.append(named | asked_of | line | _columns(gain))
        lines += _corrected(found)
    return pd.DataFrame(lines)


def _line(
    rows: pd.DataFrame,
    baseline: Sequence[str],
    geometry: Sequence[str],
    permutations: int,
    seed: int,
) -> tuple[dict[str, Any], Gain]:
    runs = sorted(rows["run"].unique())
    numbers = rows.assign(**regressors(rows))[["run", "fact_id", *baseline, *geometry, "recalled"]]
    columns = [*baseline, *geometry, "recalled"]
    stacked = [numbers[numbers["run"] == run].set_index("fact_id")[columns] for run in runs]
    every = sorted(rows["fact_id"].unique())
    cube = np.stack([one.reindex(every).to_numpy(float) for one in stacked], axis=1)  # (F, S, n)
    whole = np.isfinite(cube).all((1, 2))
    kept: Float[np.ndarray, "F S n"] = cube[whole]
    parts = np.split(kept, [len(baseline), -1], axis=2)
    gain = recall_gain(
        parts[0], parts[1], parts[2][:, :, 0] > 0, permutations=permutations, seed=seed
    )
    return {"seeds": len(runs), "excluded": int((~whole).sum())}, gain


def _columns(gain: Gain) -> dict[str, Any]:
    fits = {"baseline": gain.baseline, "geometry": gain.beyond, "both": gain.both}
    return (
        {"n": gain.n, "n_facts_used": gain.n_facts, "recalled": gain.share}
        | {f"auc_{name}": fit.auc for name, fit in fits.items()}
        | {f"loss_{name}": fit.loss for name, fit in fits.items()}
        | {"gain": gain.gain, "low": gain.low, "high": gain.high, "p": gain.p}
        | {"q": np.nan, "reason": gain.reason}
    )


def _corrected(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    single = [one for one in lines if one["geometry"] not in BLOCKS and one["p"] == one["p"]]
    if single:
        found = false_discovery_control([one["p"] for one in single])
        for one, q in zip(single, found, strict=True):
            one["q"] = float(q)
    return lines
