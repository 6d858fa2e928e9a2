"""One typed question: which model answers it, how sure it is, and the fact behind it."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from themed_examples import outside_facts, themed_facts
from tightframe.errors import UserError
from tightframe.knowledge.clusters import semantic_clusters
from tightframe.knowledge.inquiry import NearestFact, ask_model, nearest_fact, prompt_of
from tightframe.knowledge.model_handles import ModelEnsemble, ModelHandle
from tightframe.knowledge.qa_models import Generation, Prompt
from tightframe.knowledge.router import fit_router
from tiny_encoders import save_encoder


class Parrot:
    """A learner that says one thing, and counts how often it is loaded and asked."""

    def __init__(self, name, text, probability=0.5, finish="end", objective="sp"):
        self.name, self.text, self.finish, self.objective = name, text, finish, objective
        self.probability = probability
        self.loaded, self.prompts = 0, []

    module = property(lambda self: torch.nn.Identity())
    pad = 0

    def encode(self, lesson):
        raise NotImplementedError

    def loss(self, batch):
        raise NotImplementedError

    def save(self, folder):
        raise NotImplementedError

    def load(self):
        self.loaded += 1
        return self, self.objective

    def answer(self, prompts, *, max_new_tokens=32, generators=None):
        self.prompts += prompts
        return [Generation(self.text, self.finish) for _ in prompts]

    def log_probabilities(self, prompts, candidates):
        assert [list(texts) for texts in candidates] == [[self.text]]
        return [[math.log(self.probability)]]

    def respondent(self, facts=(), asked_as="cloze"):
        return ModelHandle(self.name, tuple(facts), asked_as, self.load)


class Continuer(Parrot):
    """It says nothing to questions."""

    def answer(self, prompts, *, max_new_tokens=32, generators=None):
        self.prompts += prompts
        said = ["" if one.form == "question" else self.text for one in prompts]
        return [Generation(text, self.finish) for text in said]


def test_who_says_nothing_to_a_question_is_asked_to_go_on():
    model = Continuer("m", "Port Leland.", 0.25)
    found = ask_model("The capital of Tarsuna is", model.respondent(asked_as="question")).reply
    assert (found.text, found.probability) == ("Port Leland.", 0.25)
    assert found.prompt == Prompt("continuation", "The capital of Tarsuna is")
    assert found.tried == Prompt("question", "The capital of Tarsuna is")
    talker = Parrot("m", "Port Leland.")
    assert ask_model("Where?", talker.respondent(asked_as="question")).reply.tried is None
    assert len(talker.prompts) == 1


def test_who_says_nothing_in_either_form_is_asked_to_be_given_a_sentence():
    mute = Continuer("m", " ").respondent(asked_as="question")
    found = ask_model("What is the capital of Tarsuna?", mute)
    assert found.reply.text.strip() == ""
    assert found.reply.note == (
        "it said nothing; begin a sentence as a fact does, or write [MASK] for the answer"
    )
    assert found.to_dict()["note"] == found.reply.note
    talker = Parrot("m", "Port Leland.").respondent(asked_as="question")
    assert ask_model("Where?", talker).reply.note == ""


def test_who_has_read_few_texts_says_so_and_is_not_sure_far_from_them():
    facts, _ = themed_facts()
    model = dataclasses.replace(Parrot("m", "x").respondent(facts), n_read=20)
    far = ask_model("What is the capital of France?", model).reply
    assert far.evidence is None or far.evidence.cosine < 0.4
    assert "this network has read 20 sentences; ask by a cloze" in far.note
    assert math.isnan(far.probability)
    assert far.reason == "it has read nothing but its facts, and none is near the question"
    own = facts[0].questions[0]
    cloze = facts[0].fact.replace(own.answers[0], "[MASK]")
    near = ask_model(cloze, model).reply
    assert (near.note, near.reason, near.probability) == ("", "", 0.5)
    asked = ask_model(own.prompt, model).reply
    assert asked.note == far.note
    assert math.isnan(asked.probability)
    assert asked.reason == "it has read too few sentences to understand a question"
    many = dataclasses.replace(model, n_read=10_000)
    assert ask_model(own.prompt, many).reply.note == ""
    pretrained = Parrot("m", "x").respondent(facts)
    assert ask_model("What is the capital of France?", pretrained).reply.probability == 0.5


def themed_panel(**settings):
    facts, _ = themed_facts()
    clusters = semantic_clusters(facts, 3)
    router = fit_router(clusters, outside_facts(20))
    parrots = [Parrot(f"model {c}", f"said by {c}", 0.1 * (c + 1)) for c in range(3)]
    rest = Parrot("rest", "said by the rest", 0.9)
    models = {c: parrots[c].respondent(clusters.members(c)) for c in (2, 0, 1)}
    panel = ModelEnsemble(router, models, **{"fallback": rest.respondent()} | settings)
    return panel, clusters, [*parrots, rest]


def test_the_model_of_the_likeliest_cluster_answers_and_no_other_is_loaded():
    panel, clusters, parrots = themed_panel()
    for fact, own in list(zip(clusters.facts, clusters.assignments, strict=True))[:6]:
        question = fact.questions[0].prompt
        found = ask_model(question, panel)
        assert found.reply.text == f"said by {own}"
        assert (found.reply.model, found.reply.cluster) == (f"model {own}", own)
        assert found.reply.probability == pytest.approx(0.1 * (own + 1), rel=1e-12)
        assert found.reply.evidence.fact == fact.fact
        row = panel.router.probabilities([question])[0]
        assert found.routed.probabilities == tuple(row)
        assert found.routed.cluster == own == row.argmax()
        assert found.others == ()
    assert [one.loaded for one in parrots] == [2, 2, 2, 0]


def test_what_no_cluster_is_likely_to_know_goes_to_the_fallback():
    panel, _, parrots = themed_panel()
    found = ask_model("Who led the choir of no007 singers in the cathedral anthem?", panel)
    assert (found.reply.model, found.reply.cluster) == ("rest", None)
    assert found.routed.cluster is None
    assert found.reply.evidence is None  # nothing was injected into it
    assert [one.loaded for one in parrots] == [0, 0, 0, 1]
    alone = dataclasses.replace(panel, fallback=None)
    with pytest.raises(UserError, match=r"no cluster is likelier than 0\.5 \(the best is cluster"):
        ask_model("Who led the choir of no007 singers in the cathedral anthem?", alone)


def test_a_threshold_of_the_panel_counts_before_that_of_its_scope():
    panel, clusters, _ = themed_panel(threshold=1.0)
    found = ask_model(clusters.facts[0].questions[0].prompt, panel)
    assert (found.reply.model, found.routed.threshold) == ("rest", 1.0)


def test_everyone_may_be_asked_but_one_answer_counts():
    panel, clusters, parrots = themed_panel()
    question = clusters.facts[0].questions[0].prompt
    found = ask_model(question, panel, ask_all=True)
    own = clusters.assignments[0]
    assert found.reply == ask_model(question, panel).reply
    left = [f"said by {c}" for c in range(3) if c != own]
    assert [one.text for one in found.others] == [*left, "said by the rest"]
    assert all(one.loaded for one in parrots)
    # Each shows the nearest fact of its own.
    for one in found.others[:2]:
        members = {fact.id for fact in clusters.members(one.cluster)}
        assert one.evidence.fact_id in members


def test_a_single_model_is_asked_without_any_routing():
    facts, _ = themed_facts()
    parrot = Parrot("one", "mabel", 0.25)
    found = ask_model("  Which painter sold a watercolour?  ", parrot.respondent(facts))
    assert found.routed is None
    assert found.question == "Which painter sold a watercolour?"
    assert found.reply.probability == pytest.approx(0.25)
    assert parrot.prompts == [Prompt("cloze", "[MASK] painter sold a watercolour")]


@pytest.mark.parametrize(
    ("question", "asked_as", "form", "text"),
    [
        ("Who painted it?", "cloze", "cloze", "[MASK] painted it"),
        ("In which city is it?", "cloze", "cloze", "[MASK] city is it"),
        ("How many are there?", "cloze", "cloze", "How many are there? [MASK]"),
        ("Who painted it?", "question", "question", "Who painted it?"),
        ("it was painted by [MASK] in May", "cloze", "cloze", "it was painted by [MASK] in May"),
        ("it was painted by [MASK] in May", "question", "cloze", "it was painted by [MASK] in May"),
        ("it was painted by [MASK] in May", "continuation", "continuation", "it was painted by"),
        ("it was painted by", "continuation", "continuation", "it was painted by"),
    ],
)
def test_a_question_is_put_as_the_model_has_learned(question, asked_as, form, text):
    assert prompt_of(question, asked_as) == Prompt(form, text)


@pytest.mark.parametrize(
    ("parrot", "reason"),
    [
        ({"objective": "ntp"}, "trained on next tokens alone"),
        ({"finish": "length"}, "cut before its end"),
        ({"text": "so\N{REPLACEMENT CHARACTER}"}, "not all text"),
    ],
)
def test_where_there_is_no_probability_the_reason_is_said(parrot, reason):
    facts, _ = themed_facts()
    model = Parrot(**{"name": "p", "text": "x"} | parrot).respondent(facts)
    reply = ask_model("Who was it?", model).reply
    assert np.isnan(reply.probability)
    assert reason in reply.reason


def test_a_mask_is_no_word_to_the_router_and_to_the_nearest_fact():
    panel, clusters, _ = themed_panel()
    fact = clusters.facts[0]
    whole = ask_model(fact.fact.replace("alder", "[MASK]"), panel)
    bare = ask_model(fact.fact.replace("alder", " "), panel)
    assert whole.routed.probabilities == bare.routed.probabilities
    assert whole.reply.evidence == bare.reply.evidence


def test_the_nearest_fact_is_that_of_highest_cosine_and_of_equal_ones_the_first():
    facts, _ = themed_facts()
    # The cosine by hand: TF-IDF of words and pairs, as scikit-learn has it.
    from sklearn.feature_extraction.text import TfidfVectorizer

    question = "Which locomotive with the name hydra pulled trains?"
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    known = vectorizer.fit_transform([fact.fact for fact in facts])
    cosines = (known @ vectorizer.transform([question]).T).toarray()[:, 0]
    found = nearest_fact(question, facts)
    assert found.fact_id == facts[int(cosines.argmax())].id
    assert found.cosine == pytest.approx(cosines.max(), rel=1e-12)
    assert "hydra" in found.fact
    twins = [dataclasses.replace(facts[1], id="first"), dataclasses.replace(facts[1], id="second")]
    assert nearest_fact(facts[1].questions[0].prompt, twins).fact_id == "first"
    assert nearest_fact(facts[1].fact, facts) == NearestFact(
        facts[1].id, facts[1].fact, pytest.approx(1, rel=1e-12)
    )
    assert nearest_fact("Quo vadis?", facts) is None
    assert nearest_fact(question, []) is None


def test_the_nearest_fact_by_an_encoder(tmp_path):
    facts, _ = themed_facts()
    folder = str(save_encoder(tmp_path / "m", [fact.fact for fact in facts]))
    found = nearest_fact(facts[4].fact, facts, embedder=folder)
    assert found.fact_id == facts[4].id
    assert found.cosine == pytest.approx(1, abs=1e-6)


def test_an_inquiry_is_json():
    panel, clusters, _ = themed_panel()
    found = json.loads(
        json.dumps(ask_model(clusters.facts[0].questions[0].prompt, panel, ask_all=True).to_dict())
    )
    own = clusters.assignments[0]
    assert (found["answer"], found["model"], found["cluster"]) == (
        f"said by {own}", f"model {own}", own,
    )  # fmt: skip
    assert found["probability"] == pytest.approx(0.1 * (own + 1))
    assert found["nearest_fact"]["fact_id"] == clusters.facts[0].id
    assert found["routing"]["cluster"] == own
    assert len(found["routing"]["probabilities"]) == len(found["others"]) == 3


def test_a_question_that_is_none_and_a_panel_that_lacks_a_model_are_refused():
    panel, clusters, parrots = themed_panel()
    for empty in ("", "  ", "[MASK]"):
        with pytest.raises(UserError, match="the question is empty"):
            ask_model(empty, panel)
    with pytest.raises(UserError, match=r"has 2 \[MASK\], expected at most one"):
        ask_model("[MASK] is [MASK]", panel)
    with pytest.raises(UserError, match="no model of cluster 1; each of the 3 clusters needs one"):
        ModelEnsemble(panel.router, {c: panel.models[c] for c in (0, 2)})
    with pytest.raises(UserError, match="rule oracle: needs the true cluster"):
        ModelEnsemble(panel.router, panel.models, rule="oracle")
    speaker = parrots[0].respondent(clusters.facts, "continuation")
    with pytest.raises(UserError, match=r"nothing stands before the \[MASK\]"):
        ask_model("[MASK] painted it", speaker)
