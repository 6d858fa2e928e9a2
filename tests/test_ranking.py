import dataclasses
import json
import math

import numpy as np
import pytest

import hub_models
from example_facts import example_facts, question
from spelling_networks import Untrainable, network
from tightframe.errors import UserError
from tightframe.files import sha256
from tightframe.knowledge.asking import prompts
from tightframe.knowledge.data_files import write_report
from tightframe.knowledge.hub_load import load_hub_model
from tightframe.knowledge.ranking import (
    Rank,
    Ranks,
    candidates,
    load_ranks,
    rank_of_first,
    rank_questions,
    summarize_ranks,
)


class Scorer(Untrainable):
    """A learner whose log-probabilities are told to it, by prompt and candidate."""

    name = "scorer"

    def __init__(self, score):
        self.score = score

    def log_probabilities(self, prompts, candidates):
        return [
            [float(self.score(prompt.text, one)) for one in own]
            for prompt, own in zip(prompts, candidates, strict=True)
        ]


def named(facts, *answers):
    """The facts with these answers to their reliability questions."""
    return [
        dataclasses.replace(
            fact, questions=(question(fact.id, "reliability", own.split("|"), "Who fell?"),)
        )
        for fact, own in zip(facts, answers, strict=True)
    ]


def test_the_rank_counts_what_is_higher_and_half_of_what_is_equal():
    assert rank_of_first([3.0, 1.0, 2.0]) == 1
    assert rank_of_first([1.0, 3.0, 2.0]) == 3
    assert rank_of_first([2.0, 2.0, 3.0, 1.0, 2.0]) == 1 + 1 + 2 / 2
    assert rank_of_first([-math.inf, -math.inf, -1.0]) == 2.5
    with pytest.raises(ValueError, match="a score is NaN"):
        rank_of_first([1.0, math.nan])


def test_a_model_that_cannot_tell_ranks_as_chance_does_and_is_never_right():
    ranks = rank_questions(Scorer(lambda *_: 0), example_facts(30))
    found = summarize_ranks(ranks)
    assert found.rank.value == found.chance_rank == 10.5
    assert found.top1.value == 0
    # Nor is one that ties with the best of the others.
    tied = [dataclasses.replace(one, rank=1.5) for one in ranks]
    assert summarize_ranks(tied).top1.value == 0


def test_a_model_that_knows_is_first_and_one_that_is_always_wrong_last():
    facts = example_facts(30)
    gold = {answer for fact in facts for answer in fact.questions[0].answers[:1]}
    assert len(gold) == 30
    # All are asked the same here: give each its own prompt.
    facts = [
        dataclasses.replace(
            fact,
            questions=(
                question(fact.id, "reliability", fact.questions[0].answers, f"Who was {i}?"),
            ),
        )
        for i, fact in enumerate(facts)
    ]
    own = {f"[MASK] was {i}": fact.questions[0].answers[0] for i, fact in enumerate(facts)}
    knows = summarize_ranks(rank_questions(Scorer(lambda text, one: own[text] == one), facts))
    assert (knows.top1.value, knows.reciprocal_rank.value, knows.rank.value) == (100, 1, 1)
    errs = summarize_ranks(rank_questions(Scorer(lambda text, one: own[text] != one), facts))
    assert (errs.top1.value, errs.rank.value) == (0, 20)
    assert errs.reciprocal_rank.value == pytest.approx(1 / 20)


def test_scores_drawn_at_random_come_near_the_stated_chance():
    draw = np.random.default_rng(0)
    ranks = [
        Rank(f"q{i}", f"f{i}", rank_of_first(list(draw.random(n))), n, "span", "front", "Oak", -1.0)
        for i, n in enumerate([20, 5] * 4000)
    ]
    found = summarize_ranks(ranks)
    assert found.chance_top1 == 100 * (1 / 20 + 1 / 5) / 2
    for estimate, chance in zip(found[:3], found[3:], strict=True):
        width = estimate.high - estimate.low
        assert width > 0
        assert abs(estimate.value - chance) < width


def test_intervals_are_over_facts():
    # The questions of a fact are right together: 20 facts, as much as with a question each.
    ranks = [
        Rank(f"q{i}", f"f{i % 20}", 1.0 + i % 2, 20, "span", "front", "Oak", -1.0)
        for i in range(400)
    ]
    top1, once = summarize_ranks(ranks).top1, summarize_ranks(ranks[:20]).top1
    assert (top1.value, top1.n, top1.n_facts) == (50, 400, 20)
    assert top1[:3] == pytest.approx(once[:3])


