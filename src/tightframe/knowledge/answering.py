"""A learner and what it is asked: outputs in the order of the questions, on disk."""

import time
from collections.abc import Sequence
from pathlib import Path

from tightframe.errors import UserError
from tightframe.knowledge.asking import Asked
from tightframe.knowledge.decodable import Decodable
from tightframe.knowledge.hub_base import HUB_NEW_TOKENS
from tightframe.knowledge.learners import MAX_NEW_TOKENS, Learner
from tightframe.knowledge.output_files import Answers, by_question, save_answers
from tightframe.knowledge.records import Output

SPARE = 4  # tokens beyond the longest gold answer


def answer_questions(
    learner: Learner, asked: Sequence[Asked], *, max_new_tokens: int | None = None
) -> list[Output]:
    """What the learner says, greedily, in the order of what it is asked.

    Args:
        learner: What is asked.
        asked: At least one; a question too long for the learner is refused, never cut.
        max_new_tokens: Where an answer that does not end is cut; by default `token_limit`.

    Returns:
        Outputs; their `seconds` are the time of the whole over the number of questions, since
        they are answered in batches.
    """
    if not asked:
        raise UserError(
            "nothing to ask: no question has this form and these types; "
            "choose others, or facts with questions"
        )
    prompts = [one.prompt for one in asked]
    limit = token_limit(learner, asked) if max_new_tokens is None else max_new_tokens
    begun = time.perf_counter()
    said = learner.answer(prompts, max_new_tokens=limit)
    seconds = (time.perf_counter() - begun) / len(asked)
    return [
        Output(
            one.question_id, one.fact_id, one.type, learner.name, found.text, seconds, found.finish
        )
        for one, found in zip(asked, said, strict=True)
    ]


def token_limit(learner: Learner, asked: Sequence[Asked]) -> int:
    """How many tokens an answer may have: enough for every gold one.

    A network of ours gets 32, or 4 more than the longest alias with its end if that is more; other
    models get 64.
    """
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
) -> Answers:
    """Answer the questions into a new file, written whole; one that exists is refused.

    Args:
        path: NAME.jsonl; NAME.json beside it says whose answers these are.
        learner: What is asked.
        asked: At least one.
        trained_on: `facts_fingerprint` of the injected facts; None: nothing was injected.
        max_new_tokens: See `answer_questions`.
    """
    path = Path(path)
    check_new(path)
    outputs = answer_questions(learner, asked, max_new_tokens=max_new_tokens)
    answers = Answers(str(path), learner.name, trained_on, by_question(str(path), outputs))
    save_answers(path, answers)
    return answers


def check_new(path: Path) -> None:
    """Refuse what cannot become a new file of results, before the work and not after it."""
    if path.suffix != ".jsonl":
        raise UserError(f"{path}: expected a name that ends with .jsonl")
    for one in (path, path.with_suffix(".json")):
        if one.exists():
            raise UserError(f"{one}: already exists; remove it or choose another name with --out")
