import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import tightframe as tf
from reference.published_tables import published_tables
from tightframe import cli
from tightframe.analysis.published import OCTOBER, TABLE1, model_names
from tightframe.analysis.relate import relate
from tightframe.multiple_testing import adjusted

FAST = {"permutations": 199, "draws": 100}


def models(n=24, seed=0):
    """A table in which `width` rules both `m1` and y, and `m2` goes with y beside it."""
    rng = np.random.default_rng(seed)
    width = np.repeat([64, 128, 256, 512], n // 4)
    m2 = rng.normal(size=n)
    y = 3 - 0.3 * np.log(width) + 0.1 * m2 + 0.02 * rng.normal(size=n)
    return pd.DataFrame(
        {
            "run": [f"r{i}" for i in range(n)],
            "step": 100,
            "width": width,
            "family": np.array(["a", "b", "c", "d", "e", "f"])[np.arange(n) % 6],
            "m1": np.log(width) + 0.05 * rng.normal(size=n),
            "m2": m2,
            "noise": rng.normal(size=n),
            "val_loss": y,
            "score": -y + 0.05 * rng.normal(size=n),
        }
    )


def run(capsys, *words):
    cli.main(["relate", *map(str, words)])
    return capsys.readouterr().out


def refusal(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        cli.main(["relate", *map(str, words)])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_a_measure_that_follows_size_alone_is_nothing_beside_it():
    found = relate(models(), measures=["m1", "m2"], controls="log_width", clusters="run", **FAST)
    rows = found.table.set_index("measure")
    assert rows.loc["m1", "r"] < -0.9
    assert abs(rows.loc["m1", "partial_r"]) < 0.4
    assert rows.loc["m2", "partial_r"] > 0.9
    assert rows.loc["m1", "verdict"] != "supported"
    assert rows.loc["m2", "verdict"] == "supported"
    assert rows.loc["m2", "rank"] == 2
    assert "m2" in found.conclusion
    assert "log_width held fixed" in found.conclusion


def test_columns_are_what_they_say():
    table = models()
    row = relate(table, measures="m1", **FAST).table.iloc[0]
    x, y = table["m1"], table["val_loss"]
    assert row["r"] == pytest.approx(stats.pearsonr(x, y).statistic, rel=1e-12)
    assert row["r2"] == pytest.approx(row["r"] ** 2, rel=1e-12)
    assert row["r_log"] == pytest.approx(stats.pearsonr(np.log(x), y).statistic, rel=1e-12)
    assert row["spearman"] == pytest.approx(stats.spearmanr(x, y).statistic, rel=1e-12)
    assert (row["n"], row["clusters"]) == (24, 24)
    assert row["low"] < row["r"] < row["high"]
    assert row["p"] == 1 / 200
    assert row["p_plain"] == 0


def test_neither_order_of_rows_nor_units_matter():
    table = models()
    options = {"measures": ["m1", "noise"], "controls": "log_width", "family": "family", **FAST}
    found = relate(table, **options).table
    scaled = table.assign(m1=7e6 * table["m1"] - 3, val_loss=table["val_loss"] * 1e-5 + 40)
    exact = ["r", "r2", "spearman", "partial_r", "t_cr3", "gain_percent", "n"]
    same = relate(scaled.sample(frac=1, random_state=1), **options).table
    for name in exact:
        assert same[name].tolist() == pytest.approx(found[name].tolist(), rel=1e-6, abs=1e-9)
    turned = relate(table.assign(m1=-table["m1"]), **options).table
    assert turned["partial_r"][0] == pytest.approx(-found["partial_r"][0], rel=1e-9)


def test_two_seeds_agree_within_their_error():
    table = models(seed=3)
    one, other = (
        relate(table, measures="noise", permutations=4_000, draws=100, seed=seed).table["p"][0]
        for seed in (1, 2)
    )
    assert abs(one - other) < 3 * math.sqrt(2 * one * (1 - one) / 4_000)


def test_checkpoints_of_a_run_are_one_cluster():
    # Doubling each row changes no correlation, and says nothing new: the clusters stay 24.
    table = models()
    twice = pd.concat([table, table.assign(step=200)])
    once, both = (relate(one, measures="noise", **FAST).table.iloc[0] for one in (table, twice))
    assert both["r"] == pytest.approx(once["r"], rel=1e-12)
    assert (both["n"], both["clusters"]) == (48, 24)
    assert both["p"] == pytest.approx(once["p"], abs=0.1)
    assert both["high"] - both["low"] == pytest.approx(once["high"] - once["low"], rel=0.15)


def test_several_levels_of_clusters_give_the_widest_interval():
    table = models()
    narrow = relate(table, measures="m1", clusters="run", **FAST).table.iloc[0]
    wide = relate(table, measures="m1", clusters=["run", "family"], **FAST).table.iloc[0]
    family = relate(table, measures="m1", clusters=["family"], **FAST).table.iloc[0]
    widths = [one["high"] - one["low"] for one in (narrow, family, wide)]
    assert widths[2] == max(widths[:2])
    assert wide["p"] == narrow["p"]


def test_the_family_of_tests_is_what_was_declared():
    found = relate(models(), measures=["m1", "m2", "noise"], **FAST).table
    assert found["p_holm"].tolist() == adjusted(found["p"].to_numpy(), "holm").tolist()
    assert found["p_bh"].tolist() == adjusted(found["p"].to_numpy(), "bh").tolist()


def test_verdicts_follow_the_rule():
    table = models()
    against = relate(table, measures=["m1"], direction={"m1": 1}, **FAST)
    assert against.table["verdict"].tolist() == ["contradicted"]
    agrees = relate(table, measures=["m1"], direction={"m1": -1}, **FAST)
    assert agrees.table["verdict"].tolist() == ["supported"]
    few = relate(table.iloc[::3], measures=["noise"], **FAST)
    assert few.table["verdict"].tolist() == ["inconclusive"]
    rng = np.random.default_rng(0)
    many = pd.DataFrame({"x": rng.normal(size=3_000), "val_loss": rng.normal(size=3_000)})
    none = relate(many, measures=["x"], **FAST)
    assert none.table["verdict"].tolist() == ["no association"]
    assert bool(none.table["equivalent"][0])


def test_the_expected_direction_is_that_of_more_collapse_and_less_loss():
    table = models().assign(nc1_cdnv_p2=lambda t: -t["m1"], nc3_cos_mean=lambda t: t["m1"])
    loss = relate(table, measures=["nc1_cdnv_p2", "nc3_cos_mean"], **FAST).table
    assert loss["direction"].tolist() == [1, -1]
    assert loss["verdict"].tolist() == ["supported", "supported"]
    score = relate(table, measures=["nc1_cdnv_p2", "nc3_cos_mean"], y="score", **FAST).table
    assert score["direction"].tolist() == [-1, 1]


def test_what_is_left_of_a_score_beyond_the_loss_is_told():
    found = relate(models(), y="score", measures="m2", **FAST).table.iloc[0]
    assert abs(found["beyond_loss"]) < 0.5 < abs(found["r"]) + 0.4
    assert found["beyond_loss_p"] > 0.01


def test_a_measure_with_missing_values_is_related_where_it_has_them():
    table = models()
    table.loc[:3, "m2"] = np.nan
    found = relate(table, measures=["m1", "m2"], **FAST)
    rows = found.table.set_index("measure")
    assert rows["n"].tolist() == [24, 20]
    assert ("m2", "missing in 4 rows, which are left out") in found.excluded
    alone = relate(table.iloc[4:], measures=["m2"], **FAST).table.iloc[0]
    assert rows.loc["m2", "r"] == pytest.approx(alone["r"], rel=1e-12)


def test_rows_and_measures_that_cannot_take_part_are_listed():
    table = models().assign(constant=0.3, empty=math.nan)
    table.loc[5, "val_loss"] = math.inf
    table.loc[6, "width"] = np.nan
    found = relate(table, measures=["m1", "constant", "empty"], controls="log_width", **FAST)
    assert ("r5 @ 100", "val_loss is missing") in found.excluded
    assert ("r6 @ 100", "log_width is missing") in found.excluded
    assert ("constant", "constant") in found.excluded
    rows = found.table.set_index("measure")
    assert rows.loc["constant", "verdict"] == "undefined"
    assert rows.loc["empty", "reason"] == "0 values, expected at least 4"
    assert found.n_rows == 22


def test_a_single_run_that_decides_is_named():
    table = models()
    table.loc[3, ["noise", "val_loss"]] = [60.0, 30.0]
    flags = relate(table, measures="noise", **FAST).table["flags"][0]
    assert flags.startswith("without r3 it is ")


def test_a_cluster_that_decides_is_named_by_its_value():
    table = models()
    table.loc[3, ["noise", "val_loss"]] = [60.0, 30.0]
    table = table.assign(set_depth=np.arange(len(table)) // 3)
    flags = relate(table, measures="noise", clusters="depth", **FAST).table["flags"][0]
    assert flags.startswith("without depth 1 it is ")


def test_signs_that_differ_within_strata_and_denominators_near_zero_are_flagged():
    rng = np.random.default_rng(0)
    half = np.repeat([0, 1], 20)
    x = rng.normal(size=40) + 10 * half
    y = np.where(half, 1, -1) * (x - 10 * half) + 50 * half
    table = pd.DataFrame({"a_cov": x - 5, "epochs": half, "val_loss": y})
    found = relate(table, measures="a_cov", within="epochs", **FAST)
    assert found.strata.iloc[0].tolist() == ["a_cov", pytest.approx(-1), pytest.approx(1)]
    flags = found.table["flags"][0]
    assert "its sign differs between values of epochs" in flags
    assert "the mean that it divides by changes sign" in flags


def test_an_interaction_gives_each_kind_its_own_slope():
    table = models().assign(kind=lambda t: np.where(np.arange(24) % 2, "x", "y"))
    table["val_loss"] += np.where(table["kind"] == "x", 0.5, 0.0) * np.log(table["width"])
    one = relate(table, measures="m2", controls=["log_width"], fixed="kind", **FAST)
    both = relate(
        table, measures="m2", controls=["log_width", "kind:log_width"], fixed="kind", **FAST
    )
    assert both.table["rank"][0] == one.table["rank"][0] + 1
    assert both.table["partial_r"][0] > one.table["partial_r"][0]


def test_collinear_controls_are_named_and_change_nothing():
    table = models().assign(twice=lambda t: 2 * np.log(t["width"]) + 1)
    one = relate(table, measures="m2", controls="log_width", **FAST)
    both = relate(table, measures="m2", controls=["log_width", "twice"], **FAST)
    assert both.collinear == ["twice"]
    assert both.table["partial_r"][0] == pytest.approx(one.table["partial_r"][0], rel=1e-9)


def test_a_gain_needs_four_families():
    table = models()
    found = relate(table, measures=["m2", "noise"], controls="log_width", family="family", **FAST)
    rows = found.table.set_index("measure")
    assert rows.loc["m2", "gain"] > 0.01 > rows.loc["noise", "gain"]
    few = relate(table[table["family"] < "d"], measures="m2", family="family", **FAST).table
    assert math.isnan(few["gain"][0])
    assert "gain not defined: 3 families" in few["flags"][0]


def test_the_result_is_shown_saved_and_drawn(tmp_path):
    found = relate(models(), measures=["m1", "m2"], controls="log_width", **FAST)
    assert repr(found).startswith("Relation(2 measures against val_loss over 24 rows: ")
    assert "<table" in found._repr_html_()
    pd.testing.assert_frame_equal(found.to_pandas(), found.table)
    found.save(tmp_path / "rows.csv")
    assert len(pd.read_csv(tmp_path / "rows.csv")) == 2
    bars = found.plot().axes[0].containers
    assert [len(one.lines[0].get_xdata()) for one in bars] == [2, 2]
    panels = found.scatter().axes
    assert [len(one.collections[0].get_offsets()) for one in panels] == [24, 24]
    r2 = found.table["r2"].tolist()
    assert [one.get_title() for one in panels] == [f"$R^2$ = {value:.3f}" for value in r2]
    log = found.scatter(log=True).axes  # m1 is positive, m2 is not
    assert [one.get_xscale() for one in log] == ["log", "linear"]
    assert log[0].get_title() == f"$R^2$ = {found.table['r_log'][0] ** 2:.3f}"
    other = relate(models(), measures=["m1", "m2"], controls="log_width", alpha=0.01, **FAST)
    assert found.digest != other.digest


def test_it_is_public():
    assert tf.relate is relate


# --- the published tables ---------------------------------------------------------------------


@pytest.fixture
def published(tmp_path):
    may, october = published_tables()
    may.to_csv(tmp_path / "may.csv")  # with the unnamed index of the published file
    october.to_csv(tmp_path / "october.csv", index=False)
    return tmp_path


def test_table_1_is_that_of_its_formulas(published, capsys):
    out = json.loads(
        run(capsys, published / "may.csv", "--published", "lc-2024-05", "--table1", "--json")
    )
    assert [row["measure"] for row in out["rows"]] == list(TABLE1)
    table = published_tables()[0]
    seeds = table[table["model"].str.match(r"02x0768_01d(\d\d)?@0$")]
    assert len(seeds) == 21
    for row, formula in zip(out["rows"], TABLE1.values(), strict=True):
        r, p = stats.pearsonr(formula(seeds), seeds["val_loss"])
        assert row["n"] == 21
        assert row["r"] == pytest.approx(r, abs=1e-12)
        assert row["r2"] == pytest.approx(r * r, abs=1e-12)
        assert row["p"] == pytest.approx(p, abs=3 * math.sqrt(p * (1 - p) / 10_000) + 0.02)


def test_all_checkpoints_are_clustered_by_run(published):
    found = relate([published / "may.csv"], published="lc-2024-05", fixed="run_type", **FAST)
    assert (found.n_rows, found.n_clusters) == (230, 170)
    assert found.table["rank"].tolist() == [7] * 7
    assert found.options.clusters == ("run",)


def test_the_october_table_has_its_own_forms(published):
    paths = [published / "october.csv", published / "may.csv"]
    found = relate(paths, published="lc-2024-10", measures=list(OCTOBER), **FAST)
    assert found.table["measure"].tolist() == list(OCTOBER)
    assert found.table["n"].tolist() == [230] * len(OCTOBER)


def test_the_230_checkpoints_are_of_170_runs():
    names = model_names()
    assert len(names) == len({*names}) == 230
    assert len({name.split("@")[0] for name in names}) == 170


def changed(table, **values):
    table = table.copy()
    for name, (row, value) in values.items():
        table.loc[row, name] = value
    return table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="cdnv_mean"), "column cdnv_mean of lc-2024-05 is missing"),
        (lambda t: t.assign(extra=1), "column extra is none of lc-2024-05"),
        (lambda t: t.iloc[:-1], "229 rows, expected the 230 published ones"),
        (lambda t: changed(t, model=(3, "13x0064_01d@0")), "is none of the published 230"),
        (lambda t: changed(t, model=(3, t["model"][4])), "stands twice"),
        (lambda t: changed(t, n_params=(7, 5)), "n_params = P(depth, width) does not hold"),
        (
            lambda t: changed(t, perplex=(7, t["perplex"][7] * (1 + 1e-9))),
            "perplex = exp(val_loss)",
        ),
        (lambda t: changed(t, misses=(7, t["misses"][7] + 1)), "matches + misses = 4,714,191"),
        (lambda t: changed(t, matches_mean=(7, 1.0)), "matches_mean x 29,233 = matches"),
        (lambda t: changed(t.astype({"cdnv_std": object}), cdnv_std=(7, "x")), "cdnv_std of"),
    ],
)
def test_a_published_table_that_was_changed_is_refused(tmp_path, capsys, change, message):
    change(published_tables()[0]).to_csv(tmp_path / "may.csv")
    said = refusal(capsys, tmp_path / "may.csv", "--published", "lc-2024-05")
    assert message in said
    assert "may.csv" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: changed(t, etf_error=(0, 0.5)), "etf_error from norms and interference"),
        (lambda t: changed(t, cdnv=(0, 9.0)), "cdnv_mean = cdnv"),
        (lambda t: changed(t, norms_log_mean=(0, 9.0)), "norms_log_mean = twice October's"),
        (lambda t: changed(t, interfere_mean=(0, 9.0)), "interfere_mean = -norms_mean / (K - 1)"),
        (lambda t: changed(t, simcos_mean=(0, 0.9)), "mean squared dists = 2 - 2 simcos_mean"),
        (
            lambda t: changed(t, hits=(0, t["hits"][0] + 1), misses=(0, t["misses"][0] - 1)),
            "matches = hits",
        ),
    ],
)
def test_tables_that_contradict_each_other_are_refused(tmp_path, capsys, change, message):
    may, october = published_tables()
    may.to_csv(tmp_path / "may.csv")
    change(october).to_csv(tmp_path / "october.csv", index=False)
    said = refusal(
        capsys, tmp_path / "may.csv", tmp_path / "october.csv", "--published", "lc-2024-05"
    )
    assert f"{message} does not hold" in said


