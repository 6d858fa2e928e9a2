import numpy as np
import pytest
import torch

from reference.svm import nearest_feasible
from tightframe.ntp.certificate import Constraints
from tightframe.ntp.support import group


def problem(seed=0, merge=True):
    """Supports with repeated rows and columns, their constraints, and points to project."""
    generator = np.random.default_rng(seed)
    support = generator.random((9, 7)) < 0.3
    support[0] |= ~support.any(axis=0)
    support = support[np.ix_([*range(9), 1, 1, 5], [*range(7), 2, 2, 3])]
    groups = group(support, merge=merge)
    shape = groups.support.shape[::-1]
    points = torch.from_numpy(generator.standard_normal(shape) * 2)
    return groups, Constraints.of(groups), points


def test_of_one_context_the_level_is_the_root_of_a_piecewise_linear_function():
    # Support {0}, margin 1, y = (0, 1, -3): with only token 1 active, a - 0 = 1 + 1 - a, a = 1;
    # token 2 stays inactive: -3 < a - 1 = 0.
    constraints = Constraints.of(group(np.array([[True], [False], [False]]), merge=False))
    points = torch.tensor([[0.0, 1.0, -3.0]], dtype=torch.float64)
    levels = constraints.levels(points)
    assert levels.item() == pytest.approx(1, abs=1e-14)
    nearest = constraints.nearest(points, levels)
    np.testing.assert_allclose(nearest, [[1, 0, -3]], atol=1e-14)


@pytest.mark.parametrize("merge", [True, False])
def test_the_projection_equals_bisection(merge):
    groups, constraints, points = problem(merge=merge)
    nearest = constraints.nearest(points, constraints.levels(points))
    for column in range(groups.support.shape[1]):
        expected = nearest_feasible(
            points[column].numpy(),
            groups.support[:, column],
            groups.column_scales[column],
            groups.row_scales,
        )
        np.testing.assert_allclose(nearest[column], expected, atol=1e-12)


def test_it_moves_points_without_changing_their_weighted_column_sums():
    _, constraints, points = problem()
    nearest = constraints.nearest(points, constraints.levels(points))
    moved = (points - nearest) @ constraints.scales
    np.testing.assert_allclose(moved, 0, atol=1e-12)


def test_a_feasible_point_stays():
    _, constraints, points = problem()
    nearest = constraints.nearest(points, constraints.levels(points))
    again = constraints.nearest(nearest, constraints.levels(nearest))
    np.testing.assert_allclose(again, nearest, atol=1e-13)
    proxy = constraints.centred()
    np.testing.assert_allclose(
        constraints.nearest(proxy, constraints.levels(proxy)), proxy, atol=1e-13
    )


@pytest.mark.parametrize("start", [-100.0, 0.0, 100.0])
def test_newtons_method_gets_there_from_anywhere(start):
    _, constraints, points = problem()
    levels = constraints.levels(points)
    begun = constraints.levels(points, torch.full_like(levels, start))
    np.testing.assert_allclose(begun, levels, atol=1e-12)


def test_tiles_change_nothing(monkeypatch):
    _, constraints, points = problem()
    whole = constraints.levels(points)
    monkeypatch.setattr("tightframe.ntp.certificate.TILE", 1)
    np.testing.assert_allclose(constraints.levels(points), whole, atol=1e-14)


def test_float32_is_float64_to_its_digits():
    _, constraints, points = problem()
    single = constraints.to(torch.float32).levels(points.float())
    np.testing.assert_allclose(single, constraints.levels(points), atol=1e-5)
