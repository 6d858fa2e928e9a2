import dataclasses
import math
import os
import random
from pathlib import Path

import numpy as np
import pytest

from example_facts import example_facts, example_outputs, question, right
from tightframe.errors import UserError
from tightframe.knowledge.intervals import PERCENT, estimates
from tightframe.knowledge.scores import (
    SCORES,
    about,
    average,
    compare,
    groups,
    position,
    score_answer,
    score_outputs,
)

FACTS = example_facts(12)


def odd_right(i, question):
    return right(i, question) if i % 2 else "nobody knows"


def test_a_table_has_the_scores_of_every_question_in_percent():
    table = score_outputs(FACTS, {"a": example_outputs(FACTS, odd_right)})
    rows = iter(table.itertuples())
    for i, fact in enumerate(FACTS):
        for one in fact.questions:
            row = next(rows)
            text = odd_right(i, one)
            match_paper, f1_paper, match_norm, em_norm, f1_max = score_answer(one.answers, text)
            expected = [100 * match_paper, f1_paper, 100 * match_norm, 100 * em_norm, f1_max]
            assert [getattr(row, name) for name in SCORES] == [*expected, len(text.split())]
            assert (row.question, row.fact, row.type) == (one.id, fact.id, one.type)
    assert table["match_norm"].tolist() == [0, 0, 100, 100] * 6


def test_means_are_of_the_questions_of_a_group_with_intervals_of_its_facts():
    table = score_outputs(FACTS, {"a": example_outputs(FACTS, odd_right)})
    found = {group.name: group for group in average(table, ["month"])}
    kinds = ("all", "reliability", "locality")
    months = [f"{kind}/{month}" for kind in kinds for month in ("2022-12", "2023-01", "2023-02")]
    assert list(found) == [*kinds, *months]
    assert [found[name].scores["match_norm"].n for name in kinds] == [24, 12, 12]
    everything = found["all"].scores["match_norm"]
    assert (everything.value, everything.n_facts) == (50, 12)
    part = table[(table["type"] == "locality") & (table["month"] == "2023-01")]
    numbers = np.unique(part["fact"].to_numpy(dtype=str), return_inverse=True)[1]
    alone = estimates(part[["f1_max"]].to_numpy(), numbers, [PERCENT])[0]
    assert str(found["locality/2023-01"].scores["f1_max"]) == str(alone)  # NaN is not NaN


def test_positions_and_dates_divide_the_questions():
    table = about(FACTS)
    assert table[table["type"] == "reliability"]["position"].tolist() == (
        ["front"] * 4 + ["back"] * 4 + ["not in fact"] * 4
    )
    for by in ("year", "month", "day", "position"):
        names = dict(groups(table, [by]))
        for kind in ("all", "reliability", "locality"):
            parts = [rows for name, rows in names.items() if name.startswith(f"{kind}/")]
            assert sorted(np.concatenate(parts)) == sorted(names[kind])
    assert [name for name, _ in groups(table, ["year"])][3:5] == ["all/2022", "all/2023"]


def test_what_has_no_date_stays_in_the_tables():
    undated = [
        dataclasses.replace(fact, date=None, month=None, year=2022 if i else None)
        for i, fact in enumerate(FACTS[:3])
    ]
    table = about(undated)
    assert table["year"].tolist() == ["no date"] * 2 + ["2022"] * 4
    assert set(table["month"]) == set(table["day"]) == {"no date"}


@pytest.mark.parametrize(
    ("answers", "fact", "expected"),
    [
        (["Ur"], "Ur was old", "front"),
        (["Ur"], "in Ur", "back"),  # begins at 3 of 5
        (["Ur"], "was Ur it", "front"),  # 4 of 9
        (["Ur"], "all Ur it", "front"),
        (["Ur"], "year Ur it", "back"),  # 5 of 10 is not before half
        (["Ur"], "in ur", "not in fact"),
        (["Nippur", "Ur"], "Ur was old", "front"),
        (["old", "Ur"], "Ur was old", "back"),  # the first alias that is there
    ],
)
def test_where_an_answer_stands(answers, fact, expected):
    assert position(answers, fact) == expected


def test_the_order_of_outputs_and_facts_changes_no_number():
    outputs = example_outputs(FACTS, odd_right)
    mixed, other = outputs.copy(), list(FACTS)
    random.Random(0).shuffle(mixed)
    random.Random(1).shuffle(other)
    expected = average(score_outputs(FACTS, {"a": outputs}), ["position"])
    assert average(score_outputs(other, {"a": mixed}), ["position"]) == expected


def test_equal_prompts_keep_their_own_answers():
    # The released code joined by text and type.
    prompts = {one.prompt for fact in FACTS for one in fact.questions}
    assert len(prompts) == 1
    table = score_outputs(FACTS, {"a": example_outputs(FACTS, odd_right)})
    assert 0 < table["match_norm"].mean() < 100


def test_seeds_are_averaged_question_by_question():
    runs = {
        "a": example_outputs(FACTS, odd_right),
        "b": example_outputs(FACTS, right),
        "c": example_outputs(FACTS, right),
    }
    table = score_outputs(FACTS, runs)
    assert table["match_norm"].tolist() == pytest.approx([200 / 3, 200 / 3, 100, 100] * 6)
    everything = average(table)[0].scores["match_norm"]
    assert (everything.n, everything.n_facts) == (24, 12)  # not three times as many


