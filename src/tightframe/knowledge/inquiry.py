"""One typed question: what a model, or the one of several that should know, says to it.

With how sure it is, and the injected fact that is nearest to the question.

Axes: F facts, K clusters.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from math import nan
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from tightframe.errors import UserError
from tightframe.knowledge.clozes import cloze_of_question
from tightframe.knowledge.embedders import LEXICAL, WeightedWords
from tightframe.knowledge.exchanges import Form, Objective, Prompt, Said
from tightframe.knowledge.facts import MASK, Fact, Template
from tightframe.knowledge.learners import Learner
from tightframe.knowledge.routing import Rule, choose, classified_text
from tightframe.knowledge.scope import Scope

FAR = 0.4  # a cosine of weighted words: 99 % of other facts' questions are below, 1 % of own ones
FEW = 10_000  # texts: who has read fewer, and nothing else, understands no question
SILENT = f"it said nothing; begin a sentence as a fact does, or write {MASK} for the answer"
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # stands for bytes that are no text

Finish: TypeAlias = Literal["end", "length"]


@dataclasses.dataclass(frozen=True)
class Respondent:
    """A model that a question can be put to; it is loaded when it is first asked."""

    name: str
    facts: tuple[Fact, ...]  # that were injected into it
    asked_as: Form  # how a typed question is put to it
    load: Callable[[], tuple[Learner, Objective]]  # the model, and what it was taught by
    n_read: int | None = None  # texts, where it has read nothing but the facts


@dataclasses.dataclass(frozen=True)
class Panel:
    """The models of an ensemble, and what decides which of them answers."""

    scope: Scope
    models: Mapping[int, Respondent]  # of each cluster
    fallback: Respondent | None = None
    threshold: float | None = None  # the scope's, if nothing is said
    rule: Rule = "most-probable"

    def __post_init__(self) -> None:
        if self.rule == "oracle":
            raise UserError(
                "rule oracle: needs the true cluster, which a typed question has not; choose "
                "most-probable or lowest-index"
            )
        k = len(self.scope.clusters)
        if lacking := sorted(set(range(k)) - self.models.keys()):
            raise UserError(f"no model of cluster {lacking[0]}; each of the {k} clusters needs one")


class Evidence(NamedTuple):
    """The injected fact nearest to a question."""

    fact_id: str
    fact: str
    cosine: float  # in [0, 1] for weighted words, [-1, 1] for an encoder's embeddings


class Reply(NamedTuple):
    """What one model says."""

    model: str
    cluster: int | None  # whose facts it learned; None: the fallback, or a single model
    text: str
    finish: Finish  # length: cut at the limit
    probability: float  # that it says this and ends; NaN for the reason below
    reason: str
    prompt: Prompt
    template: Template
    tried: Prompt | None  # to which it said nothing; it was then asked by the other
    evidence: Evidence | None  # None: nothing injected, or no fact shares a word with the question
    note: str = ""  # what to know of the model before believing it


class Routed(NamedTuple):
    """Which cluster a question was taken to be about."""

    probabilities: tuple[float, ...]  # of each cluster; independent
    cluster: int | None  # None: the fallback
    threshold: float
    rule: Rule


class Inquiry(NamedTuple):
    """An answer, and where it comes from."""

    question: str
    reply: Reply
    routed: Routed | None  # None: there was one model only
    others: tuple[Reply, ...]  # of the models that were not chosen, if they were asked

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; the answer, the model and how sure first."""
        return {
            "question": self.question,
            **_reply(self.reply),
            "routing": None if self.routed is None else self.routed._asdict(),
            "others": [_reply(one) for one in self.others],
        }


def inquire(
    question: str,
    model: Respondent | Panel,
    *,
    ask_all: bool = False,
    embedder: str = LEXICAL,
) -> Inquiry:
    """Put a typed question to a model, or to the one of a panel whose cluster it is about.

    Args:
        question: In words, or with one [MASK] where the answer belongs.
        model: Whom to ask.
        ask_all: Ask the other models of a panel too; only the first answer counts.
        embedder: What facts look alike to: weighted words, or an encoder by name (see
            `text_encoders.model_embeddings`).

    Raises:
        UserError: There is no question, or more than one mask, or it is routed to a fallback that
            the panel lacks.
    """
    question = question.strip()
    if not classified_text(question).strip():
        raise UserError("the question is empty; ask in words, or with [MASK] for the answer")
    if (n := question.count(MASK)) > 1:
        raise UserError(f"the question has {n} {MASK}, expected at most one: the answer's place")
    if isinstance(model, Respondent):
        return Inquiry(question, _ask(question, model, None, embedder), None, ())
    routed = _routed(question, model)
    chosen = model.fallback if routed.cluster is None else model.models[routed.cluster]
    if chosen is None:
        best = int(np.argmax(routed.probabilities))
        raise UserError(
            f"no cluster is likelier than {routed.threshold:g} (the best is cluster {best}: "
            f"{routed.probabilities[best]:.3f}), and there is no fallback model; name one, or "
            "lower the threshold"
        )
    reply = _ask(question, chosen, routed.cluster, embedder)
    everyone = [*sorted(model.models.items()), (None, model.fallback)]
    others = [
        _ask(question, one, cluster, embedder)
        for cluster, one in everyone
        if ask_all and one is not None and one is not chosen
    ]
    return Inquiry(question, reply, routed, tuple(others))