# --- scores from elsewhere --------------------------------------------------------------------


def harness(model, revision, **scores):
    return {
        "results": {
            "hellaswag": {"alias": "hellaswag", **{f"{k},none": v for k, v in scores.items()}}
        },
        "config": {"model": "hf", "model_args": f"pretrained={model},revision={revision}"},
    }


@pytest.fixture
def series(tmp_path):
    table = models(12).assign(run="pythia-14m", step=np.arange(12) * 1000)
    table.to_csv(tmp_path / "models.csv", index=False)
    scores = tmp_path / "scores" / "EleutherAI__pythia-14m"
    scores.mkdir(parents=True)
    for step in range(0, 12_000, 1000):
        content = harness("EleutherAI/pythia-14m", f"step{step}", acc_norm=0.3 + step / 1e5)
        (scores / f"results_{step}.json").write_text(json.dumps(content))
    return tmp_path


def test_scores_of_the_harness_are_put_beside_their_checkpoints(series, capsys):
    (series / "scores" / "results_x.json").write_text(
        json.dumps(harness("someone/else", "main", acc_norm=0.9))
    )
    words = (series / "models.csv", "--scores", series / "scores", "--y", "hellaswag_acc_norm")
    more = ("--clusters", "step", "--measures", "step", "--permutations", "99", "--draws", "100")
    out = json.loads(run(capsys, *words, *more, "--json"))
    assert out["rows"][0]["r"] == pytest.approx(1, rel=1e-9)
    assert {"what": "someone/else", "why": "matches no model"} in out["excluded"]


