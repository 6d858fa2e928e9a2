import numpy as np
import pandas as pd
import pytest

from studies.recall_geometry.locality import CHANGES, Shift, changes, geometry_shift, shift_rows


def points(seed=0, n=12, dim=5):
    return np.random.default_rng(seed).normal(size=(n, dim))


def rotation(dim=5, seed=9):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))[0]


def test_what_has_not_moved_has_not_moved():
    x = points()
    assert geometry_shift(x, x) == pytest.approx(Shift(1, 0, 0), abs=1e-7)


def test_rotation_reflection_and_shift_are_seen_only_where_coordinates_count():
    x = points()
    moved = geometry_shift(x, -x @ rotation() + 4)
    assert moved.cka == pytest.approx(1, rel=1e-12)
    assert moved.aligned == pytest.approx(0, abs=1e-7)
    assert moved.displacement > 1


def test_a_shift_by_the_spread_is_a_displacement_of_one():
    x = points()
    spread = np.sqrt(((x - x.mean(0)) ** 2).sum(1).mean())
    along = np.zeros(5)
    along[2] = spread
    assert geometry_shift(x, x + along).displacement == pytest.approx(1, rel=1e-12)


def test_scale_is_seen_by_all_but_cka():
    # Twice as large: every point is moved by its own distance to the mean.
    x = points()
    centred = x - x.mean(0)
    assert geometry_shift(centred, 2 * centred) == pytest.approx(Shift(1, 1, 1), rel=1e-7)


def test_orthogonal_configurations_have_nothing_in_common():
    # Points along two contrasts that are orthogonal to each other.
    x, y = np.array([[1.0], [-1], [1], [-1]]), np.array([[1.0], [1], [-1], [-1]])
    found = geometry_shift(x, y)
    assert found.cka == pytest.approx(0, abs=1e-12)
    assert found.aligned == pytest.approx(np.sqrt(2), rel=1e-12)


def test_the_definitions_by_eigenvalues_and_a_search_over_rotations():
    x, y = points(1, dim=2), points(2, dim=2)
    found = geometry_shift(x, y)
    a, b = x - x.mean(0), y - y.mean(0)
    gram, other = a @ a.T, b @ b.T
    cka = np.trace(gram @ other) / np.sqrt(np.trace(gram @ gram) * np.trace(other @ other))
    assert found.cka == pytest.approx(cka, rel=1e-10)
    residuals = []
    for angle in np.linspace(0, 2 * np.pi, 20001):
        c, s = np.cos(angle), np.sin(angle)
        for turn in (np.array([[c, -s], [s, c]]), np.array([[c, s], [s, -c]])):
            residuals.append(np.linalg.norm(a - b @ turn))
    assert found.aligned == pytest.approx(min(residuals) / np.linalg.norm(a), rel=1e-6)


def test_models_of_other_width_have_no_displacement_but_the_rest():
    x = points()
    wider = np.hstack([x, np.zeros((12, 2))])
    found = geometry_shift(x, wider)
    assert np.isnan(found.displacement)
    assert (found.cka, found.aligned) == pytest.approx((1, 0), abs=1e-7)


def test_points_that_are_one_have_no_shift():
    assert np.isnan(geometry_shift(np.ones((3, 2)), points(n=3, dim=2))).all()


def test_changes_join_by_fact_and_are_after_less_before():
    before = pd.DataFrame({"fact_id": list("abcd")} | {name: [0.0, 1, 2, 3] for name in CHANGES})
    after = before.iloc[::-1].copy()
    after["recalled"] -= 2
    after.loc[0, "ln_rank"] = np.inf
    found = changes(before, after).set_index("quantity")
    recalled = found.loc[CHANGES["recalled"]]
    assert (recalled["before"], recalled["after"], recalled["change"]) == (1.5, -0.5, -2)
    assert recalled["n"] == 4
    assert np.isnan([recalled["change_low"], recalled["before_high"]]).all()  # of four facts
    assert recalled["p"] == pytest.approx(2 / 16)  # four facts, all down
    # A number that is not finite takes its fact out.
    assert found.loc[CHANGES["ln_rank"], ["n", "before", "change"]].tolist() == [3, 2, 0]


def test_shifts_become_rows():
    rows = shift_rows({"a": {"x": Shift(1, 2, 3), "y": Shift(4, 5, 6)}, "b": {"x": Shift(7, 8, 9)}})
    assert rows.to_numpy().tolist() == [
        ["a", "x", 1, 2, 3],
        ["a", "y", 4, 5, 6],
        ["b", "x", 7, 8, 9],
    ]
