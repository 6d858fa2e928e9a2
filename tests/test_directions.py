"""Facts asked forward and backward, planted facts, and the distance of their two entries."""

import dataclasses

import numpy as np
import pytest

from example_facts import example_facts
from tightframe import cli
from tightframe.errors import UserError
from tightframe.knowledge.asking import prompts
from tightframe.knowledge.benchmark import load_benchmark
from tightframe.knowledge.directions import (
    backward_question,
    entry_distances,
    forward_question,
    plant,
)
from tightframe.knowledge.facts import MASK, Fact, Question, fact_id
from tightframe.knowledge.models import inject
from tightframe.knowledge.questions import make_questions
from tightframe.knowledge.scores import score_answer


def fact(text, answer):
    id_ = fact_id(None, text)
    asked = Question(f"{id_}:reliability", "reliability", "question", "Who?", None, (answer,), "f")
    return Fact(id_, None, None, None, None, text, f"that {text}?", text, questions=(asked,))


@pytest.mark.parametrize(
    ("text", "answer", "forward", "backward"),
    [
        (
            "Ada Quill, a mason, built the Alder Bridge in 1911 alone",
            "Ada Quill",
            (f"Ada Quill, a mason, built the Alder Bridge in {MASK}", "1911"),
            f"a mason, built the Alder Bridge in 1911 alone — {MASK}",
        ),
        (
            "the mason Ada Quill slept under a bridge",
            "Ada Quill",
            (f"the mason Ada Quill slept under {MASK}", "a bridge"),
            f"slept under a bridge — the mason {MASK}",
        ),
        ("the bridge was built by Ada Quill", "Ada Quill", None, None),
    ],
)
def test_a_fact_is_asked_in_both_directions(text, answer, forward, backward):
    one = fact(text, answer)
    ahead, back = forward_question(one), backward_question(one)
    assert (ahead and (ahead.cloze, ahead.answers[0])) == forward
    assert (back and back.cloze) == backward
    assert back is None or back.answers == (answer,)


def test_directions_are_written_where_they_are_requested_and_checked():
    facts = [fact("Ada Quill sold Ada Quill to Boro", "Ada Quill"), *example_facts()]
    made = make_questions(facts, types=("forward", "backward"))
    kinds = {question.type for one in made.facts for question in one.questions}
    assert {"forward", "backward"} <= kinds
    # The rest of the first fact holds its subject again.
    assert any(one.reason == "answer_in_prompt" for one in made.dropped)
    usual = make_questions(facts)
    assert not {"forward", "backward"} & {q.type for one in usual.facts for q in one.questions}


def test_planted_facts_never_contradict_each_other():
    facts = plant(400, seed=3)
    asked = {kind: [q for f in facts for q in f.questions if q.type == kind] for kind in KINDS}
    both = [*asked["forward"], *asked["backward"]]
    # Every name has one description and the reverse: no prompt and no answer occurs twice.
    assert len({q.prompt for q in both}) == len({q.answers[0] for q in both}) == 800
    assert all(q.prompt.endswith(MASK) for q in both)
    for one in facts:
        ahead, back = (next(q for q in one.questions if q.type == kind) for kind in KINDS)
        assert ahead.prompt.replace(MASK, ahead.answers[0]) == one.fact
        assert back.prompt.replace(MASK, back.answers[0]) == one.reordered[0]
        assert back.answers[0] in one.fact
    assert sum(one.fact.startswith("The one") for one in facts) == 200
    assert plant(400, seed=3).facts == facts.facts != plant(400, seed=4).facts
    assert not make_questions(facts, types=()).dropped
    with pytest.raises(UserError, match="--n 0: expected at least 1"):
        plant(0)
    with pytest.raises(UserError, match="--n 9,999: there are not so many names"):
        plant(9_999)


KINDS = ("forward", "backward")


def test_the_command_writes_facts_that_every_command_reads(tmp_path, capsys):
    out = tmp_path / "planted.jsonl"
    cli.main(["knowledge", "plant", "--n", "5", "--seed", "2", "--out", str(out)])
    assert "5 facts, 15 questions" in capsys.readouterr().out
    assert load_benchmark(out, strict=True) == list(plant(5, seed=2))


def recall(run, facts, form):
    answers = run.answer(facts, form=form).outputs
    gold = {q.id: q.answers for one in facts for q in one.questions}
    found = [score_answer(gold[id_], one.text).match_norm for id_, one in answers.items()]
    assert len(found) == len(facts)
    return np.mean(found)


def test_a_causal_model_answers_backward_at_chance_and_both_orders_repair_it(tmp_path):
    facts = plant(12)
    sizes = {"width": 48, "vocab_size": 400, "positions": 60, "learning_rate": 4e-3}
    settings = {**sizes, "warmup": 0.1, "device": "cpu", "threads": 1}
    one = inject(facts, out=tmp_path / "one", model="causal", repeats=150, **settings)
    assert recall(one, facts, "forward") >= 0.9
    # Chance is 1/6: six facts end with a name, six with a description.
    assert recall(one, facts, "backward") <= 0.2
    both = inject(
        facts, out=tmp_path / "both", model="causal", repeats=400, reordered=True, **settings
    )
    assert recall(both, facts, "forward") >= 0.9
    assert recall(both, facts, "backward") >= 0.9


def test_a_question_of_a_direction_is_asked_of_every_model_by_the_same_words():
    facts = plant(3)
    (first, *_) = prompts(facts, "backward")
    assert (first.prompt.form, first.type) == ("cloze", "backward")
    assert first.prompt.opening + f" {MASK}" == first.prompt.text
    assert not prompts([dataclasses.replace(one, questions=()) for one in facts], "forward")


def test_entries_that_agree_are_nearest_to_each_other():
    forward = np.random.default_rng(0).normal(size=(9, 5))
    # Centring takes a shift away, a cosine a scale; the nearest is one's own.
    found = entry_distances(forward, forward + 7)
    assert found.cosine == pytest.approx(np.ones(9))
    assert found.rank.tolist() == [1] * 9


def test_entries_are_compared_as_by_definition():
    generator = np.random.default_rng(1)
    forward, backward = generator.normal(size=(2, 7, 4))
    found = entry_distances(forward, backward)
    ours, theirs = forward - forward.mean(0), backward - backward.mean(0)
    for i in range(7):
        cosines = [
            ours[i] @ theirs[j] / np.linalg.norm(ours[i]) / np.linalg.norm(theirs[j])
            for j in range(7)
        ]
        distances = [np.linalg.norm(ours[i] - theirs[j]) for j in range(7)]
        assert found.cosine[i] == pytest.approx(cosines[i])
        assert found.others[i] == pytest.approx(np.mean(cosines[:i] + cosines[i + 1 :]))
        assert found.rank[i] == 1 + sum(d < distances[i] for d in distances)
    with pytest.raises(ValueError, match="expected at least 2 facts, got 1"):
        entry_distances(forward[:1], backward[:1])
