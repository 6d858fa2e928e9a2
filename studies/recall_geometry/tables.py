"""One model and the facts it was taught: recalled or not, how sure it is, and their geometry.

What recall means here: the greedy answer to the fact's question as a cloze (`cloze_question` of
`knowledge.asking`) holds the words of an alias in a row (`match_norm`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from studies.recall_geometry.embeddings import AskedFact, FactEmbeddings, embed_facts
from studies.recall_geometry.geometry import fact_geometry
from tightframe.knowledge.answers import answer_questions
from tightframe.knowledge.asking import QuestionPrompt, prompts
from tightframe.knowledge.clozes import MAX_SPAN, Span
from tightframe.knowledge.facts import MASK, Fact
from tightframe.knowledge.networks import Network
from tightframe.knowledge.options import QuestionForm
from tightframe.knowledge.scores import score_answer


class FactTable(NamedTuple):
    """Facts of one model, those that have enough variants."""

    rows: pd.DataFrame  # a line a fact; see `fact_table`
    embeddings: FactEmbeddings
    n_excluded: int  # facts that can't be asked, or have too few variants


def fact_table(learner: Network, facts: Sequence[Fact], *, max_span: int = MAX_SPAN) -> FactTable:
    """Ask a model for its facts, and look at the embeddings behind the answers.

    Args:
        learner: Was taught facts by spans: these, or others.
        facts: With their questions; the first reliability question of each is asked.
        max_span: Words of the longest span that it was trained on.

    Returns:
        A line a fact: fact_id, position, answer_start (words before the answer over all words),
        answer_words, verbatim (whether the question is the masked sentence word for word),
        recalled, seen (the same for the fact's own sentence), log_probability (of the first alias
        after the question, nats), log_probability_seen (of the masked words after the sentence),
        and what `fact_geometry` gives.
    """
    sentences = _first_of_each(facts, "cloze_seen")
    questions = _first_of_each(facts, "cloze_question")
    both = [fact for fact in facts if fact.id in sentences and fact.id in questions]
    spans = {fact.id: _masked(fact.fact, sentences[fact.id].prompt.text) for fact in both}
    wanted = [AskedFact(fact.id, spans[fact.id], questions[fact.id].prompt) for fact in both]
    embeddings = embed_facts(learner, wanted, max_span=max_span)
    geometry = fact_geometry(embeddings)
    asked = [questions[fact] for fact in embeddings.fact_ids]
    shown = [sentences[fact] for fact in embeddings.fact_ids]
    own = [spans[fact] for fact in embeddings.fact_ids]
    rows = pd.DataFrame(
        {
            "fact_id": embeddings.fact_ids,
            "position": [one.position for one in asked],
            "answer_start": [len(one.before.split()) / len(one.sentence.split()) for one in own],
            "answer_words": [len(one.span.split()) for one in own],
            "verbatim": [
                one.prompt.text.strip() == other.prompt.text.strip()
                for one, other in zip(asked, shown, strict=True)
            ],
            "recalled": _recalled(learner, asked),
            "seen": _recalled(learner, shown),
            "log_probability": _log_probabilities(learner, asked, [a.answers[0] for a in asked]),
            "log_probability_seen": _log_probabilities(learner, shown, [one.span for one in own]),
        }
    )
    rows = rows.merge(geometry, on="fact_id", validate="one_to_one")
    return FactTable(rows, embeddings, len(facts) - len(rows))


def _first_of_each(facts: Sequence[Fact], form: QuestionForm) -> dict[str, QuestionPrompt]:
    found: dict[str, QuestionPrompt] = {}
    for one in prompts(facts, form):
        found.setdefault(one.fact_id, one)
    return found


def _masked(fact: str, cloze: str) -> Span:
    """What a cloze of a fact masks."""
    before, _, after = cloze.partition(MASK)
    return Span(before, fact[len(before) : len(fact) - len(after)], after)


def _recalled(learner: Network, asked: Sequence[QuestionPrompt]) -> list[bool]:
    outputs = answer_questions(learner, asked)
    return [
        score_answer(one.answers, output.text).match_norm == 1
        for one, output in zip(asked, outputs, strict=True)
    ]


def _log_probabilities(
    learner: Network, asked: Sequence[QuestionPrompt], answers: Sequence[str]
) -> list[float]:
    found = learner.log_probabilities(
        [one.prompt for one in asked], [[answer] for answer in answers]
    )
    return [one for [one] in found]
