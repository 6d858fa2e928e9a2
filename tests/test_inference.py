import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats
from statsmodels.stats.multitest import multipletests

from tightframe.analysis import inference
from tightframe.multiple_testing import adjusted


def projected(x, y, controls):
    basis, collinear = inference.basis_of(controls, [f"c{j}" for j in range(controls.shape[1])])
    assert not collinear
    return inference.residuals(x, basis), inference.residuals(y[:, None], basis)[:, 0], basis


def centred(x, y):
    return projected(x, y, np.ones((len(y), 1)))


def draws(seed, n=24, m=3):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, m))
    return x, x[:, 0] + 1.5 * rng.normal(size=n), rng


def test_correlations_are_those_of_scipy():
    x, y, _ = draws(0)
    r = inference.correlations(*centred(x, y)[:2])
    assert r == pytest.approx([stats.pearsonr(column, y).statistic for column in x.T], rel=1e-12)


def test_a_plain_permutation_p_is_that_of_scipy_within_its_own_error():
    x, y, _ = draws(1, m=2)
    found = inference.permute(*centred(x, y), np.arange(len(y)), permutations=20_000, seed=0)
    for j in range(2):
        reference = stats.permutation_test(
            (x[:, j],),
            lambda values: abs(stats.pearsonr(values, y).statistic),
            permutation_type="pairings",
            alternative="greater",
            n_resamples=2_000,
            rng=3,
        ).pvalue
        assert found.p[j] == pytest.approx(reference, abs=5 * math.sqrt(reference / 2_000) + 1e-3)
    assert found.p == pytest.approx((found.p_plain * 20_000 + 1) / 20_001, rel=1e-12)


def test_all_permutations_of_four_rows_are_counted_with_their_ties():
    # |r| of 24 orders: y = x gives 1, which only the identity and the reversal reach.
    x = np.arange(4.0)
    found = inference.permute(*centred(x[:, None], x), np.arange(4), permutations=48_000, seed=0)
    assert found.p_plain[0] == pytest.approx(2 / 24, abs=0.005)


def test_freedman_lane_is_the_loop_over_permuted_residuals():
    x, y, rng = draws(2, n=18, m=2)
    controls = np.column_stack([np.ones(18), rng.normal(size=18), np.arange(18) % 3 == 0])
    clusters = np.arange(18)
    found = inference.permute(*projected(x, y, controls), clusters, permutations=400, seed=5)
    fit = controls @ np.linalg.lstsq(controls, y, rcond=None)[0]
    hits, maxima = np.zeros(2), []
    for rows in inference._orders(clusters, 400, 5):
        for order in rows:
            again = fit + (y - fit)[order]
            partial = [naive_partial(column, again, controls) for column in x.T]
            observed = [naive_partial(column, y, controls) for column in x.T]
            hits += np.abs(partial) >= np.abs(observed) * (1 - 1e-9)
            maxima.append(np.abs(partial).max())
    assert found.p == pytest.approx((hits + 1) / 401, rel=1e-12)
    strongest = int(np.argmax(np.abs(found.r)))
    larger = (np.array(maxima) >= abs(found.r[strongest]) * (1 - 1e-9)).sum()
    assert found.p_maxt[strongest] == pytest.approx((larger + 1) / 401, rel=1e-12)
    assert (found.p_maxt >= found.p - 1e-12).all()


def naive_partial(x, y, controls):
    left = [v - controls @ np.linalg.lstsq(controls, v, rcond=None)[0] for v in (x, y)]
    return stats.pearsonr(*left).statistic


def test_the_last_step_of_max_t_is_the_weakest_measures_own_p():
    # Step-down: the last measure is compared with itself alone, before monotony is enforced.
    x, y, _ = draws(3, n=30, m=4)
    found = inference.permute(*centred(x, y), np.arange(30), permutations=999, seed=1)
    weakest = int(np.argmin(np.abs(found.r)))
    assert found.p_maxt[weakest] == max(found.p_maxt.max(), found.p[weakest])


def test_only_clusters_of_equal_size_are_exchanged():
    clusters = np.array([0, 0, 1, 2, 2, 3, 4, 5, 5])
    for rows in inference._orders(clusters, 50, 0):
        for order in rows:
            assert sorted(order) == list(range(9))
            for members in (np.array([0, 1]), np.array([3, 4]), np.array([7, 8])):
                went = order[members]
                assert went[1] == went[0] + 1  # pairs stay together, in their order
                assert clusters[went[0]] in (0, 2, 5)
    assert inference.n_permutations(clusters) == math.factorial(3) * math.factorial(3)


def test_bca_is_that_of_scipy_when_each_row_is_a_cluster():
    x, y, _ = draws(4, n=40, m=1)
    found = inference.bootstrap(*centred(x, y), np.arange(40), draws=20_000, seed=0)
    reference = stats.bootstrap(
        (x[:, 0], y),
        lambda a, b: stats.pearsonr(a, b).statistic,
        paired=True,
        vectorized=False,
        n_resamples=4_000,
        method="BCa",
        rng=1,
    ).confidence_interval
    assert found.low[0] == pytest.approx(reference.low, abs=0.02)
    assert found.high[0] == pytest.approx(reference.high, abs=0.02)


