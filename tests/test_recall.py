import numpy as np
import pandas as pd
import pytest

from studies.recall_geometry.gain import recall_gain
from studies.recall_geometry.geometry import FEATURES
from studies.recall_geometry.recall import BASELINES, BLOCKS, POSITIONS, recall_statistics
from studies.recall_geometry.section import draw


def facts_of_runs(n_facts=60, seeds=(0, 1), knows="margin"):
    """Recall goes with the log-probability and with one feature; all others are noise."""
    frames = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        table = pd.DataFrame({"fact_id": [f"f{i:02}" for i in range(n_facts)]})
        for one in FEATURES:
            noise = rng.normal(size=n_facts)
            table[one.name] = np.exp(noise) if one.log else noise
        table["log_probability"] = rng.normal(size=n_facts)
        table["log_probability_seen"] = rng.normal(size=n_facts)
        table["logit_margin"] = rng.normal(size=n_facts)
        table["answer_start"] = rng.random(n_facts)
        table["answer_words"] = rng.integers(1, 5, n_facts)
        table["verbatim"] = rng.random(n_facts) < 0.5
        table["longer"] = rng.integers(0, 3, n_facts)
        table["position"] = np.where(np.arange(n_facts) % 6 == 0, "back", "front")
        odds = 2 * table["log_probability"] + 4 * table[knows]
        table["recalled"] = rng.random(n_facts) < 1 / (1 + np.exp(-odds))
        about = {"arm": "clm_sp", "n_facts": n_facts, "exposures": 5, "seed": seed}
        frames.append(table.assign(**about, run=f"r{seed}"))
    return pd.concat(frames, ignore_index=True)


@pytest.fixture(scope="module")
def statistics():
    shuffled = facts_of_runs().sample(frac=1, random_state=0)  # the order of lines is no matter
    return recall_statistics(shuffled, permutations=39).set_index(
        ["position", "baseline", "geometry"]
    )


def test_there_is_a_line_for_each_question(statistics):
    blocks = {("all", baseline, block) for baseline in BASELINES for block in BLOCKS}
    parts = {(where, "log-probability", block) for where in POSITIONS[1:] for block in BLOCKS}
    single = {("all", "log-probability", one.name) for one in FEATURES}
    assert set(statistics.index) == blocks | parts | single
    assert (statistics["seeds"] == 2).all()


def test_the_feature_that_knows_is_found_and_its_block(statistics):
    every = statistics.loc["all"].loc["log-probability"]
    assert every.loc["margin", "p"] == every.loc["question", "p"] == 1 / 40
    assert every.loc["margin", "q"] <= 8 / 40
    assert every.loc["question", "gain"] > 5 * abs(every.loc["collapse", "gain"])
    assert every.loc["margin", "gain"] > 5 * abs(every.loc["rank", "gain"])
    assert every.loc["margin", "auc_geometry"] > 0.7 > every.loc["rank", "auc_geometry"]


def test_p_of_single_features_is_corrected_within_the_cell_and_that_of_blocks_is_not(statistics):
    every = statistics.loc["all"].loc["log-probability"]
    p = every.loc[[one.name for one in FEATURES], "p"].sort_values()
    # Benjamini-Hochberg by its definition: the least over higher ranks of p * n / rank.
    raised = p.to_numpy() * len(p) / np.arange(1, len(p) + 1)
    q = np.minimum.accumulate(raised[::-1])[::-1].clip(max=1)
    assert every.loc[p.index, "q"].tolist() == pytest.approx(q.tolist())
    assert every.loc[list(BLOCKS), "q"].isna().all()


def test_a_line_is_recall_gain_of_its_columns(statistics):
    table = facts_of_runs()
    cube = [
        np.stack([table[table["run"] == run][name] for run in ("r0", "r1")], axis=1)
        for name in ("log_probability", "margin", "recalled")
    ]
    expected = recall_gain(
        cube[0][..., None].astype(float), cube[1][..., None].astype(float), cube[2].astype(bool),
        permutations=39,
    )  # fmt: skip
    line = statistics.loc[("all", "log-probability", "margin")]
    assert line[["gain", "low", "high", "p"]].tolist() == pytest.approx(
        [expected.gain, expected.low, expected.high, expected.p], abs=1e-12
    )


def test_few_facts_at_the_back_have_a_reason_and_no_number(statistics):
    back = statistics.loc["back"]
    assert back["gain"].isna().all()
    assert back["reason"].str.contains("fewer than 10").all()


def test_a_fact_that_lacks_a_number_in_one_run_is_left_out_of_all_and_counted():
    table = facts_of_runs()
    table.loc[3, "variance"] = 0  # its logarithm is no number
    table = table.drop(index=7)  # a fact that one run has and the other has not
    found = recall_statistics(table, permutations=1).set_index(["position", "baseline", "geometry"])
    every = found.loc["all"].loc["log-probability"]
    assert every.loc["collapse", ["n_facts_used", "excluded", "n"]].tolist() == [58, 2, 116]
    assert every.loc["question", ["n_facts_used", "excluded", "n"]].tolist() == [59, 1, 118]


def test_the_figure_shows_the_share_recalled_by_fifths():
    table = facts_of_runs(50, seeds=(0,))
    axes = draw(table).axes
    [line] = axes[3].get_lines()
    ordered = table.sort_values("margin")["recalled"].to_numpy(float).reshape(5, 10)
    assert line.get_ydata() == pytest.approx(100 * ordered.mean(1))
    assert [axis.get_xscale() for axis in axes] == ["linear", "log", "log", "linear"]