def prompt_of(question: str, asked_as: Form) -> Prompt:
    """How a typed question is put to a model.

    A typed mask is a cloze for whoever fills masks. Who was trained on clozes alone gets the
    question with its wh-phrase as the mask, or with a mask behind it if it has none.
    """
    if asked_as == "continuation":
        return Prompt("continuation", question.partition(MASK)[0].rstrip())
    if MASK in question:
        return Prompt("cloze", question)
    if asked_as == "cloze":
        return Prompt("cloze", cloze_of_question(question) or f"{question} {MASK}")
    return Prompt("question", question)


def nearest_fact(
    question: str, facts: Sequence[Fact], *, embedder: str = LEXICAL
) -> Evidence | None:
    """The fact of highest cosine to the question, the first of several.

    Weighted words are compared as they are, without the few dense numbers that clusters are made
    of: on the development file's first 5,000 facts the nearest fact of a question is its own for
    99.8 %, against 87.6 % in 100 singular directions, and what no fact is about stays far away
    (a median cosine of 0.16, against 0.70).

    Returns:
        None where there are no facts, or none shares a word with the question.
    """
    if not facts:
        return None
    texts, asked = [fact.fact for fact in facts], classified_text(question)
    if embedder == LEXICAL:
        words = WeightedWords.fit(texts)
        cosines = (words(texts) @ words([asked]).T).toarray()[:, 0]  # (F,)
    else:
        from tightframe.knowledge.embedders import model_embeddings

        *known, own = model_embeddings([*texts, asked], embedder)
        cosines = np.stack(known) @ own
    best = int(np.argmax(cosines))
    if embedder == LEXICAL and cosines[best] == 0:
        return None
    return Evidence(facts[best].id, facts[best].fact, float(cosines[best]))


def _routed(question: str, panel: Panel) -> Routed:
    threshold = panel.scope.threshold if panel.threshold is None else panel.threshold
    row = tuple(panel.scope.probabilities([classified_text(question)])[0].tolist())
    chosen = choose(row, None, threshold=threshold, rule=panel.rule)
    return Routed(row, chosen, threshold, panel.rule)


def _ask(question: str, respondent: Respondent, cluster: int | None, embedder: str) -> Reply:
    learner, objective = respondent.load()
    prompt = prompt_of(question, respondent.asked_as)
    if not prompt.text:
        raise UserError(
            f"{respondent.name}: goes on with a text, but nothing stands before the {MASK}; begin "
            "the sentence"
        )
    (said,) = learner.answer([prompt])
    tried = None
    if not said.text.strip() and prompt.form == "question":
        tried, prompt = prompt, Prompt("continuation", prompt.text)
        (said,) = learner.answer([prompt])
    evidence = nearest_fact(question, respondent.facts, embedder=embedder)
    far = evidence is None or (embedder == LEXICAL and evidence.cosine < FAR)
    reason = _untold(said, objective)
    few = _note(respondent.n_read) if far or MASK not in question else ""
    if far and respondent.n_read is not None:
        reason = "it has read nothing but its facts, and none is near the question"
    elif few and not reason:
        reason = "it has read too few sentences to understand a question"
    probability = nan
    if not reason:
        ((log_probability,),) = learner.log_probabilities([prompt], [[said.text]])
        probability = math.exp(log_probability)
    return Reply(
        respondent.name,
        cluster,
        said.text,
        said.finish,
        probability,
        reason,
        prompt,
        said.template,
        tried,
        evidence,
        few or ("" if said.text.strip() else SILENT),
    )


def _note(n_read: int | None) -> str:
    if n_read is None or n_read >= FEW:
        return ""
    return (
        f"this network has read {n_read:,} sentences; ask by a cloze, as in a fact with {MASK} for "
        "its answer, or inject into a pretrained model"
    )


def _untold(said: Said, objective: Objective) -> str:
    """Why the probability of an answer isn't known; nothing if it is."""
    if objective == "ntp":  # its `log_probabilities` are differences of two
        return "it was trained on next tokens alone"
    if said.finish == "length":
        return "its answer was cut before its end"
    if REPLACEMENT in said.text:
        return "what it said is not all text"
    return ""


def _reply(reply: Reply) -> dict[str, Any]:
    return {
        "answer": reply.text,
        "model": reply.model,
        "cluster": reply.cluster,
        "probability": reply.probability,
        "reason": reply.reason,
        "finish": reply.finish,
        "asked": {"form": reply.prompt.form, "text": reply.prompt.text, "template": reply.template},
        "tried": reply.tried and {"form": reply.tried.form, "text": reply.tried.text},
        "nearest_fact": None if reply.evidence is None else reply.evidence._asdict(),
        "note": reply.note,
    }
