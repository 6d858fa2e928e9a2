"""Intervals by default: how many groups, and which classes, where nothing is said of them."""

import pytest
import torch

from tightframe.corpus.shards import TokenShards
from tightframe.errors import UserError
from tightframe.geometry import passes, states
from tightframe.geometry.labels import LabelledBlocks, LabelSpec
from tightframe.geometry.options import MeasureOptions
from tightframe.geometry.resampling import (
    GROUPS,
    MIN_COUNT,
    balanced_halves,
    smallest_min_count,
    usual_min_count,
)
from tightframe.geometry.study import measure_part
from tightframe.lm.options import TransformerConfig
from tightframe.lm.transformer import Transformer
from tightframe.results import read_rows
from tiny_runs import measure_path
from tiny_tokens import write_tokens

CLASSES = 23


def _counts(*classes):
    """Counts by 20 groups of classes that are each "even", n in each group, or all in the first."""
    counts = torch.zeros(20, len(classes), dtype=torch.int64)
    for place, (n, where) in enumerate(classes):
        counts[slice(None) if where == "even" else 0, place] = n
    return counts


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ([(1, "even")] * 12, 20),
        ([(1, "even")] * 12 + [(25, "first")], 20),  # 12 of 13 are in every resample: 0.92
        ([(1, "even")] * 12 + [(25, "first")] * 2, None),  # from 25 on, less than half of the text
        # Of samples from 26 on, 12 of 13 classes are; of those from 20 on, only 12 of 14.
        ([(2, "even")] * 12 + [(25, "first"), (30, "first")], 30),
        ([(1, "even")] * 12 + [(3, "first")] * 100, None),  # they are 240 of 540 samples
        ([(1, "even")] * 12 + [(3, "first")] * 80, 20),  # half of them
        ([(9, "even")], None),  # pairs need two classes
        ([(9, "even"), (180, "first")], None),
        # 12 of 13 classes survive, with 240 of 490 samples; then with 240 of 480.
        ([(1, "even")] * 12 + [(250, "first")], None),
        ([(1, "even")] * 12 + [(240, "first")], 20),
    ],
)
def test_the_smallest_count_whose_classes_have_intervals(classes, expected):
    assert usual_min_count(_counts(*classes)) == expected


@pytest.mark.parametrize(
    ("classes", "sets", "expected"),
    [
        ([(1, "even")] * 12, [(1, False, False)], 1),  # 20 samples each, 19 without any group
        # The rare ones are in one group alone; from 4 on, 12 of 12 are in every resample.
        ([(1, "even")] * 12 + [(3, "first")] * 2, [(1, False, False)], 4),
        ([(1, "even")] * 12 + [(3, "first")], [(1, False, False)], 1),  # 12 of 13
        ([(1, "even")] * 12 + [(3, "first")], [(1, False, True)], 4),  # all of them are needed
        ([(1, "even")] * 12 + [(3, "first")], [(5, False, True)], 1),  # a measure of 5 or more
        # Of classes of which no group has more than half, all are; the others don't count.
        ([(1, "even")] * 12 + [(3, "first")] * 12, [(1, True, True)], 1),
        ([(1, "even")] * 12 + [(3, "first")] * 12, [(1, True, True), (1, False, False)], 4),
        ([(1, "even")] * 12 + [(99, "first")], [(1, False, True)], None),
        ([(1, "first")] * 12, [(1, False, False)], None),  # one group holds all
    ],
)
def test_the_smallest_count_from_which_requested_intervals_have_classes(classes, sets, expected):
    assert smallest_min_count(_counts(*classes), sets) == expected


def test_the_smallest_count_is_chosen_on_request_told_and_recorded(model, tokens, tmp_path):
    measures, said = ["nc3_cos_mean", "gnc2_log_kernel_excess"], []
    asked = {"measures": measures, "out": tmp_path, "min_count": "auto"}
    path = measure_path(model, tokens, **asked, groups=8, say=said.append)
    header, rows = read_rows(path)
    chosen = header.measurement["min_count"]
    assert said == [f"min_count {chosen}: the smallest with enough classes in every resample"]
    assert {row.min_count for row in rows if row.metric in measures} == {chosen}
    assert not [row for row in rows if "samples in every resample" in row.reason]
    again = measure_path(model, tokens, **{**asked, "min_count": chosen}, groups=8)
    assert again == path


def test_no_smallest_count_is_said_to_be_none(model, tmp_path):
    tokens = write_tokens(tmp_path / "tokens", train=9, val=9, block=4, vocab_size=CLASSES)
    with pytest.raises(UserError, match="min_count auto: at no count do enough classes of"):
        measure_path(model, tokens, out=tmp_path / "x", groups=8, min_count="auto")


def test_every_usual_number_of_groups_has_balanced_halves():
    assert all(balanced_halves(n) is not None for n in GROUPS)


@pytest.fixture(scope="module")
def model():
    config = TransformerConfig(vocab_size=CLASSES, width=8, depth=1, heads=2, positions=16)
    return Transformer(config, seed=1, name="small")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """About 70 samples of each class, in many documents."""
    return write_tokens(tmp_path_factory.mktemp("usual") / "tokens", train=400, val=60)