def test_a_table_of_scores_is_matched_by_model_and_step(series):
    scores = pd.DataFrame(
        {"model": "pythia-14m", "step": [0, 1000, 2000, 3000, 5000], "s": range(5)}
    )
    scores.to_csv(series / "s.csv", index=False)
    found = relate(
        series / "models.csv",
        scores=series / "s.csv",
        y="s",
        measures="step",
        clusters="step",
        **FAST,
    )
    assert found.n_rows == 5
    assert sum(one.why == "has no scores" for one in found.excluded) == 7


# --- what goes wrong --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--y", "val_los"], "no column 'val_los'; did you mean 'val_loss'?"),
        (["--controls", "log_widht"], "no column 'log_widht'"),
        (["--fixed", "nothing"], "no column 'nothing'"),
        (["--clusters", "nothing"], "no column 'nothing'"),
        (["--family", "nothing"], "no column 'nothing'"),
        (["--within", "nothing"], "no column 'nothing'"),
        (["--measures", "m9"], "no column 'm9'"),
        (["--measures", "m1,val_loss"], "val_loss is both a measure and y"),
        (["--clusters", "step"], "all rows are of one step"),
        (["--y", "constant"], "constant is 1 in every row"),
        (["--controls", "family"], "family holds 'a', expected numbers"),
        (["--controls", "log_signed"], "signed is not positive in every row"),
        (["--fixed", "run"], "leave nothing to relate"),
        (["--clusters", "sizes"], "no two clusters of sizes have equally many rows"),
        (["--alpha", "2"], "alpha is 2, expected 1e-09 to 0.5"),
        (["--permutations", "0"], "permutations is 0, expected 1 to 1e+07"),
        (["--draws", "5"], "draws is 5, expected 100 to 1e+06"),
        (["--correction", "bonferroni"], "bonferroni"),
        (["--table1"], "say which with --published"),
        (["--scores", "missing.json"], "missing.json: no such file"),
        (["--scores", "broken.json"], "broken.json: not a results file"),
        (["--scores", "empty"], "empty: no results_*.json"),
        (["--scores", "strangers.csv"], "none of the 1 scores belongs to a model"),
        (["--scores", "anonymous.csv"], "no column model or run"),
        (["--scores", "twice.csv"], "two scores are of r1"),
        (["--rule", "rule.toml"], "unknown setting 'contrls'; did you mean 'controls'?"),
        (["--rule", "other.toml"], "no table [relate]"),
    ],
)
def test_bad_requests_are_one_line(tmp_path, capsys, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    table = models().assign(constant=1.0, signed=lambda t: t["noise"])
    table["sizes"] = ["a"] * 3 + ["b"] * 21
    table.to_csv("models.csv", index=False)
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "empty").mkdir()
    (tmp_path / "strangers.csv").write_text("model,s\nx,1\n")
    (tmp_path / "anonymous.csv").write_text("name,s\nx,1\n")
    (tmp_path / "twice.csv").write_text("model,s\nr1,1\nr1,2\n")
    (tmp_path / "rule.toml").write_text("[relate]\ncontrls = ['width']\n")
    (tmp_path / "other.toml").write_text("[else]\n")
    given = [] if "--measures" in words else ["--measures", "m1"]
    said = refusal(capsys, "models.csv", *given, *words)
    assert message in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "missing.csv: no such file"),
        ("a,b\n1,2\n", "no column 'val_loss'"),
        ("run,m1,val_loss\n" + "r,1,2\ns,2,3\n", "2 rows have all that is needed"),
        ("run,m1,val_loss\n" + "r,1,2\n" * 9, "val_loss is 2 in every row"),
        ("\0\1", "no column"),
    ],
)
def test_bad_tables_are_one_line(tmp_path, capsys, content, message):
    path = tmp_path / ("table.csv" if content else "missing.csv")
    if content:
        path.write_text(content)
    assert message in refusal(capsys, path, "--measures", "m1")


