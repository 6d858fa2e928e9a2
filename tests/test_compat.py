import csv
import itertools
import math
import statistics

import numpy as np
import pytest
import torch

from reference.states import decisions_of
from tightframe.errors import UserError
from tightframe.geometry import metrics
from tightframe.geometry.moments import ClassMoments
from tightframe.geometry.published import columns, compat, published_values

# Sections 7.2 and 7.3 of the table's description, word for word.
MAY = """model,n_params,val_acc,val_loss,perplex,dists_mean,dists_std,sims_mean,sims_std,norms_mean,
norms_std,norms_scl_mean,norms_scl_std,norms_log_mean,norms_log_std,norms_logscl_mean,
norms_logscl_std,misses,matches,matches_mean,matches_std,cdnv_mean,cdnv_std,interfere_mean,
interfere_std,log_dist_mean,log_dist_std"""
OCTOBER = """model,n_params,val_acc,val_loss,perplex,cdnv,norms_mean,norms_var,etf_error,
interfere_mean,interfere_var,log_kern_mean,log_kern_var,dual_error,simdot_mean,simdot_var,
simcos_mean,simcos_var,dists_mean,dists_var,hits,misses,norms_log_mean,norms_log_var"""
FACTS = {"model": "02x0768_01d@0", "n_params": 54_342_912}


class Model:
    """Random embeddings of 14 of 16 classes, a classifier, and decisions."""

    def __init__(self, seed, dim):
        rng = np.random.default_rng(seed)
        self.labels = np.concatenate([np.arange(14), rng.integers(0, 14, 60)])
        self.embeddings = rng.normal(size=(16, dim))[self.labels] + rng.normal(size=(74, dim)) + 0.5
        self.classifier = rng.normal(size=(16, dim))
        self.moments = ClassMoments(16, dim)
        self.moments.update(torch.from_numpy(self.embeddings), torch.from_numpy(self.labels))
        counts, agreements = rng.integers(3, 9, 16), rng.integers(0, 4, 16)
        agreements[14:] = 0  # labels without a mean take no part
        self.decisions = decisions_of(
            self.moments.seen(),
            counts=counts,
            agreements=agreements,
            classifier_hits=rng.integers(0, 3, 16),
            losses=rng.random(16) * 9,
        )

    def table(self, name):
        return compat(name, self.moments, torch.from_numpy(self.classifier), self.decisions, FACTS)


@pytest.fixture(params=[(0, 5), (1, 24)], ids=["K > D", "K < D"])
def model(request):
    return Model(*request.param)


def close(found, expected):
    return found == pytest.approx(expected, rel=1e-10)


def test_the_columns_are_those_of_the_tables_in_their_order(model):
    for name, text, n in (("lc-2024-05", MAY, 27), ("lc-2024-10", OCTOBER, 24)):
        expected = next(csv.reader([text.replace("\n", "")]))
        assert len(expected) == n
        assert list(columns(name)) == expected
        row = model.table(name)
        assert list(row) == expected
        assert (row["model"], row["n_params"]) == tuple(FACTS.values())
        assert all(math.isfinite(value) for value in list(row.values())[1:])


def test_the_columns_of_may_are_their_definitions_in_plain_loops(model):
    groups = [model.embeddings[model.labels == c] for c in range(14)]
    mu = [group.mean(0) for group in groups]
    s2 = [((group - m) ** 2).sum() / len(group) for group, m in zip(groups, mu, strict=True)]
    m = [x - np.mean(mu, axis=0) for x in mu]
    pairs = list(itertools.combinations(range(14), 2))
    squares = [float(x @ x) for x in m]
    unit, raw = [[x / np.linalg.norm(x) for x in vectors] for vectors in (m, mu)]
    rows = [w / np.linalg.norm(w) for w in model.classifier[:14]]
    gaps = [w - u for w, u in zip(rows, unit, strict=True)]
    scale = math.sqrt(len(m[0]))
    lists = {
        "dists": [float((gap / np.linalg.norm(gap)).sum()) for gap in gaps],
        "sims": [float(w @ u) for w, u in zip(rows, unit, strict=True)],
        "norms": squares,
        "norms_scl": [x / scale for x in squares],
        "norms_log": [math.log(x) for x in squares],
        "norms_logscl": [math.log(x / scale) for x in squares],
        "matches": model.decisions.agreements[:14].double().tolist(),
        "cdnv": [(s2[i] + s2[j]) / 2 / ((mu[i] - mu[j]) ** 2).sum() ** 2 for i, j in pairs],
        "interfere": [float(unit[i] @ unit[j]) for i, j in pairs],
        "log_dist": [-math.log(np.linalg.norm(raw[i] - raw[j])) for i, j in pairs],
    }
    row = model.table("lc-2024-05")
    for name, values in lists.items():
        assert close(row[f"{name}_mean"], statistics.mean(values)), name
        assert close(row[f"{name}_std"], statistics.stdev(values)), name
    losses, n = model.decisions.losses, int(model.decisions.counts.sum())
    assert close(row["val_loss"], float(losses.sum()) / n)
    assert close(row["val_acc"], int(model.decisions.classifier_hits.sum()) / n)