def test_labels_are_counted_by_group_as_they_are_without(tokens):
    split = TokenShards.open(tokens).split("train")
    for reading in (LabelSpec(), LabelSpec("current", skip=2)):
        apart = LabelledBlocks(split, reading, split.groups(12)).label_counts_by_group()
        assert apart.shape == (12, CLASSES)
        assert torch.equal(apart.sum(0), LabelledBlocks(split, reading).label_counts())
    quota = torch.full((CLASSES,), 5)
    assert (
        LabelledBlocks(split, LabelSpec(), split.groups(8), quota)
        .label_counts_by_group()
        .sum(0)
        .max()
        == 5
    )


def test_intervals_come_unasked(model, tokens, tmp_path):
    measures = ["nc1_cdnv_med_db", "nc3_cos_mean", "ncc_accuracy"]
    path = measure_path(model, tokens, measures=measures, out=tmp_path)
    header, rows = read_rows(path)
    chosen = {name: header.measurement[name] for name in ("groups", "min_count")}
    assert chosen == {"groups": 20, "min_count": MIN_COUNT}
    assert {row.metric for row in rows if row.low < row.high} > set(measures)
    assert {row.min_count for row in rows if row.metric in measures} == {MIN_COUNT}
    # Asked for by name, they are the same thing; a minimum count that is given wins.
    assert measure_path(model, tokens, measures=measures, out=tmp_path, **chosen) == path
    other = measure_path(model, tokens, measures=measures, out=tmp_path, min_count=2)
    assert read_rows(other)[0].measurement["min_count"] == 2


def test_a_count_that_gives_few_intervals_names_the_one_that_would_do(model, tokens, tmp_path):
    measures, said = ["nc3_cos_mean", "gnc2_log_kernel_excess"], []
    for least in (2, MIN_COUNT):
        path = measure_path(
            model, tokens, measures=measures, out=tmp_path, min_count=least, say=said.append
        )
        assert read_rows(path)[0].measurement["min_count"] == least
    assert said == [f"min_count 2, so that there are few intervals: {MIN_COUNT} would do"]
    measure_path(
        model, tokens, measures=measures, out=tmp_path / "b", min_count=2, groups=1, say=said.append
    )
    assert len(said) == 1  # without groups there are none in any case


def test_fewer_documents_give_fewer_groups_or_none_and_say_so(model, tmp_path):
    for val, expected in ((14, 12), (9, 8), (5, 1)):
        tokens = write_tokens(tmp_path / f"tokens-{val}", train=400, val=val)
        said = []
        path = measure_path(
            model, tokens, measures=["rank_pr"], out=tmp_path / f"{val}", say=said.append
        )
        assert read_rows(path)[0].measurement["groups"] == expected
        assert len([line for line in said if "documents" in line]) == 1


def test_too_little_text_keeps_every_class(model, tmp_path):
    tokens = write_tokens(tmp_path / "tokens", train=30, val=20, vocab_size=CLASSES)
    said = []
    path = measure_path(model, tokens, measures=["rank_pr"], out=tmp_path / "out", say=said.append)
    assert read_rows(path)[0].measurement["min_count"] == 1
    assert any(line.startswith("min_count 1, so that there are few intervals") for line in said)


def test_the_published_tables_are_of_every_class(model, tokens, tmp_path):
    path = measure_path(model, tokens, measures=["rank_pr"], out=tmp_path, compat=["lc-2024-05"])
    found = read_rows(path)[0].measurement
    assert (found["groups"], found["min_count"]) == (1, 1)


def test_states_take_at_most_half_of_the_memory(model, tokens, tmp_path, monkeypatch):
    # A state has 8 bytes for each of 8 + 4 numbers of each class that occurs in a group.
    monkeypatch.setattr(passes, "_bytes_of_pass", lambda every: 0)
    split = TokenShards.open(tokens).split("train")

    def taken(n):
        bounds = split.groups(n) if n > 1 else None
        usual = LabelSpec(skip=1, skip_special=True)
        counts = LabelledBlocks(split, usual, bounds).label_counts_by_group()
        return 8 * (8 + 4) * int((counts > 0).sum())

    for free, expected in (
        (2 * taken(20), 20),
        (2 * taken(20) - 1, 12),
        (2 * taken(12) - 1, 8),
        (2 * taken(8) - 1, 1),
    ):
        monkeypatch.setattr(passes, "free_memory", lambda device, n=free: n)
        said = []
        path = measure_path(
            model, tokens, measures=["rank_pr"], out=tmp_path / f"{free}", say=said.append
        )
        assert read_rows(path)[0].measurement["groups"] == expected
        assert any("groups instead of" in line for line in said) == (expected < 20)
    # What is given is not changed, but refused where it does not fit at all.
    path = measure_path(model, tokens, measures=["rank_pr"], out=tmp_path / "given", groups=12)
    assert read_rows(path)[0].measurement["groups"] == 12


def test_parts_are_of_the_usual_groups(model, tokens, tmp_path):
    (path,) = measure_part(model, "1/2", MeasureOptions(tokens=tokens, out=tmp_path))
    assert states.ClassMoments.load(path).n_groups == GROUPS[0]


def test_measures_of_every_class_take_every_class(model, tokens, tmp_path):
    said = []
    path = measure_path(model, tokens, measures=["nc1_pinv"], out=tmp_path, say=said.append)
    assert read_rows(path)[0].measurement["min_count"] == 1
    strata = {"measures": ["rank_pr"], "by_frequency": True}
    measure_path(model, tokens, **strata, out=tmp_path, say=said.append)
    assert said == [
        "min_count 1, so that there are few intervals: nc1_pinv is of every class",
        "min_count 1, so that there are few intervals: --by-frequency is of every class",
    ]
