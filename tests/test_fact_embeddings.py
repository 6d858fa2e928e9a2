import pytest
import torch

from painted_facts import painted_facts, painted_network
from studies.recall_geometry.embeddings import AskedFact, embed_facts
from studies.recall_geometry.variants import answer_variants
from tightframe.errors import UserError
from tightframe.knowledge.clozes import Span
from tightframe.knowledge.qa_models import Prompt, TrainingExample
from tightframe.lm.interface import collate

ARMS = ("clm_sp", "bilm_sp", "bilm_mlm", "bilm_ed")


def asked(facts):
    found = []
    for fact in facts:
        name, question = fact.questions[0].answers[0], fact.questions[0].prompt
        before, _, after = fact.fact.partition(name)
        cloze = question.removesuffix("?").replace("Who", "[MASK]")
        found.append(AskedFact(fact.id, Span(before, name, after), Prompt("cloze", cloze)))
    return found


@pytest.mark.parametrize("arm", ARMS)
def test_embeddings_are_those_behind_the_answers_first_token(arm):
    facts = asked(painted_facts(6))
    network = painted_network(arm)
    found = embed_facts(network, facts)
    assert found.fact_ids == tuple(fact.fact_id for fact in facts)
    row = 0
    for label, fact in enumerate(facts):
        words = network.tokenizer.target(fact.answer.span)[:-1]
        for variant in answer_variants(fact.answer, without=fact.question.text):
            # The naive twin: one row at a time; the place is found by counting tokens.
            told = network.tokenizer.target(variant.before)[:-1] if variant.before else []
            lesson = TrainingExample(fact.fact_id, "sp", variant.cloze, variant.target)
            example = network.encode(lesson)
            first = next(i for i, target in enumerate(example.targets) if target != -100)
            place = first + len(told)
            assert list(example.targets[place:][: len(words)]) == words
            expected = network.model.embed(collate([example], pad=network.pad))[0, place]
            assert torch.allclose(found.variants[row], expected.detach().double(), atol=1e-5)
            assert found.labels[row] == label
            row += 1
    assert row == len(found.labels)
    assert (torch.bincount(found.labels) >= 8).all()


@pytest.mark.parametrize("arm", ARMS)
def test_words_after_the_answer_are_not_looked_at(arm):
    # What is predicted later can't matter: with the whole span as the target nothing changes.
    fact = asked(painted_facts(2))[0]
    network = painted_network(arm)
    spans = [one for one in answer_variants(fact.answer) if one.n_words == 5]
    for one in spans:
        words = fact.answer.sentence.split()[:5]
        short, long = (
            network.encode(TrainingExample("f", "sp", one.cloze, target))
            for target in (one.target, " ".join(words))
        )
        place = next(i for i, target in enumerate(short.targets) if target != -100)
        a, b = (
            network.model.embed(collate([example], pad=network.pad))[0, place]
            for example in (short, long)
        )
        assert torch.allclose(a, b, atol=1e-6)


def test_a_question_that_is_the_masked_sentence_is_no_sample_of_its_fact():
    facts = asked(painted_facts(4))
    assert facts[0].question.text == facts[0].answer.cloze
    found = embed_facts(painted_network(), facts)
    near = torch.cdist(found.questions, found.variants)[0]
    assert near.min() > 1e-6
    assert (torch.bincount(found.labels) >= 8).all()  # a longer span takes its place


def test_the_question_is_read_where_the_learner_would_answer():
    facts = asked(painted_facts(6))
    network = painted_network()
    found = embed_facts(network, facts)
    prompts = [fact.question for fact in facts]
    expected = network.answer_embeddings(prompts).double()
    assert torch.allclose(found.questions, expected)
    logits = expected @ network.classifier.detach().double().T
    for i, fact in enumerate(facts):
        token = network.tokenizer.target(fact.answer.span)[0]
        others = torch.cat([logits[i, :token], logits[i, token + 1 :]])
        margin = logits[i, token] - others.max()
        assert found.logit_margins[i] == pytest.approx(float(margin), abs=1e-5)
        assert torch.equal(found.token_rows[i], network.classifier[token].detach().double())


def test_a_fact_with_few_variants_is_left_out_and_counted():
    facts = asked(painted_facts(4))
    short = AskedFact("short", Span("", "Ada", " ran off"), Prompt("cloze", "[MASK] ran"))
    found = embed_facts(painted_network(), [facts[0], short, *facts[1:]])
    assert found.fact_ids == tuple(fact.fact_id for fact in facts)
    assert found.excluded == {"short": "3 variants, fewer than 8"}


def test_a_long_span_that_has_no_room_in_the_slots_is_no_variant():
    # Answers at the end need spans longer than training's, which begin earlier and tell more.
    network, facts = painted_network("bilm_mlm", n_slots=12), asked(painted_facts(4))
    with_room = {
        fact.fact_id: [
            len(network.tokenizer.target(one.target)) <= 12
            for one in answer_variants(fact.answer, without=fact.question.text)
        ]
        for fact in facts
    }
    assert {all(room) for room in with_room.values()} == {True, False}
    expected = {
        fact: f"{sum(room)} variants, fewer than 8"
        for fact, room in with_room.items()
        if sum(room) < 8
    }
    assert embed_facts(network, facts).excluded == expected


def test_one_fact_is_not_enough():
    facts = painted_facts(1)
    with pytest.raises(UserError, match="1 of 1 facts have 8 masks over their answer"):
        embed_facts(painted_network(), asked(facts))


def test_the_model_is_left_as_it_was():
    facts = painted_facts(2)
    network = painted_network()
    network.module.train()
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    embed_facts(network, asked(facts))
    assert network.module.training
    assert all(torch.equal(before[k], v) for k, v in network.module.state_dict().items())
