import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from studies.laboratory.judge import (
    differences,
    models,
    paired,
    slopes,
    tied_against_untied,
    verdicts,
)
from studies.laboratory.run import CORPORA, HERE, write_verdicts
from tightframe.geometry.study import measure_model
from tightframe.jobs import sweep
from tightframe.lm.training import train
from tightframe.results import write_csv
from tightframe.settings import read_toml
from tiny_runs import tiny_settings
from tiny_tokens import write_tokens

DESIGN = read_toml(HERE / "design.toml")
MEASURES = {*DESIGN["measure"].values(), "nc4_rate"}


def laboratory(*, effects, moves, noise=0.01, seed=0):
    """Models whose loss and measures change by so much with each rank of a regularizer."""
    rng = np.random.default_rng(seed)
    rows = []
    for number, tied in itertools.product(DESIGN["tied_seeds"], (True, False)):
        rows.append({"seed": number, "tied": tied, "regularizer": "none", "strength": 0.0})
    for name, number, rank in itertools.product(DESIGN["measure"], DESIGN["seeds"], (1, 2, 3)):
        row = {"seed": number, "tied": True, "regularizer": name, "strength": rank / 10}
        rows.append(row | {"rank": rank})
    table = pd.DataFrame(rows).fillna({"rank": 0})
    at_start = rng.normal(5, 1, 20)  # of each seed: pairing takes it away
    table["val_loss"] = at_start[table["seed"]] + rng.normal(0, noise, len(table))
    table["val_loss"] += table["rank"] * table["regularizer"].map(effects).fillna(0)
    for measure in MEASURES:
        table[measure] = rng.normal(0, noise, len(table))
        own = table["regularizer"].map(lambda name, m=measure: DESIGN["measure"].get(name) == m)
        table.loc[own, measure] += (table["rank"] * table["regularizer"].map(moves))[own]
    return table


EFFECTS = {"dispersion": 0.5, "class_dispersion": -0.5, "cdnv": 0.5, "duality": 0.0}
MOVES = {"dispersion": -1, "class_dispersion": -1, "cdnv": 1, "duality": 1}


def test_the_rule_gives_each_verdict():
    # cdnv moves its measure to the wrong side, so its loss is not judged however it changes.
    found = verdicts(laboratory(effects=EFFECTS, moves=MOVES), DESIGN).set_index("regularizer")
    assert found["verdict"].to_dict() == {
        "dispersion": "raises the loss",
        "class_dispersion": "lowers the loss",
        "cdnv": "not judged: its measure did not move as intended",
        "duality": "undecided",
    }
    assert found.loc["dispersion", "loss_mean"] == pytest.approx(0.5, abs=0.02)
    assert (found["loss_p_holm"] >= found["loss_p"]).all()


def test_a_missing_model_is_named_and_still_counted():
    table = laboratory(effects=EFFECTS, moves=MOVES)
    gone = (table["regularizer"] == "cdnv") & (table["seed"] == 2) & (table["rank"] == 3)
    found = verdicts(table[~gone], DESIGN).set_index("regularizer")
    assert found.loc["cdnv", "verdict"] == "models are missing"
    first = found["loss_p"].min()
    assert found["loss_p_holm"].min() == pytest.approx(4 * first)
    assert "duality" in {*differences(table[~gone], DESIGN)["regularizer"]}


def test_paired_numbers_are_those_of_scipy():
    values = np.random.default_rng(0).normal(0.3, 1, (4, 4))
    expected = [stats.linregress(np.arange(4), row).slope for row in values]
    np.testing.assert_allclose(slopes(values), expected, rtol=1e-12)
    found, test = paired(slopes(values)), stats.ttest_1samp(expected, 0)
    assert found.p == pytest.approx(test.pvalue, rel=1e-10)
    interval = test.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-10)


def test_untied_embeddings_are_compared_by_seed():
    tables = {name: laboratory(effects=EFFECTS, moves=MOVES, seed=n) for n, name in enumerate("ab")}
    for table in tables.values():
        table.loc[~table["tied"], "val_loss"] += 0.2
    found = tied_against_untied(tables, DESIGN)
    losses = found[found["of"] == "val_loss"]
    assert losses["mean"].to_numpy() == pytest.approx([0.2, 0.2], abs=0.02)
    assert (losses["p_holm"] < 0.05).all()
    assert found.loc[found["of"] != "val_loss", "p"].isna().all()


def test_plans_are_those_of_the_design(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for corpus in CORPORA:
        runs = sweep.read_sweep(HERE / f"{corpus}.toml", sizes=False).runs.values()
        plain = [run for run in runs if "regularizer" not in run]
        assert len(plain) == 2 * len(DESIGN["tied_seeds"])
        for name in DESIGN["measure"]:
            pushed = [run for run in runs if run.get("regularizer") == name]
            assert {run["seed"] for run in pushed} == {*DESIGN["seeds"]}
            assert len({run["strength"] for run in pushed}) == DESIGN["strengths"]
        assert 100 not in {run["seed"] for run in runs}  # the pilot's


def test_trained_models_become_rows(tmp_path):
    tokens = write_tokens(tmp_path / "tokens")
    for number, name in enumerate((None, "cdnv")):
        folder = tmp_path / "sweep" / "runs" / f"run{number}"
        settings = tiny_settings(tokens, folder, regularizer=name, strength=name and 0.1)
        run = train(dataclasses.replace(settings, seed=number))
        options = sweep.MeasureOptions(measures=("nc3_cos_mean", "nc4_rate"), min_count=2, groups=1)
        measure_model(str(run.path), options, lambda line: None)
    table = models(tmp_path / "sweep", ["nc3_cos_mean", "nc4_rate"])
    assert table["regularizer"].tolist() == ["none", "cdnv"]
    assert table["val_loss"].iloc[1] == run.log[-1]["val_loss"]
    assert table[["classifier_log_kernel", "nc3_cos_mean"]].notna().all(axis=None)


def test_tables_and_figure_are_written_from_the_rows(tmp_path):
    for corpus in CORPORA:
        write_csv(tmp_path / f"{corpus}.csv", laboratory(effects=EFFECTS, moves=MOVES))
    assert "raises the loss" in write_verdicts(tmp_path)
    for name in ("verdicts.csv", "differences.csv", "tied.csv", "laboratory.png"):
        assert (tmp_path / name).stat().st_size > 100
