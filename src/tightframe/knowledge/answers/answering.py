"""A learner and what it is asked: outputs in the order of the questions, on disk."""

import time
from collections.abc import Sequence
from pathlib import Path

from tightframe.knowledge.answers.asking import Asked, check_asked
from tightframe.knowledge.data.output_files import (
    Answers,
    by_question,
    check_new,
    save_answers,
)
from tightframe.knowledge.data.records import Decoding, Output
from tightframe.knowledge.data.spans import fact_generator
from tightframe.knowledge.models.decodable import Decodable
from tightframe.knowledge.models.decoding import room
from tightframe.knowledge.models.exchanges import MAX_NEW_TOKENS
from tightframe.knowledge.models.hub_base import HUB_NEW_TOKENS
from tightframe.knowledge.models.learners import Learner

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
