"""Put a typed question to a model, or to the one of several that should know the answer.

An answer says how sure the model is, and which injected fact is nearest to the question.

Axes: F facts, K clusters.
"""

import dataclasses
import math
from collections.abc import Sequence
from math import nan
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np

from tightframe.errors import UserError
from tightframe.knowledge.clozes import cloze_of_question
from tightframe.knowledge.embedders import LEXICAL, WeightedWords
from tightframe.knowledge.facts import MASK, Fact, Template
from tightframe.knowledge.model_handles import ModelEnsemble, ModelHandle
from tightframe.knowledge.options import Rule
from tightframe.knowledge.qa_models import Generation, Objective, Prompt, PromptForm, continues
from tightframe.knowledge.routing import choose, classified_text
from tightframe.results import ResultTable

if TYPE_CHECKING:
    import pandas as pd

FAR = 0.4  # a cosine of weighted words: 99 % of other facts' questions are below, 1 % of own ones
FEW = 10_000  # texts: a model that has read fewer, and nothing else, understands no question
SILENT = f"it said nothing; begin a sentence as a fact does, or write {MASK} for the answer"
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # stands for bytes that are no text

Finish: TypeAlias = Literal["end", "length"]


class NearestFact(NamedTuple):
    """Injected fact nearest to a question."""

    fact_id: str
    fact: str
    cosine: float  # in [0, 1] for weighted words, [-1, 1] for an encoder's embeddings


class Reply(NamedTuple):
    """Reply of one model."""

    model: str
    cluster: int | None  # that it learned; None: the fallback, or a single model
    text: str
    finish: Finish  # length: cut at the limit
    probability: float  # that it answers this and ends; NaN for the reason below
    reason: str
    prompt: Prompt
    template: Template
    tried: Prompt | None  # answered by nothing, so that the other was tried
    evidence: (
        NearestFact | None
    )  # None: nothing injected, or no fact shares a word with the question
    note: str = ""  # what to know of the model before believing it

    def to_dict(self) -> dict[str, Any]:
        """Return the reply as values of JSON."""
        asked, tried = self.prompt, self.tried
        return {
            "answer": self.text,
            "model": self.model,
            "cluster": self.cluster,
            "probability": self.probability,
            "reason": self.reason,
            "finish": self.finish,
            "asked": {"form": asked.form, "text": asked.text, "template": self.template},
            "tried": tried and {"form": tried.form, "text": tried.text},
            "nearest_fact": None if self.evidence is None else self.evidence._asdict(),
            "note": self.note,
        }


class ClusterChoice(NamedTuple):
    """Cluster that a question was taken to be about."""

    probabilities: tuple[float, ...]  # of each cluster; independent
    cluster: int | None  # None: the fallback
    threshold: float
    rule: Rule