@pytest.mark.parametrize("table", ["lc-2024-05", "lc-2024-10"])
def test_every_column_says_over_how_many_things_it_is(model, table):
    # Class 13 gets a zero row and class 12 no position: both are in the 14 classes.
    model.classifier[13] = 0
    found = published_values(
        table, model.moments, torch.from_numpy(model.classifier), model.decisions
    )
    positions, of_classes = (
        int(model.decisions.counts.sum()),
        int(model.decisions.counts[:14].sum()),
    )
    pairs = 14 * 13 // 2
    expected = dict.fromkeys(("val_acc", "val_loss", "perplex"), (positions, 0))
    expected |= {
        name: (pairs, 0) for name in found if name.startswith(("cdnv", "interfere", "log_"))
    }
    expected |= {
        name: (14, 0) for name in found if name.startswith(("norms", "matches_", "simdot"))
    }
    expected |= {name: (13, 1) for name in found if name.startswith(("sims", "simcos", "dists"))}
    expected |= dict.fromkeys(
        {"matches", "hits", "misses"} & set(found), (of_classes, positions - of_classes)
    )
    counted = {name: (value.n, value.excluded) for name, value in found.items()}
    assert expected.items() <= counted.items()
    assert set(found) - set(expected) <= {"etf_error", "dual_error"}
    row = compat(table, model.moments, torch.from_numpy(model.classifier), model.decisions, FACTS)
    assert {name: row[name] for name in found} == {n: v.value for n, v in found.items()}


def test_the_identities_between_the_tables_hold(model):
    may, october = model.table("lc-2024-05"), model.table("lc-2024-10")
    k = 14
    pairs = k * (k - 1) / 2
    labels_seen = int(model.decisions.counts[:14].sum())
    for row, hits in ((may, "matches"), (october, "hits")):
        assert row[hits] + row["misses"] == labels_seen
        assert row["perplex"] == pytest.approx(math.exp(row["val_loss"]), rel=1e-12)
    assert may["matches"] == october["hits"]
    assert close(may["matches_mean"] * k, may["matches"])
    assert close(october["interfere_mean"], -may["norms_mean"] / (k - 1))
    assert close(may["norms_mean"], october["norms_mean"] ** 2 + october["norms_var"] * (k - 1) / k)
    assert close(may["norms_log_mean"], 2 * october["norms_log_mean"])
    assert close(may["norms_log_std"], 2 * math.sqrt(october["norms_log_var"]))
    assert close(
        october["dists_mean"] ** 2 + october["dists_var"] * (k - 1) / k,
        2 - 2 * october["simcos_mean"],
    )
    assert close(may["sims_mean"], october["simcos_mean"])
    assert close(may["sims_std"], math.sqrt(october["simcos_var"]))
    assert close(may["cdnv_mean"], october["cdnv"])
    s2 = pairs * (october["interfere_var"] + october["interfere_mean"] ** 2)
    t = (k - 1) * may["norms_std"] ** 2 + k * may["norms_mean"] ** 2
    trace, norm = k * may["norms_mean"], math.sqrt(2 * s2 + t)
    assert close(october["etf_error"], math.sqrt(2 - 2 * trace / (norm * math.sqrt(k - 1))))


def test_table_1_is_read_off_the_table_of_may(model):
    names = ["nc1_cdnv_p2", "nc2_equinorm_cov_log", "nc2_equiang_cov", "gnc2_log_kernel_cov_unc"]
    names += ["nc3_cos_mean", "unc3_cos_cov", "nc4_hits"]
    ours = metrics(
        model.moments, torch.from_numpy(model.classifier), model.decisions, measures=names
    )
    row = model.table("lc-2024-05")
    published = {
        "nc1_cdnv_p2": row["cdnv_mean"],
        "nc2_equinorm_cov_log": row["norms_log_std"] / row["norms_log_mean"],
        "nc2_equiang_cov": row["interfere_std"] / row["interfere_mean"],
        "gnc2_log_kernel_cov_unc": row["log_dist_std"] / row["log_dist_mean"],
        "nc3_cos_mean": row["sims_mean"],
        "unc3_cos_cov": row["sims_std"] / row["sims_mean"],
        "nc4_hits": row["matches"],
    }
    for name, value in published.items():
        assert close(ours[name].value, value), name


def test_the_forms_of_october_are_our_measures(model):
    row = model.table("lc-2024-10")
    names = {
        "etf_error": "nc2_etf_error",
        "dual_error": "nc3_dual_error",
        "log_kern_mean": "gnc2_log_kernel_mean",
        "log_kern_var": "gnc2_log_kernel_var",
        "simdot_mean": "nc3_dot_mean",
        "simdot_var": "unc3_dot_var",
    }
    ours = metrics(
        model.moments,
        torch.from_numpy(model.classifier),
        model.decisions,
        measures=list(names.values()),
    )
    for column, name in names.items():
        assert close(row[column], ours[name].value), column


def test_another_table_is_refused():
    with pytest.raises(UserError, match="unknown table 'lc-2024-06'; did you mean 'lc-2024-"):
        columns("lc-2024-06")
    with pytest.raises(UserError, match="unknown table 'x'; there are lc-2024-05 and lc-2024-10"):
        columns("x")
