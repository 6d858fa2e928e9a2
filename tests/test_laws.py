import numpy as np
import pytest

from reference.path_sets import SETS
from tightframe.ntp import ridge_path, solve_svm
from tightframe.ntp.asymptotics import asymptotics, limit_cosines
from tightframe.ntp.ridge import RidgePoint
from tightframe.ntp.soft_labels import centred_support, finite_component, project_off_support

LAMBDAS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


@pytest.fixture(scope="module")
def paths():
    """Of each set: labels, L_mm, points and laws by the ridge's power of ten."""

    def path(name):
        asked = SETS[name]
        labels = asked.labels()
        solution = solve_svm(labels.matrix, gap=1e-6)
        assert solution.status == "optimal"
        points = ridge_path(labels, LAMBDAS, dim=asked.dim)
        laws = asymptotics(points, solution.logits, labels)
        powers = range(-2, -7, -1)
        return labels, solution, *(dict(zip(powers, each, strict=True)) for each in (points, laws))

    made = {}
    return lambda name: made.setdefault(name, made.get(name) or path(name))


@pytest.mark.parametrize("name", SETS)
def test_every_point_is_certified(paths, name):
    _, _, points, _ = paths(name)
    assert all(point.status == "certified" for point in points.values())
    assert max(point.relgap for point in points.values()) <= 1e-3


@pytest.mark.parametrize("name", SETS)
def test_the_excess_loss_over_the_ridge_is_the_nuclear_norm(paths, name):
    _, solution, points, laws = paths(name)
    for power in (-4, -5, -6):
        assert laws[power].norm_ratio == pytest.approx(1, abs=0.025)
        norm = points[power].excess / points[power].lam
        assert laws[power].norm_ratio == pytest.approx(norm / solution.upper, rel=1e-9)


@pytest.mark.parametrize("name", SETS)
def test_the_coefficient_grows_by_log_ten_a_decade(paths, name):
    _, _, _, laws = paths(name)
    for power in (-5, -6):
        grown = laws[power].coefficient - laws[power + 1].coefficient
        assert grown == pytest.approx(np.log(10), rel=0.01)
        assert laws[power].growth == pytest.approx(grown / np.log(10), rel=1e-9)


@pytest.mark.parametrize("name", SETS)
def test_the_error_within_the_supports_falls_tenfold_a_decade(paths, name):
    labels, _, _, laws = paths(name)
    for power in (-4, -5, -6):
        assert 8 <= laws[power].finite_fall <= 12
    assert laws[-6].finite_error <= 1e-4 * np.linalg.norm(finite_component(labels).toarray())


@pytest.mark.parametrize("name", SETS)
def test_what_a_decade_adds_is_parallel_to_the_solution(paths, name):
    _, _, _, laws = paths(name)
    assert laws[-5].increment_cosine >= 0.997
    # The logits as a whole turn towards it far more slowly.
    cosines = [law.cosines.logits_cosine for law in laws.values()]
    assert (np.diff(cosines) > 0).all()
    assert cosines[-1] < laws[-5].increment_cosine


@pytest.mark.parametrize("name", SETS)
def test_gram_matrices_align_with_the_predicted_ones(paths, name):
    _, _, _, laws = paths(name)
    assert laws[-6].cosines.classifier_gram_cosine >= 0.985
    assert laws[-6].cosines.embedding_gram_cosine >= 0.985


def test_contexts_of_one_support_collapse_though_their_labels_differ(paths):
    # Eight supports, three contexts each, of other counts.
    labels, _, points, _ = paths("repeated")
    groups = np.repeat(np.arange(8), 3)
    same = groups[:, None] == groups
    within, between = same & ~np.eye(24, dtype=bool), ~same
    p = labels.probabilities.toarray()
    assert any(not np.allclose(p[:, 3 * g], p[:, 3 * g + 1]) for g in range(8))

    def cosines(rows):
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit @ unit.T

    rest = cosines(project_off_support(points[-6].logits, labels.matrix).T)
    assert rest[within].mean() >= 0.995
    assert rest[between].mean() < 0
    of_embeddings = [cosines(point.embeddings)[within].mean() for point in points.values()]
    assert (np.diff(of_embeddings) > 0).all()


def test_logits_that_follow_the_laws_are_measured_exactly():
    # L = L_in (1 + lam) + ln(1/lam) L_mm, L_mm the centred support of an exact case: R is
    # ln(1/lam), what a decade adds along L_mm is ln 10, and the error is lam |L_in|.
    labels = SETS["narrow"].labels()
    solution = centred_support(labels.matrix)
    finite = finite_component(labels).toarray()
    points = []
    for lam in (1e-3, 1e-5):
        logits = (1 + lam) * finite - np.log(lam) * solution
        left, values, right = np.linalg.svd(logits, full_matrices=False)
        points.append(
            RidgePoint(
                lam=lam,
                classifier=left * np.sqrt(values),
                embeddings=right.T * np.sqrt(values),
                excess=2 * lam * np.linalg.norm(solution, "nuc"),
                nuclear_norm=values.sum(),
                relgap=0.0,
                status="certified",
                iterations=0,
            )
        )
    first, second = asymptotics(points, solution, labels)
    assert np.isnan([first.growth, first.finite_fall, first.increment_cosine]).all()
    assert first.coefficient == pytest.approx(3 * np.log(10), rel=1e-10)
    assert second.growth == pytest.approx(1, rel=1e-10)
    assert second.finite_error == pytest.approx(1e-5 * np.linalg.norm(finite), rel=1e-6)
    assert second.finite_fall == pytest.approx(10, rel=1e-6)
    assert second.increment_cosine == pytest.approx(1, abs=1e-6)
    assert second.norm_ratio == pytest.approx(2, rel=1e-10)
    assert set(second.to_dict()) >= {"lam", "growth", "logits_cosine", "embedding_gram_cosine"}


def test_factors_of_the_solution_are_aligned_with_it():
    solution = centred_support(SETS["wide"].labels().matrix)
    left, values, right = np.linalg.svd(solution, full_matrices=False)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(16, 16)))[0]
    found = limit_cosines(
        3 * left * np.sqrt(values) @ rotation, right.T * np.sqrt(values) @ rotation, solution
    )
    assert list(vars(found).values()) == pytest.approx([1, 1, 1], abs=1e-10)
    opposite = limit_cosines(left * np.sqrt(values), -right.T * np.sqrt(values), solution)
    assert opposite.logits_cosine == pytest.approx(-1, abs=1e-10)


def test_too_few_dimensions_are_said_with_how_many_it_takes():
    labels = SETS["narrow"].labels()
    solution = centred_support(labels.matrix)
    with pytest.warns(UserWarning, match="uncertified"):
        points = ridge_path(labels, [1e-2], dim=2)
    words = "dim 2 can't reach L_mm, whose rank is 9; take dim >= 9"
    with pytest.warns(UserWarning, match=words):
        asymptotics(points, solution, labels)
