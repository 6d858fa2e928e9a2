"""The Python API of injection: train, answer, score, rank and ask through `import tightframe`."""

import math

import pytest

import tightframe as tf
from example_facts import example_facts, write_facts
from tightframe.errors import UserError
from tightframe.knowledge import AnswerOptions, InjectedModel, load_answers

SMALL = {"width": 16, "depth": 1, "heads": 2, "vocab_size": 300, "positions": 128, "threads": 1}


@pytest.fixture(scope="module")
def facts():
    return tf.knowledge.FactSet(example_facts(6))


@pytest.fixture(scope="module")
def run(facts, tmp_path_factory):
    out = tmp_path_factory.mktemp("api") / "run"
    return tf.knowledge.inject(facts, model="causal_span", repeats=8, out=out, **SMALL)


def test_a_run_says_what_it_holds_and_resumes_with_the_same_arguments(run, facts):
    assert "6 facts shown 8 times, final loss" in repr(run)
    log = run.to_pandas()
    assert log["loss"].iloc[-1] == run.last_record["loss"]
    assert run.run.settings.arm == "clm_sp"  # the paper's code is what is on disk
    again = tf.knowledge.inject(facts, model="clm_sp", repeats=8, out=run.source, **SMALL)
    assert again.last_record == run.last_record
    with pytest.raises(UserError, match="belongs to a run with exposures = 8, not 9"):
        tf.knowledge.inject(facts, repeats=9, out=run.source, **SMALL)


def test_a_file_of_facts_gives_the_run_of_its_facts(run, facts, tmp_path):
    path = write_facts(tmp_path / "facts.jsonl", facts)
    other = tf.knowledge.inject(path, repeats=8, out=tmp_path / "run", **SMALL)
    assert other.run.facts["stream"] == run.run.facts["stream"]
    assert other.last_record["loss"] == run.last_record["loss"]


def test_answers_are_scored_saved_and_read_back(run, facts, tmp_path):
    answers = run.answer(facts, form="cloze_seen", max_new_tokens=4)
    assert set(answers.outputs) <= {q.id for fact in facts for q in fact.questions}
    assert repr(answers).startswith(f"Answers({len(answers.outputs)} answers of run, ")
    assert "<table" in answers._repr_html_()
    assert list(answers.to_pandas()["question_id"]) == list(answers.outputs)
    scores = answers.score(facts)
    assert isinstance(scores, tf.knowledge.Scores)
    assert 0 <= scores.to_pandas()["match_norm"].iloc[0] <= 100
    saved = load_answers(answers.save(tmp_path / "answers.jsonl"))
    assert saved.outputs == answers.outputs
    assert saved.trained_on == tf.knowledge.facts_fingerprint(facts)
    assert answers.save(tmp_path / "answers.csv").read_text().startswith("question_id,")


def test_ranks_and_a_typed_question(run, facts, tmp_path):
    ranks = run.rank(facts, candidates=4)
    assert ranks.rule == "span"
    assert 1 <= ranks.summary.rank.value <= 4
    assert "by chance 25 %" in repr(ranks)
    assert len(ranks.to_pandas()) == len(ranks.ranks)
    assert ranks.save(tmp_path / "ranks.jsonl").with_suffix(".json").is_file()
    own = facts[0].questions[0]
    answer = run.ask(facts[0].fact.replace(own.answers[0], "[MASK]"))
    assert answer.reply.evidence.fact_id in {fact.id for fact in facts}
    assert math.isnan(answer.reply.probability) or 0 <= answer.reply.probability <= 1
    assert answer.to_pandas()["text"].tolist() == [answer.text]


def test_mistakes_name_the_option_and_the_folder(facts, tmp_path):
    with pytest.raises(UserError, match="--reordered: needs --form cloze_seen or left_context"):
        AnswerOptions(reordered=True)
    with pytest.raises(UserError, match="none: no such folder"):
        InjectedModel(tmp_path / "none")
    with pytest.raises(UserError, match="unknown setting 'widht'; did you mean 'width'"):
        tf.knowledge.inject(facts, out=tmp_path / "run", widht=3)
