import math

import pytest
import torch

from reference.states import decisions_of
from tightframe.geometry import metrics
from tightframe.geometry.closed_forms import strata
from tightframe.geometry.moments import ClassMoments
from tightframe.geometry.values import Geometry


def test_bins_are_half_open_and_the_empty_ones_are_left_out():
    counts = torch.tensor([0, 1, 2, 4, 5, 29, 99, 100, 999, 1_000, 999_999, 1_000_000, 40_000_000])
    found = {name: counts[mask].tolist() for name, mask in strata(counts).items()}
    assert found == {
        "count 1": [1],
        "count 2-4": [2, 4],
        "count 5-9": [5],
        "count 10-29": [29],
        "count 30-99": [99],
        "count 100-299": [100],
        "count 300-999": [999],
        "count 1000-9999": [1_000],
        "count 100000-999999": [999_999],
        "count 1000000-": [1_000_000, 40_000_000],
    }
    assert strata(torch.tensor([0, 0])) == {}


def moments(counts, dim=6, seed=0, kept=None):
    """Classes of these counts; with `kept`, only the samples of these classes."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    embeddings = torch.randn(len(labels), dim, generator=rng, dtype=torch.float64)
    embeddings += 2 * torch.randn(len(counts), dim, generator=rng, dtype=torch.float64)[labels]
    if kept is not None:
        labels = labels.where(kept[labels], -100)
    state = ClassMoments(len(counts), dim)
    state.update(embeddings, labels)
    return state


COUNTS = [1, 3, 4, 2, 1, 0, 12, 2, 3, 15]


def test_a_stratum_is_measured_as_if_no_other_class_had_been_seen():
    whole = moments(COUNTS)
    classifier = torch.randn(10, 6, generator=torch.Generator().manual_seed(1))
    mask = strata(whole.counts)["count 2-4"]
    inside = metrics(whole, classifier, measures="all", classes=mask)
    alone = metrics(moments(COUNTS, kept=mask), classifier, measures="all")
    assert inside["nc1_cdnv"].n == 10  # pairs of 5 classes
    for name, value in alone.items():
        assert inside[name].value == pytest.approx(value.value, rel=1e-10, nan_ok=True), name
        assert (inside[name].n, inside[name].excluded) == (value.n, value.excluded), name


def test_what_is_averaged_and_left_out_adds_up_to_the_stratum():
    whole = moments(COUNTS)
    mask = torch.tensor(COUNTS) < 3  # counts 1, 2, 1, 0, 2: four are seen
    found = metrics(whole, torch.ones(10, 6), measures="all", min_count=2, classes=mask)
    for name, value in found.items():
        if not name.startswith(("nc4_", "ncc_", "dim_")):
            assert value.n + value.excluded in (4, 6), name
    assert (found["nc1_quotient"].n, found["nc1_quotient"].excluded) == (2, 2)


def test_agreement_in_a_stratum_is_over_positions_whose_label_is_in_it():
    decisions = decisions_of(
        [True, True, True, False],
        counts=[10, 2, 0, 4],
        agreements=[6, 2, 0, 0],
        agreements_full=[5, 2, 0, 1],
        nearest_hits=[4, 1, 0, 0],
    )
    state = moments([5, 1, 1, 0], dim=3)
    expected = {  # value, n, excluded
        "nc4_hits": (2, 2, 4),
        "nc4_rate": (1, 2, 4),
        "nc4_rate_fullv": (3 / 6, 6, 0),
        "nc4_rate_macro": (1, 1, 1),
        "ncc_accuracy": (1 / 6, 6, 0),
    }
    mask = torch.tensor([False, True, True, True])
    found = metrics(state, torch.ones(4, 3), decisions, measures=list(expected), classes=mask)
    for name, numbers in expected.items():
        value = found[name]
        assert (value.value, value.n, value.excluded) == pytest.approx(numbers), name
    # The strata share out all positions.
    parts = [
        metrics(state, torch.ones(4, 3), decisions, measures=["nc4_rate_fullv"], classes=part)
        for part in (mask, ~mask)
    ]
    assert sum(part["nc4_rate_fullv"].n for part in parts) == 16
    assert sum(part["nc4_rate_fullv"].value * part["nc4_rate_fullv"].n for part in parts) == 8


def test_a_scatter_of_all_classes_is_no_stratum_s():
    state = moments(COUNTS)
    state._scatter = torch.eye(6, dtype=torch.float64)
    mask = strata(state.counts)["count 2-4"]
    found = metrics(state, torch.ones(10, 6), measures=["nc1_pinv_tok"], classes=mask)
    assert math.isnan(found["nc1_pinv_tok"].value)
    assert found["nc1_pinv_tok"].reason == "the scatter holds classes that are left out"


def test_a_mask_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"yes or no for each of 10 classes, got shape \(3,\)"):
        Geometry(moments(COUNTS), torch.ones(10, 6), classes=torch.ones(3, dtype=torch.bool))
