"""The baseline without injection: what is nearest to a question stands in front of it.

Axes: N questions, P passages, V words and word pairs.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from tightframe.errors import UserError
from tightframe.knowledge.answers.asking import Asked
from tightframe.knowledge.data.records import MASK, Fact
from tightframe.knowledge.ensemble.text_embeddings import LEXICAL, WeightedWords
from tightframe.knowledge.ensemble.text_encoders import model_embeddings
from tightframe.knowledge.evaluation.scores import normal_form

TOP = 3  # passages in front of a question, as published

# facts: the sentences themselves. articles: those of the targets, as published.
Passages: TypeAlias = Literal["facts", "articles"]


class Retrieved(NamedTuple):
    """Questions with what was found for them, and how good that is."""

    asked: list[Asked]  # prompts with a context, the nearest passage last: the first ones are cut
    own: float  # percent of questions whose own fact is among the passages
    answered: float  # percent of questions with an answer in them: what a perfect reader would get


def with_context(
    asked: Sequence[Asked],
    facts: Sequence[Fact],
    *,
    passages: Passages = "facts",
    top: int = TOP,
    embedder: str = LEXICAL,
) -> Retrieved:
    """Put the nearest passages in front of each question.

    Args:
        asked: At least one.
        facts: Where passages come from; of equally near ones the first is nearer.
        passages: What of a fact is a passage; facts without one give none.
        top: How many stand in front of a question; fewer where there are fewer.
        embedder: What is near: `tf-idf`, or an encoder by folder or hub name, which cuts nothing
            and refuses what is too long for it.
    """
    if top < 1:
        raise UserError(f"--top: is {top}, expected at least 1")
    held = {fact.id: fact.fact if passages == "facts" else fact.article for fact in facts}
    held = {id: text for id, text in held.items() if text}
    if not held:
        raise UserError(
            "--context articles: no fact has an article; put the text of its target's page under "
            "the key article, or take --context facts"
        )
    ids, texts = list(held), list(held.values())
    queries = [one.prompt.text.replace(MASK, " ") for one in asked]
    nearest = _nearest(_cosines(queries, texts, embedder), top)
    found, own, answered = [], 0, 0
    for one, places in zip(asked, nearest.tolist(), strict=True):
        context = "\n\n".join(texts[place] for place in places[::-1])
        found.append(one._replace(prompt=one.prompt._replace(context=context)))
        own += one.fact_id in {ids[place] for place in places}
        answered += any(_holds(texts[place], one.answers) for place in places)
    return Retrieved(found, 100 * own / len(asked), 100 * answered / len(asked))


def _cosines(
    queries: Sequence[str], texts: Sequence[str], embedder: str
) -> Float[np.ndarray, "N P"]:
    if embedder == LEXICAL:
        words = WeightedWords.fit(texts)
        return np.asarray((words(queries) @ words(texts).T).toarray(), dtype=np.float64)
    every = model_embeddings([*texts, *queries], embedder)
    return np.asarray(every[len(texts) :] @ every[: len(texts)].T, dtype=np.float64)


def _nearest(cosines: Float[np.ndarray, "N P"], top: int) -> Int[np.ndarray, "N top"]:
    """The nearest passages of each question, the nearest first."""
    return np.argsort(-cosines, axis=1, kind="stable")[:, :top]


def _holds(passage: str, answers: Sequence[str]) -> bool:
    """Whether an alias's words stand in a row in the passage, normalised as for the scores."""
    read = f" {normal_form(passage)} "
    return any(f" {words} " in read for words in map(normal_form, answers))
