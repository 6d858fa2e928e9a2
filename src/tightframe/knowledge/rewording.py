"""From a file of facts to one with other wordings of them, to train on.

Facts are reordered by rule, and paraphrased by a model. There are no paraphrases by rules: rules do
for questions, which are checked and may be stiff, but a statement in which the wrong clause moved
is false, and would be trained. The unfinished file is beside it (`benchmark.py`); what an endpoint
said is kept in replies/.
"""

import collections
import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tightframe.knowledge import llm, wording_prompts
from tightframe.knowledge.benchmark import load_benchmark, refuse_finished, save
from tightframe.knowledge.clozes import answer_span
from tightframe.knowledge.kinds import MAX_ANSWER_WORDS, contains, found_targets
from tightframe.knowledge.records import WORDINGS, Fact, QuestionAnswer
from tightframe.knowledge.summary import normalise

JOIN = " — "  # between what followed the answer and what led to it

_WORD = re.compile(r"\w")
_CLOSE_QUOTE = re.compile(r"\s*[\"”]")
_SEAM = " ,;:\u2013—"  # what may hang on the words that now begin or end the sentence


def reordered(fact: Fact) -> str | None:
    """The fact rotated so that the words of its answer end it.

    What follows the answer comes first, then a dash, then what stood before the answer, then the
    answer: "Ada Brandt, a mason, built it" is "a mason, built it — Ada Brandt". Every word stands
    there once, in no other form; only commas, colons and dashes that hung on its new ends and at
    the seam are left out. Quotation marks around the answer stay with it.

    Returns:
        The fact as it is where the answer ends it already; None if the answer is not in it. The
        answer is the first alias of the first reliability question that stands in the fact, or,
        of a fact without such a question, its first target.
    """
    span = answer_span(fact.fact, _answers(fact))
    if span is None:
        return None
    before, after = span.before, span.after
    closing = _CLOSE_QUOTE.match(after) if _in_quotes(before) else None
    cut = closing.end() if closing else 0
    ending, rest = span.span + after[:cut], after[cut:]
    if not _WORD.search(rest):
        return fact.fact
    return rest.strip(_SEAM) + JOIN + (before + ending.rstrip(_SEAM)).lstrip()


def with_reordered(facts: Sequence[Fact]) -> list[Fact]:
    """Facts with their reordered form, where a rule gives one; those that have one keep theirs."""
    return [
        fact
        if fact.reordered or (form := reordered(fact)) is None
        else dataclasses.replace(fact, reordered=(form,))
        for fact in facts
    ]


def _in_quotes(before: str) -> bool:
    """Whether a quotation mark that nothing has closed yet is the last character."""
    last = before.rstrip()
    return last.endswith("“") or (last.endswith('"') and last.count('"') % 2 == 1)


def _answers(fact: Fact) -> tuple[str, ...]:
    asked = next((one for one in fact.questions if one.type == "reliability"), None)
    if asked is not None:
        return asked.answers
    return tuple(target.label for target in found_targets(fact)[:1])


_Kind: TypeAlias = Literal["paraphrases", "generated_qas"]
_Dropped: TypeAlias = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Reworded:
    """What a run has written, for its reader."""

    facts: int
    wordings: dict[str, int]  # texts by name, see `records.WORDINGS`
    without_answer: int  # facts that could not be reordered: their answer is not in them
    dropped: dict[str, int]  # by reason
    requests: int  # sent to an endpoint