@dataclasses.dataclass(frozen=True, repr=False)
class Answer(ResultTable):
    """Answer to a typed question, and where it comes from."""

    question: str
    reply: Reply
    routed: ClusterChoice | None  # None: there was one model only
    others: tuple[Reply, ...]  # of the models that were not chosen, if they were asked

    @property
    def text(self) -> str:
        """Text of the answer."""
        return self.reply.text

    @property
    def one_line(self) -> str:
        """The question, its answer and the probability of it."""
        sure = "" if math.isnan(self.reply.probability) else f" ({self.reply.probability:.3f})"
        return f"{self.question} -> {self.text}{sure}"

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as values of JSON; the answer, the model and how sure first."""
        return {
            "question": self.question,
            **self.reply.to_dict(),
            "routing": None if self.routed is None else self.routed._asdict(),
            "others": [one.to_dict() for one in self.others],
        }

    def to_pandas(self) -> "pd.DataFrame":
        """Return one row per model that was asked, that of the answer first."""
        import pandas as pd

        names = ("model", "cluster", "text", "probability", "reason", "finish", "note")
        rows = [{name: getattr(one, name) for name in names} for one in (self.reply, *self.others)]
        table = pd.DataFrame(rows)
        table["nearest_fact"] = [
            None if one.evidence is None else one.evidence.fact
            for one in (self.reply, *self.others)
        ]
        return table


def ask_model(
    question: str,
    model: ModelHandle | ModelEnsemble,
    *,
    ask_all: bool = False,
    embedder: str = LEXICAL,
) -> Answer:
    """Ask a model, or the model of an ensemble whose cluster the question is about.

    Args:
        question: In words, or with one [MASK] where the answer belongs.
        model: Model or ensemble to ask.
        ask_all: Ask the other models of an ensemble too; only the first answer counts.
        embedder: Measure of nearness: weighted words, or an encoder by name (see
            `embedders.model_embeddings`).

    Raises:
        UserError: There is no question, or more than one mask, or it is routed to a fallback that
            the ensemble lacks.
    """
    question = question.strip()
    if not classified_text(question).strip():
        raise UserError("the question is empty; ask in words, or with [MASK] for the answer")
    if (n := question.count(MASK)) > 1:
        raise UserError(f"the question has {n} {MASK}, expected at most one: the answer's place")
    if isinstance(model, ModelHandle):
        return Answer(question, _ask(question, model, None, embedder), None, ())
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
    return Answer(question, reply, routed, tuple(others))


def prompt_of(question: str, asked_as: PromptForm) -> Prompt:
    """Return the prompt that puts a typed question to a model.

    A typed mask is a cloze for models that fill masks. A model that was trained on clozes alone
    gets the question with its wh-phrase as the mask, or with a mask after it if it has none.
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
) -> NearestFact | None:
    """Return the fact of highest cosine to the question, the first of several.

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
    return NearestFact(facts[best].id, facts[best].fact, float(cosines[best]))


def _routed(question: str, ensemble: ModelEnsemble) -> ClusterChoice:
    threshold = ensemble.router.threshold if ensemble.threshold is None else ensemble.threshold
    row = tuple(ensemble.router.probabilities([classified_text(question)])[0].tolist())
    chosen = choose(row, None, threshold=threshold, rule=ensemble.rule)
    return ClusterChoice(row, chosen, threshold, ensemble.rule)


def _ask(question: str, handle: ModelHandle, cluster: int | None, embedder: str) -> Reply:
    model, objective = handle.load()
    prompt = prompt_of(question, handle.asked_as)
    if not prompt.text:
        raise UserError(
            f"{handle.name}: goes on with a text, but nothing stands before the {MASK}; begin "
            "the sentence"
        )
    (answer,) = model.answer([prompt])
    tried = None
    if not answer.text.strip() and prompt.form == "question":
        tried, prompt = prompt, Prompt("continuation", prompt.text)
        (answer,) = model.answer([prompt])
    evidence = nearest_fact(question, handle.facts, embedder=embedder)
    far = evidence is None or (embedder == LEXICAL and evidence.cosine < FAR)
    reason = _untold(answer, objective)
    few = _note(handle.n_read) if far or MASK not in question else ""
    if far and handle.n_read is not None:
        reason = "it has read nothing but its facts, and none is near the question"
    elif few and not reason:
        reason = "it has read too few sentences to understand a question"
    probability = nan
    if not reason:
        ((log_probability,),) = model.log_probabilities([prompt], [[answer.text]])
        probability = math.exp(log_probability)
    return Reply(
        handle.name,
        cluster,
        answer.text,
        answer.finish,
        probability,
        reason,
        prompt,
        answer.template,
        tried,
        evidence,
        few or ("" if answer.text.strip() else SILENT),
    )


def _note(n_read: int | None) -> str:
    if n_read is None or n_read >= FEW:
        return ""
    return (
        f"this network has read {n_read:,} sentences; ask by a cloze, as in a fact with {MASK} for "
        "its answer, or inject into a pretrained model"
    )


def _untold(answer: Generation, objective: Objective) -> str:
    """Return why the probability of an answer isn't known; nothing if it is."""
    if continues(objective):  # its `log_probabilities` are differences of two
        return "it was trained on next tokens alone"
    if answer.finish == "length":
        return "its answer was cut before its end"
    if REPLACEMENT in answer.text:
        return "what it said is not all text"
    return ""