def test_no_sources_and_none_of_the_published_measures_are_refused(tmp_path, capsys):
    assert "nothing to relate" in refusal(capsys)
    models().to_csv(tmp_path / "models.csv", index=False)
    assert "name yours with --measures" in refusal(capsys, tmp_path / "models.csv")
    (tmp_path / "run").mkdir()
    assert "no results yet" in refusal(capsys, tmp_path / "run")


def test_a_rule_from_a_file_gives_way_to_what_is_typed(tmp_path, capsys):
    models().to_csv(tmp_path / "models.csv", index=False)
    rule = 'measures = ["m1"]\ncontrols = ["log_width"]\nalpha = 0.01\n'
    rule += "permutations = 99\ndraws = 100\n"
    (tmp_path / "rule.toml").write_text(f"[relate]\n{rule}")
    words = (tmp_path / "models.csv", "--rule", tmp_path / "rule.toml")
    options = json.loads(run(capsys, *words, "--alpha", "0.02", "--json"))["options"]
    assert (options["measures"], options["alpha"]) == (["m1"], 0.02)


def test_a_folder_of_results_is_written_whole(tmp_path, capsys):
    models().to_csv(tmp_path / "models.csv", index=False)
    out = tmp_path / "relation"
    words = ("--measures", "m1,m2", "--controls", "log_width", "--permutations", 99, "--draws", 100)
    said = run(capsys, tmp_path / "models.csv", *words, "--out", out)
    assert sorted(one.name for one in out.iterdir()) == [
        "index.html",
        "relation.csv",
        "relation.json",
        "relation.png",
        "scatter-log.png",
        "scatter.png",
    ]
    content = json.loads((out / "relation.json").read_text())
    assert content["conclusion"] in said


def test_the_guide_says_what_comes_out(capsys, monkeypatch):
    # Its command prints its block, and its Python runs.
    root = Path(__file__).parent.parent
    monkeypatch.chdir(root)
    guide = (root / "docs" / "guide" / "study.md").read_text()
    block = re.search(r"^```text\n(.*?)^```$", guide, flags=re.DOTALL | re.MULTILINE)
    command = next(line for line in guide.splitlines() if "--within epochs --measures" in line)
    said = run(capsys, *command.split()[2:])
    assert said.rstrip() == block.group(1).rstrip()
    code = re.search(r"^```python\n(.*?)^```$", guide, flags=re.DOTALL | re.MULTILINE)
    exec(code.group(1), {})