def reword(
    facts: Path,
    out: Path,
    *,
    reordered: bool = False,
    paraphrases: int = 0,
    generated_qas: bool = False,
    strict: bool = False,
    wait: float = 1.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Reworded:
    """Write facts with other wordings; those of a kind that a fact has are kept, not added to.

    Args:
        facts: A file of facts, in any format that is read.
        out: The new file; one that an earlier run left unfinished is written again.
        reordered: The fact with its answer at the end, by rule.
        paraphrases: How many to ask an endpoint for.
        generated_qas: Ask an endpoint for question-answer pairs to train on.
        strict: See `load_benchmark`.
        wait: Seconds before an endpoint is asked again, see `ask_all`.
        progress: Called with the number of requests that are answered, and of all.

    Raises:
        PartlyDoneError: The endpoint gave no wordings for some facts; all others are written.
    """
    refuse_finished(out)
    read = load_benchmark(facts, strict=strict)
    done = with_reordered(read) if reordered else list(read)
    without_answer = sum(not fact.reordered for fact in done) if reordered else 0
    wanted: dict[_Kind, bool] = {
        "paraphrases": paraphrases > 0,
        "generated_qas": generated_qas,
    }
    lacking = [
        (index, kind)
        for index, fact in enumerate(done)
        for kind, asked_for in wanted.items()
        if asked_for and not getattr(fact, kind)
    ]
    left: dict[int, str] = {}
    dropped: list[_Dropped] = []
    requests = 0
    if lacking:
        replies = llm.ask_all(
            [_messages(done[index], kind, paraphrases) for index, kind in lacking],
            llm.Endpoint.from_environment(),
            [_PARSE[kind] for _, kind in lacking],
            cache=out.parent / "replies",
            wait=wait,
            progress=lambda answered: progress(answered, len(lacking)),
        )
        requests = replies.requests
        for (index, kind), reply, reason in zip(
            lacking, replies.parsed, replies.reasons, strict=True
        ):
            if reason:
                left.setdefault(index, reason)
            elif kind == "paraphrases":
                done[index] = _paraphrased(done[index], reply["paraphrases"][:paraphrases], dropped)
            else:
                done[index] = _paired(done[index], wording_prompts.pairs_of(reply), dropped)
    save(out, done, left, dropped, what="wordings")
    return Reworded(
        facts=len(done),
        wordings={name: sum(len(getattr(fact, name)) for fact in done) for name in WORDINGS},
        without_answer=without_answer,
        dropped=dict(sorted(collections.Counter(one["reason"] for one in dropped).items())),
        requests=requests,
    )


def _messages(fact: Fact, kind: _Kind, n: int) -> llm.Messages:
    if kind == "paraphrases":
        return wording_prompts.paraphrase_messages(fact, n)
    return wording_prompts.pair_messages(fact)


_PARSE: dict[_Kind, llm.Parse] = {
    "paraphrases": wording_prompts.parse_paraphrases,
    "generated_qas": wording_prompts.parse_pairs,
}


def _paraphrased(fact: Fact, new: Sequence[str], dropped: list[_Dropped]) -> Fact:
    """The fact with the paraphrases that hold its answer and differ from it and one another."""
    aliases = [
        alias
        for question in fact.questions
        if question.type == "reliability"
        for alias in question.answers
    ]
    seen = {normalise(fact.fact)}
    kept = []
    for text in new:
        reason = "duplicate" if normalise(text) in seen else ""
        if _holds(fact.fact, aliases) and not _holds(text, aliases):
            reason = "answer_lost"
        if reason:
            dropped.append({"fact_id": fact.id, "paraphrase": text, "reason": reason})
        else:
            kept.append(text)
        seen.add(normalise(text))
    return dataclasses.replace(fact, paraphrases=tuple(kept))


def _paired(fact: Fact, new: Sequence[QuestionAnswer], dropped: list[_Dropped]) -> Fact:
    """The fact with the pairs that pass the checks of questions.

    What is asked of the fact is not trained on: such a pair is dropped as `asked`.
    """
    asked = {normalise(question.prompt) for question in fact.questions}
    seen: set[str] = set()
    kept = []
    for pair in new:
        said = normalise(pair.question)
        if reason := _failure(pair, said, asked, seen):
            dropped.append({"fact_id": fact.id, **dataclasses.asdict(pair), "reason": reason})
        else:
            kept.append(pair)
        seen.add(said)
    return dataclasses.replace(fact, generated_qas=tuple(kept))


def _failure(pair: QuestionAnswer, said: str, asked: set[str], seen: set[str]) -> str:
    if len(pair.answer.split()) > MAX_ANSWER_WORDS:
        return "answer_length"
    if contains(pair.question, pair.answer):
        return "answer_in_prompt"
    if said in asked:
        return "asked"
    return "duplicate" if said in seen else ""


def _holds(text: str, aliases: Sequence[str]) -> bool:
    return any(contains(text, alias) for alias in aliases)
