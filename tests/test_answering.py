import json

import pytest

from example_facts import example_facts
from spelling_networks import Untrainable, network
from tightframe.errors import UserError
from tightframe.knowledge.answers import answer_questions, load_answers, token_limit, write_answers
from tightframe.knowledge.asking import prompts
from tightframe.knowledge.qa_models import Generation
from tightframe.knowledge.scores import score_outputs


class Parrot(Untrainable):
    """A learner that says the prompt, and remembers how many tokens it was allowed."""

    name = "parrot"

    def answer(self, prompts, *, max_new_tokens=32, generators=None):
        self.limit = max_new_tokens
        return [
            Generation(prompt.text, "length" if "3" in prompt.text else "end") for prompt in prompts
        ]


def test_outputs_come_in_the_order_of_the_questions_with_their_ids():
    facts = example_facts()
    outputs = answer_questions(Parrot(), prompts(facts, "cloze_seen"))
    # The last third of the facts has no answer in it.
    assert [one.fact_id for one in outputs] == [fact.id for fact in facts[:4]]
    assert [one.question_id for one in outputs] == [f"{fact.id}:reliability" for fact in facts[:4]]
    assert outputs[0].text == "[MASK] painted the bridge of village number 0 twice"
    assert [one.finish for one in outputs] == ["end", "end", "end", "length"]
    assert {one.model for one in outputs} == {"parrot"}
    assert len({one.seconds for one in outputs}) == 1
    assert outputs[0].seconds > 0


def test_answers_of_a_network_are_scored_on_their_benchmark():
    facts = example_facts(kinds=("reliability",))
    net = network("prefix")
    outputs = answer_questions(net, prompts(facts, "cloze_question"))
    scores = score_outputs(facts, {"m": outputs})
    assert len(scores) == len(facts)
    assert (scores["match_norm"] == 0).all()  # it has learnt nothing


def test_the_limit_leaves_room_for_every_gold_answer():
    asked = prompts(example_facts(), "question")
    # A token a character, and the end: the longest alias is "Somebody Else", 13.
    assert token_limit(network("prefix"), asked) == 32
    long = [asked[0]._replace(answers=("Oak", "x" * 40)), *asked[1:]]
    assert token_limit(network("prefix"), long) == 40 + 1 + 4
    assert token_limit(Parrot(), long) == 64
    parrot = Parrot()
    answer_questions(parrot, asked)
    assert parrot.limit == 64
    answer_questions(parrot, asked, max_new_tokens=5)
    assert parrot.limit == 5


def test_answers_are_written_with_what_their_model_was_trained_on(tmp_path):
    asked = prompts(example_facts(), "question")
    path = tmp_path / "run" / "answers" / "question.jsonl"
    written = write_answers(path, Parrot(), asked, trained_on="abc")
    assert load_answers(path) == written
    assert (written.model, written.trained_on, len(written.outputs)) == ("parrot", "abc", 12)
    assert json.loads(path.with_suffix(".json").read_text())["trained_on"] == "abc"


def test_a_file_that_exists_is_refused_before_anything_is_asked(tmp_path):
    asked = prompts(example_facts(), "question")
    path = tmp_path / "a.jsonl"
    for there in (path, path.with_suffix(".json")):
        there.write_text("kept")
        parrot = Parrot()
        with pytest.raises(UserError, match=f"{there.name}: already exists; remove it or choose"):
            write_answers(path, parrot, asked, trained_on=None)
        assert not hasattr(parrot, "limit")
        assert there.read_text() == "kept"
        there.unlink()
    with pytest.raises(UserError, match=r"expected a name that ends with .jsonl"):
        write_answers(tmp_path / "answers", Parrot(), asked, trained_on=None)


def test_nothing_to_ask_is_said():
    with pytest.raises(UserError, match="nothing to ask: no question has this form"):
        answer_questions(Parrot(), [])


def test_two_questions_of_one_id_are_refused(tmp_path):
    asked = prompts(example_facts(), "question")
    with pytest.raises(UserError, match="two outputs for question"):
        write_answers(tmp_path / "a.jsonl", Parrot(), [*asked, asked[0]], trained_on=None)
    assert not (tmp_path / "a.jsonl").exists()