def test_a_draw_takes_the_residuals_anew():
    x, y, rng = draws(5, n=20, m=2)
    controls = np.column_stack([np.ones(20), rng.normal(size=20)])
    clusters = np.repeat(np.arange(10), 2)
    counts = rng.multinomial(10, np.full(10, 0.1), size=6).astype(float)
    found = inference._weighted(*projected(x, y, controls), counts, clusters)
    for line, count in zip(found, counts, strict=True):
        rows = np.concatenate(
            [np.repeat(np.flatnonzero(clusters == g), int(c)) for g, c in enumerate(count)]
        )
        expected = [naive_partial(column, y[rows], controls[rows]) for column in x[rows].T]
        assert line == pytest.approx(expected, rel=1e-8)


def test_five_clusters_give_no_interval():
    x, y, _ = draws(6, n=20, m=1)
    found = inference.bootstrap(*centred(x, y), np.arange(20) // 4, draws=200, seed=0)
    assert math.isnan(found.low[0])
    assert found.without.shape == (5, 1)


def test_cr3_is_the_jackknife_over_clusters():
    x, y, rng = draws(7, n=30, m=2)
    controls = np.column_stack([np.ones(30), rng.normal(size=30)])
    clusters = np.concatenate([np.arange(10), 10 + np.repeat(np.arange(10), 2)])
    t, p = inference.cluster_robust(*projected(x, y, controls), clusters)
    for j in range(2):
        design = np.column_stack([controls, x[:, j]])
        whole = np.linalg.lstsq(design, y, rcond=None)[0]
        moved = [
            np.linalg.lstsq(design[clusters != g], y[clusters != g], rcond=None)[0] - whole
            for g in range(20)
        ]
        error = math.sqrt(19 / 20 * sum(one[-1] ** 2 for one in moved))
        assert t[j] == pytest.approx(whole[-1] / error, rel=1e-9)
        assert p[j] == pytest.approx(2 * stats.t.sf(abs(t[j]), 19), rel=1e-12)


def test_cr3_is_wider_than_the_plain_sandwich_of_statsmodels():
    x, y, _ = draws(8, n=40, m=1)
    clusters = np.repeat(np.arange(8), 5)
    t, _ = inference.cluster_robust(*centred(x, y), clusters)
    fit = sm.OLS(y, sm.add_constant(x)).fit(cov_type="cluster", cov_kwds={"groups": clusters})
    assert np.sign(t[0]) == np.sign(fit.tvalues[1])
    assert abs(t[0]) < abs(fit.tvalues[1])


def test_the_correlation_within_runs_is_that_of_an_analysis_of_covariance():
    # r^2 = SS_x / (SS_x + SS_error) with an effect of each run, and its t test.
    rng = np.random.default_rng(9)
    runs = np.repeat(np.arange(6), 4)
    x = rng.normal(size=24) + runs
    y = 0.5 * x + rng.normal(size=24) - 3 * runs
    r, p, freedom = inference.within_runs(x, y, runs)
    frame = pd.get_dummies(pd.Series(runs).astype(str), dtype=float).assign(x=x)
    fit = sm.OLS(y, frame).fit()
    assert freedom == fit.df_resid
    assert p == pytest.approx(fit.pvalues["x"], rel=1e-9)
    t = fit.tvalues["x"]
    assert r == pytest.approx(t / math.sqrt(t * t + freedom), rel=1e-9)


def test_a_gain_is_the_error_that_a_measure_takes_away():
    # y is the measure plus 10: with it every family is predicted exactly, and without it by the
    # mean of the others, so that the gain is the whole error of the controls.
    rng = np.random.default_rng(10)
    families = np.repeat(np.arange(6), 4)
    x = rng.normal(size=24)
    gain = inference.left_out_gain(
        x, x + 10, np.ones((24, 1)), families, permutations=1_000, seed=0
    )
    alone = [abs(x[i] - x[families != families[i]].mean()) for i in range(24)]
    assert gain.gain == pytest.approx(np.mean(alone), rel=1e-9)
    assert gain.percent == pytest.approx(100, rel=1e-9)
    assert gain.p == 2 / 2**6  # all signs equal, either way, of 64
    assert gain.predicted == pytest.approx(x + 10, rel=1e-9)


@pytest.mark.parametrize("method", ["holm", "bh"])
def test_adjusted_p_values_are_those_of_statsmodels(method):
    p = np.array([0.01, 0.04, math.nan, 0.03, 0.2, 0.004, 0.04])
    expected = multipletests(p[~np.isnan(p)], method={"bh": "fdr_bh"}.get(method, method))[1]
    found = adjusted(p, method)
    assert np.isnan(found[2])
    assert found[~np.isnan(p)] == pytest.approx(expected, rel=1e-12)


def test_the_detectable_correlation_is_found_four_times_in_five():
    # Fisher's z of 50 rows at this correlation exceeds its critical value 80 % of the time.
    r = inference.detectable(50, alpha=0.05)
    z = math.atanh(r) * math.sqrt(47)
    assert stats.norm.sf(stats.norm.ppf(0.975) - z) == pytest.approx(0.8, abs=1e-3)
    assert math.isnan(inference.detectable(3, alpha=0.05))


def test_collinear_controls_are_named():
    rng = np.random.default_rng(11)
    a, b = rng.normal(size=(2, 12))
    columns = np.column_stack([np.ones(12), a, b, 2 * a - 3 * b + 1, 1e-8 * b])
    basis, collinear = inference.basis_of(columns, ["1", "a", "b", "sum", "scaled"])
    assert collinear == ["sum", "scaled"]
    assert basis.T @ basis == pytest.approx(np.eye(3), abs=1e-12)