def test_a_question_without_output_is_an_error_and_never_a_zero():
    outputs = example_outputs(FACTS, right)
    with pytest.raises(UserError) as error:
        score_outputs(FACTS, {"o.jsonl": outputs[:-2]})
    missing = outputs[-2].question_id
    assert str(error.value) == (
        f"o.jsonl: 2 of the benchmark's 24 questions have no output, the first is {missing}; "
        "answer them, or leave them out with --allow-missing"
    )
    table = score_outputs(FACTS, {"o.jsonl": outputs[:-2]}, allow_missing=True)
    everything = average(table)[0]
    assert everything.missing == 2
    assert everything.scores["match_norm"][0] == 100
    assert everything.scores["match_norm"].n == 22
    # Of two runs, one with everything: the question has an answer, and one is missing.
    runs = {"o.jsonl": outputs[:-2], "p.jsonl": outputs}
    everything = average(score_outputs(FACTS, runs, allow_missing=True))[0]
    assert (everything.missing, everything.scores["match_norm"].n) == (2, 24)


def test_a_type_that_nobody_answered_is_shown_as_missing():
    outputs = [one for one in example_outputs(FACTS, right) if one.type == "reliability"]
    table = score_outputs(FACTS, {"a": outputs}, allow_missing=True)
    locality = average(table)[2]
    assert (locality.name, locality.missing) == ("locality", 12)
    assert math.isnan(locality.scores["f1_max"].value)
    assert locality.scores["f1_max"].reason == "no questions"


def test_outputs_for_other_questions_are_refused_with_the_counts_of_both_sides():
    other = example_outputs(example_facts(5), right)
    common = len({one.question_id for one in other} & {q.id for f in FACTS for q in f.questions})
    foreign = next(
        one.question_id for one in other if one.fact_id not in {fact.id for fact in FACTS}
    )
    with pytest.raises(UserError) as error:
        score_outputs(FACTS, {"o.jsonl": other}, allow_missing=True)
    assert str(error.value) == (
        f"o.jsonl: outputs for 10 questions, the benchmark has 24, and {common} are the same; "
        f"{foreign} is not in it; score them on the benchmark that they answer"
    )


def test_two_outputs_for_one_question_are_refused():
    outputs = example_outputs(FACTS, right)
    with pytest.raises(UserError, match=r"^a: 25 outputs for 24 questions, expected one each"):
        score_outputs(FACTS, {"a": [*outputs, outputs[0]]})


def test_an_output_of_another_fact_or_type_is_refused():
    first, *rest = example_outputs(FACTS, right)
    wrong = dataclasses.replace(first, type="generality")
    with pytest.raises(UserError, match=r"generality; the benchmark has dyk-\w+, reliability"):
        score_outputs(FACTS, {"a": [wrong, *rest]})


def test_a_benchmark_without_questions_or_with_one_id_twice_is_refused():
    bare = [dataclasses.replace(fact, questions=()) for fact in FACTS]
    with pytest.raises(UserError, match=r"no questions; `tightframe knowledge questions`"):
        about(bare)
    same = question(FACTS[0].id, "reliability", ["Ur"])
    twice = dataclasses.replace(FACTS[0], questions=(same, same))
    with pytest.raises(UserError, match="1 questions whose id is another's, the first is dyk-"):
        about([twice])


def test_arms_are_compared_on_what_both_answered():
    ours = example_outputs(FACTS, right)
    theirs = example_outputs(FACTS, odd_right)[:-2]
    one, other = (
        score_outputs(FACTS, {"a": outputs}, allow_missing=True) for outputs in (ours, theirs)
    )
    found = compare(one, other)[0]
    difference, signs = found.scores["match_norm"]
    assert (found.name, found.left_out, difference.n, difference.n_facts) == ("all", 2, 22, 11)
    assert difference.value == pytest.approx(100 * 6 / 11)  # of 11 facts, even ones are gained
    assert (signs.better, signs.worse, signs.p) == (6, 0, 2 / 2**6)
    swapped = compare(other, one)[0].scores["match_norm"]
    assert swapped.estimate.value == -difference.value
    with pytest.raises(ValueError, match="different questions"):
        compare(one, other.iloc[::-1].reset_index(drop=True))


REAL = Path(os.environ.get("TIGHTFRAME_DATA", "data")) / "wikidyk" / "dev.jsonl"


@pytest.mark.skipif(not REAL.is_file(), reason=f"{REAL} is not here")
def test_positions_of_real_answers_are_the_counts_of_the_specification():
    import json

    from tightframe.files import read_text

    lines = map(json.loads, read_text(REAL).removesuffix("\n").split("\n"))
    where = [position([line["answer"]], line["fact"]) for line in lines]
    front = 2868 + 983 + 734 + 482 + 322
    assert [where.count(name) for name in ("front", "back", "not in fact")] == [
        *(front, 6013 - front, 6847 - 6013)
    ]
