import dataclasses
import json

import numpy as np
import pytest

import hub_models
from example_facts import question, write_facts
from reference import decoding as reference
from spelling_networks import LAYOUTS, network
from tightframe import cli
from tightframe.errors import UserError
from tightframe.formats import parse_json
from tightframe.knowledge import asking as retrieval
from tightframe.knowledge.answers import load_answers
from tightframe.knowledge.asking import prompts, with_context
from tightframe.knowledge.benchmark import load_benchmark
from tightframe.knowledge.facts import Fact, fact_id
from tightframe.knowledge.hub_load import load_hub_model
from tightframe.knowledge.injection import inject
from tightframe.knowledge.injection_runs import InjectOptions
from tightframe.knowledge.qa_models import Prompt


def told(sentence):
    """A fact that is asked for by its last word."""
    made = fact_id(None, sentence)
    asked = question(made, "reliability", [sentence.split()[-1]])
    return Fact(made, None, None, None, None, sentence, sentence, sentence, questions=(asked,))


FACTS = [told(sentence) for sentence in hub_models.SENTENCES[:6]]
ASKED = prompts(FACTS, "cloze_seen")
CLOZE = Prompt("cloze", "Ada [MASK] it")


def test_a_questions_own_fact_stands_nearest_to_it():
    found = with_context(ASKED, FACTS, top=2)
    assert (found.own, found.answered) == (100.0, 100.0)
    for one, fact in zip(found.asked, FACTS, strict=True):
        other, own = one.prompt.context.split("\n\n")  # the nearest one last
        assert own == fact.fact
        assert other in {fact.fact for fact in FACTS} - {own}
    assert [one._replace(prompt=one.prompt._replace(context="")) for one in found.asked] == ASKED


def test_what_is_found_is_counted():
    # The facts of three of six questions are away, and no other one holds their answers.
    found = with_context(ASKED, FACTS[3:], top=1)
    assert (found.own, found.answered) == (50.0, 50.0)
    every = with_context(ASKED, FACTS[3:], top=9)
    assert every.asked[0].prompt.context.count("\n\n") == 2
    assert (every.own, every.answered) == (50.0, 50.0)
    aliases = [ASKED[0]._replace(answers=("nothing", "Bridge!")), *ASKED[1:]]
    assert with_context(aliases, FACTS[3:], top=9).answered == pytest.approx(400 / 6)


def test_an_encoder_ranks_by_cosine(monkeypatch):
    passages = [fact.fact for fact in FACTS]
    vectors = {text: np.eye(6)[place] for place, text in enumerate(passages)}
    towards = np.array([0.1, 0.3, 0.2, 0.9, 0.0, 0.0])

    def embedded(texts, name):
        assert name == "enc"
        return np.stack([vectors.get(text, towards / np.linalg.norm(towards)) for text in texts])

    monkeypatch.setattr(retrieval, "model_embeddings", embedded)
    found = with_context(ASKED[:1], FACTS, top=3, embedder="enc")
    assert found.asked[0].prompt.context.split("\n\n") == [passages[i] for i in (2, 1, 3)]


def test_articles_are_passages_where_facts_have_them():
    pages = [f"Page {i}. {fact.fact} It was long ago." for i, fact in enumerate(FACTS)]
    facts = [
        dataclasses.replace(fact, article=page) for fact, page in zip(FACTS, pages, strict=True)
    ]
    facts[0] = FACTS[0]  # has none
    found = with_context(ASKED, facts, passages="articles", top=1)
    assert [one.prompt.context for one in found.asked[1:]] == pages[1:]
    assert found.own == pytest.approx(500 / 6)
    with pytest.raises(UserError, match="--context articles: no fact has an article; put"):
        with_context(ASKED, FACTS, passages="articles")
    with pytest.raises(UserError, match="--top: is 0, expected at least 1"):
        with_context(ASKED, FACTS, top=0)


