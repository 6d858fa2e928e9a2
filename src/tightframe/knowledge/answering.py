"""Ask a learner, with or without retrieved passages: outputs in the order of the questions."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from tightframe.errors import UserError
from tightframe.knowledge.asking import Asked, check_asked
from tightframe.knowledge.clozes import fact_generator
from tightframe.knowledge.decodable import Decodable
from tightframe.knowledge.decoding import room
from tightframe.knowledge.embedders import LEXICAL, WeightedWords, model_embeddings
from tightframe.knowledge.exchanges import MAX_NEW_TOKENS
from tightframe.knowledge.facts import MASK, Decoding, Fact, Output
from tightframe.knowledge.hub_base import HUB_NEW_TOKENS
from tightframe.knowledge.learners import Learner
from tightframe.knowledge.outputs import Answers, by_question, check_new, save_answers
from tightframe.knowledge.scores import normal_form

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


SPARE = 4  # tokens beyond the longest gold answer
PAPER_TOKENS, PAPER_TOKENS_BOTH_WAYS = 256, 266  # of an answer, as published


def answer_questions(
    learner: Learner,
    asked: Sequence[Asked],
    *,
    max_new_tokens: int | None = None,
    decoding: Decoding = "greedy",
    seed: int = 0,
    name: str | None = None,
) -> list[Output]:
    """What the learner says, in the order of what it is asked.

    Args:
        learner: What is asked.
        asked: At least one; a question too long for the learner is refused, never cut.
        max_new_tokens: Where an answer that does not end is cut; by default `token_limit`.
        decoding: greedy: the likeliest tokens. paper: a model that reads left to right draws them
            at temperature 1, others stay greedy; both go on for longer.
        seed: With a question's id, what is drawn for it.
        name: What the outputs call the model, where not by its own name: it was shown something.

    Returns:
        Outputs; their `seconds` are the time of the whole over the number of questions, since
        they are answered in batches.
    """
    check_asked(asked)
    prompts = [one.prompt for one in asked]
    limit = max_new_tokens or token_limit(learner, asked, decoding=decoding)
    draws = None
    if decoding == "paper":
        draws = [fact_generator(seed, one.question_id) for one in asked]
    begun = time.perf_counter()
    said = learner.answer(prompts, max_new_tokens=limit, draws=draws)
    seconds = (time.perf_counter() - begun) / len(asked)
    return [
        Output(
            one.question_id,
            one.fact_id,
            one.type,
            name or learner.name,
            found.text,
            seconds,
            found.finish,
            decoding,
            found.template,
        )
        for one, found in zip(asked, said, strict=True)
    ]


def token_limit(learner: Learner, asked: Sequence[Asked], *, decoding: Decoding = "greedy") -> int:
    """How many tokens an answer may have: enough for every gold one.

    A network of ours gets 32, or 4 more than the longest alias with its end if that is more; other
    models get 64. As published, models that read left to right get 256, others 266; a network of
    ours fewer, where the longest prompt leaves fewer positions (before a context: as many as else).
    """
    ours = isinstance(learner, Decodable)
    if decoding == "paper" and not (ours and any(one.prompt.context for one in asked)):
        if not isinstance(learner, Decodable):
            kind = getattr(learner, "kind", "causal")
            return PAPER_TOKENS if kind == "causal" else PAPER_TOKENS_BOTH_WAYS
        wanted = PAPER_TOKENS if learner.layout == "causal" else PAPER_TOKENS_BOTH_WAYS
        return min(wanted, room(learner, [one.prompt for one in asked]))
    if not isinstance(learner, Decodable):
        return HUB_NEW_TOKENS
    longest = max(len(learner.coder.target(alias)) for one in asked for alias in one.answers)
    return max(MAX_NEW_TOKENS, longest + SPARE)


def write_answers(
    path: str | Path,
    learner: Learner,
    asked: Sequence[Asked],
    *,
    trained_on: str | None,
    max_new_tokens: int | None = None,
    decoding: Decoding = "greedy",
    seed: int = 0,
    name: str | None = None,
) -> Answers:
    """Answer the questions into a new file, written whole; one that exists is refused.

    Args:
        path: NAME.jsonl; NAME.json beside it says whose answers these are.
        learner: What is asked.
        asked: At least one.
        trained_on: `facts_fingerprint` of the injected facts; None: nothing was injected.
        max_new_tokens: See `answer_questions`, also for what follows.
        decoding: How tokens are chosen.
        seed: Of what is drawn.
        name: What the outputs call the model.
    """
    path = Path(path)
    check_new(path)
    outputs = answer_questions(
        learner, asked, max_new_tokens=max_new_tokens, decoding=decoding, seed=seed, name=name
    )
    answers = Answers(str(path), name or learner.name, trained_on, by_question(str(path), outputs))
    save_answers(path, answers)
    return answers