def test_candidates_are_other_facts_answers_and_no_second_one_is_right():
    facts = named(
        example_facts(6), "the Oak|Elm Street", "oak", "ELM street.", "Ash", "An ash", "The The"
    )
    asked = prompts(facts, "cloze_question")
    found = candidates(asked, facts)
    assert [own[0] for own in found] == [
        "the Oak",
        "oak",
        "ELM street.",
        "Ash",
        "An ash",
        "The The",
    ]
    # "oak" and "ELM street." are aliases of the first; "Ash" and "An ash" are one answer.
    assert sorted(found[0][1:]) in (["Ash", "The The"], ["An ash", "The The"])
    others = {one.lower() for one in found[5][1:]}
    assert len(found[5]) == 4
    assert {"elm street."} < others


def test_candidates_depend_on_seed_and_question_alone():
    facts = example_facts(60)
    asked = prompts(facts, "cloze_question")
    found = candidates(asked, facts)
    assert {len(own) for own in found} == {20}
    assert all(len(set(own)) == 20 for own in found)
    assert candidates(asked, facts[::-1]) == found
    assert candidates(asked[5:6], facts) == found[5:6]
    assert candidates(asked, facts, seed=1) != found
    assert {own[0] for own in found} == {one.answers[0] for one in asked}
    # Each answer is drawn about as often as any other.
    drawn = [one for own in found for one in own[1:]]
    assert len(set(drawn)) == 60
    assert len(candidates(asked, facts, n=5)[0]) == 5


def test_few_facts_give_few_candidates_which_is_recorded():
    ranks = rank_questions(Scorer(lambda *_: 0), example_facts(3))
    assert [one.n_candidates for one in ranks] == [3, 3, 3]
    assert summarize_ranks(ranks).chance_top1 == pytest.approx(100 / 3)


def test_an_answer_that_nothing_else_differs_from_is_refused():
    facts = named(example_facts(2), "Oak", "the oak")
    with pytest.raises(UserError, match="no other fact has another answer than 'Oak'"):
        rank_questions(Scorer(lambda *_: 0), facts)
    with pytest.raises(UserError, match="nothing to rank"):
        rank_questions(Scorer(lambda *_: 0), example_facts(kinds=("locality",)))
    with pytest.raises(ValueError, match="at least 2 candidates, got 1"):
        candidates([], facts, n=1)


@pytest.mark.parametrize(
    ("layout", "objective", "rule"),
    [("prefix", "sp", "span"), ("slots", "sp", "span"), ("causal", "ntp", "filled")],
)
def test_networks_rank_by_the_rule_of_their_objective(layout, objective, rule):
    net = network(layout, objective)
    net.n_slots = 20
    facts = example_facts(5)
    ranks = rank_questions(net, facts)
    assert {one.rule for one in ranks} == {rule}
    assert [one.fact_id for one in ranks] == [fact.id for fact in facts]
    again = rank_questions(net, facts[::-1])[::-1]
    assert [one.rank for one in again] == [one.rank for one in ranks]
    found = [one.log_probability for one in again]
    assert found == pytest.approx([one.log_probability for one in ranks], abs=1e-4)


@pytest.mark.parametrize(("objective", "rule"), [("ntp", "filled"), ("sp", "span")])
def test_models_of_transformers_rank_by_the_rule_of_their_objective(tmp_path, objective, rule):
    folder = hub_models.save("llama", tmp_path / "llama")
    learner = load_hub_model(folder, objective=objective)
    ranks = rank_questions(learner, example_facts(3))
    assert [(one.rule, one.n_candidates) for one in ranks] == [(rule, 3)] * 3


def test_ranks_are_read_as_they_were_written(tmp_path):
    ranks = rank_questions(Scorer(lambda text, one: len(one)), example_facts(8))
    path = tmp_path / "ranks.jsonl"
    Ranks(tuple(ranks), "scorer", "abc").save(path)
    assert load_ranks(path) == ranks
    about = json.loads(path.with_suffix(".json").read_text())
    assert (about["model"], about["trained_on"], about["rule"]) == ("scorer", "abc", "span")
    assert (about["questions"], about["candidates"]) == (8, [8])
    assert about["rank"]["value"] == np.mean([one.rank for one in ranks])
    assert about["chance_rank"] == 4.5
    path.write_text(path.read_text().replace('"rank": ', '"rank": 1'))
    with pytest.raises(UserError, match=r"ranks.jsonl: damaged or changed since it was written"):
        load_ranks(path)
    path.write_text('{"rank": 1}\n')
    write_report(path.with_suffix(".json"), {"sha256": sha256(path)})
    with pytest.raises(UserError, match=r"ranks.jsonl, line 1: question_id is missing; expected a"):
        load_ranks(path)