def test_an_article_is_read_and_written_and_absent_where_there_is_none(tmp_path):
    fact = dataclasses.replace(FACTS[0], article="All about it.\n\nMore.")
    assert parse_json(json.dumps(fact.to_dict()), Fact, source="f.jsonl") == fact
    assert "article" not in FACTS[0].to_dict()
    assert load_benchmark(write_facts(tmp_path / "f.jsonl", [fact]))[0].article == fact.article
    paper = {"case_id": "1", "fact": "that a bell fell?", "eval": {}}
    records = [paper | {"bold_entity_page": {"content": " A bell. "}}]
    records += [paper | {"fact": "that it rang?", "bold_entity_page": json.dumps({"title": "x"})}]
    path = tmp_path / "wikidyk.json"
    path.write_text(json.dumps(records))
    assert [fact.article for fact in load_benchmark(path)] == ["A bell.", ""]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_network_reads_the_end_of_a_context_that_leaves_room_for_the_answer(layout):
    context = "abc" * 40
    net = network(layout, positions=60)
    first, *rest = net.tokenizer.prompt(CLOZE.text)
    # Tokens of the prompt, and positions of the answer: 9 said and the last one not read.
    room = 60 - 1 - len(rest) - {"slots": net.n_slots, "encoder-decoder": 0}.get(layout, 8)
    read = [first, *net.tokenizer.letters(context)[-room:], *rest]
    expected = net.tokenizer.text(reference.greedy(net, read, 9)[0])
    (said,) = net.answer([CLOZE._replace(context=context)], max_new_tokens=9)
    assert said.text == expected
    short = network(layout, positions=len(rest) + 1 + 60 - room - len(rest) - 1)
    (without,) = short.answer([CLOZE._replace(context=context)], max_new_tokens=9)
    assert without == short.answer([CLOZE], max_new_tokens=9)[0]  # no room for any of it


def test_a_published_prompt_has_its_context_cut_from_the_left(tmp_path):
    learner = load_hub_model(hub_models.save("llama", tmp_path / "llama"))
    prompt = Prompt("question", "Who sold it?", "Ivo Brandt sold the bridge")
    asked = "Based on the above contexts, answer the following question:Who sold it?\nAnswer:"
    put = learner._ids(learner._put(prompt))
    assert learner.tokenizer.decode(put) == asked
    whole = learner._with_context(put, prompt, more=5)
    assert learner.tokenizer.decode(whole) == f"Ivo Brandt sold the bridge\n\n{asked}"
    over = 128 - len(whole) + 3  # the model reads 128 tokens: three of the context are too many
    assert learner._with_context(put, prompt, more=over) == whole[3:]
    assert learner._with_context(put, prompt._replace(context=""), more=over) == put
    with pytest.raises(UserError, match="the context of question 'Who sold it\\?' holds '</s>'"):
        learner.answer([prompt._replace(context="a</s>")])
    long = prompt._replace(context="the bridge " * 300)
    assert learner.answer([long], max_new_tokens=4)


@pytest.mark.parametrize("name", ["t5", "roberta"])
def test_models_that_read_both_ways_read_a_context_too(tmp_path, name):
    learner = load_hub_model(hub_models.save(name, tmp_path / name))
    question = Prompt("question", "Who sold it?", "Ivo Brandt sold the bridge " * 60)
    for prompt in (question, Prompt("cloze", "[MASK] sold it", question.context)):
        assert learner.answer([prompt], max_new_tokens=4)


def test_the_command_retrieves_answers_and_says_what_was_found(tmp_path, capsys):
    data = write_facts(tmp_path / "facts.jsonl", FACTS)
    sizes = {"width": 16, "depth": 1, "heads": 2, "vocab_size": 300, "positions": 128}
    inject(InjectOptions(data=data, out=tmp_path / "run", arm="clm_sp", exposures=2, **sizes))
    shared = ["knowledge", "answer", str(tmp_path / "run"), "--data", str(data)]
    cli.main([*shared, "--form", "cloze_seen", "--context", "facts", "--top", "1", "--json"])
    made = json.loads(capsys.readouterr().out)
    path = tmp_path / "run" / "answers" / "cloze_seen_with_facts.jsonl"
    assert made["answers"] == str(path)
    assert (made["own_fact"], made["answer_there"]) == (100.0, 100.0)
    assert load_answers(path).model == "run with facts"
    assert {one.model for one in load_answers(path).outputs.values()} == {"run with facts"}
    with pytest.raises(SystemExit):
        cli.main([*shared, "--among", str(data)])
    assert "--among: needs --context" in capsys.readouterr().err
