"""From a file of facts with questions to one in which the questions have clozes.

See `unfinished` for what is beside it; what an endpoint said is kept in replies/, beside the file.
"""

import collections
import dataclasses
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from tightframe.knowledge.data.benchmark import load_benchmark
from tightframe.knowledge.data.records import MASK, TYPES, Fact, Question, Type
from tightframe.knowledge.data.unfinished import refuse_finished, save
from tightframe.knowledge.making import cloze_prompts, llm
from tightframe.knowledge.making.checks import failures
from tightframe.knowledge.making.clozes import cloze_of_question

NO_RULE = "no_wh_word"  # the reason where a rule finds nothing to mask: "How many ...?"

_Place: TypeAlias = tuple[int, int]  # of a question: its fact, and which of the fact's it is


@dataclasses.dataclass(frozen=True)
class Clozed:
    """What a run has written, for its reader."""

    facts: int
    questions: int  # of all facts
    clozes: int  # that they have now
    new: int  # of these, written in this run
    dropped: dict[str, int]  # by reason; such questions stay, without a cloze
    requests: int  # sent to an endpoint


def write_clozes(
    facts: Path,
    out: Path,
    *,
    backend: str = "rules",
    types: Collection[Type] = TYPES,
    strict: bool = False,
    wait: float = 1.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Clozed:
    """Write clozes for the questions of a file that have none; all else stays as it is.

    Args:
        facts: A file of facts with questions, in any format that is read.
        out: The new file; one that an earlier run left unfinished is written again.
        backend: "rules", see `cloze_by_rule`, or "llm".
        types: Of the questions that get clozes.
        strict: See `load_benchmark`.
        wait: Seconds before an endpoint is asked again, see `ask_all`.
        progress: Called with the number of questions that an endpoint has answered, and of all.

    Raises:
        PartlyDoneError: The endpoint gave no cloze for questions of some facts; all others are
            written.
    """
    refuse_finished(out)
    read = load_benchmark(facts, strict=strict)
    lacking = {
        (index, nth): question
        for index, fact in enumerate(read)
        for nth, question in enumerate(fact.questions)
        if question.cloze is None and question.type in types
    }
    reasons: dict[_Place, str] = {}
    requests = 0
    if backend == "rules":
        written = {place: cloze_by_rule(question) for place, question in lacking.items()}
    else:
        written, reasons, requests = _ask_endpoint(lacking, out, wait, progress)
    made: dict[_Place, Question] = {}
    dropped: list[dict[str, Any]] = []
    for place, cloze in written.items():
        fact, question = read[place[0]], lacking[place]
        reason = NO_RULE if cloze is None else _failure(question, cloze, fact)
        clozed = dataclasses.replace(question, cloze=cloze)
        if reason is None:
            made[place] = clozed
        else:
            dropped.append({"fact_id": fact.id, **dataclasses.asdict(clozed), "reason": reason})
    done = [
        dataclasses.replace(
            fact,
            questions=tuple(made.get((index, n), one) for n, one in enumerate(fact.questions)),
        )
        for index, fact in enumerate(read)
    ]
    left: dict[int, str] = {}
    for (index, _), reason in reasons.items():
        left.setdefault(index, reason)
    save(out, done, left, dropped, what="clozes")
    return _clozed(done, len(made), dropped, requests)


def cloze_by_rule(question: Question) -> str | None:
    """The cloze of a question, see `cloze_of_question`; after one of true or false, the mask."""
    if question.format == "boolean":
        return f"{question.prompt} {MASK}"
    return cloze_of_question(question.prompt)


def _failure(question: Question, cloze: str, fact: Fact) -> str | None:
    """The check on the question's form or its answers that the cloze fails, as a prompt itself."""
    asked = dataclasses.replace(question, prompt=cloze, cloze=cloze)
    failed = failures(asked, fact, reliability=None)
    return next((name for name in failed if name in ("answer_in_prompt", "form")), None)


def _ask_endpoint(
    lacking: dict[_Place, Question],
    out: Path,
    wait: float,
    progress: Callable[[int, int], None],
) -> tuple[dict[_Place, str | None], dict[_Place, str], int]:
    """The clozes, why there is none for some questions, and the number of requests sent."""
    replies = llm.ask_all(
        [cloze_prompts.messages(question) for question in lacking.values()],
        llm.Endpoint.from_environment(),
        [cloze_prompts.parse] * len(lacking),
        cache=out.parent / "replies",
        wait=wait,
        progress=lambda done: progress(done, len(lacking)),
    )
    found = dict(zip(lacking, replies.parsed, strict=True))
    reasons = {place: why for place, why in zip(lacking, replies.reasons, strict=True) if why}
    written = {place: reply["cloze"] for place, reply in found.items() if reply is not None}
    return written, reasons, replies.requests


def _clozed(
    facts: Sequence[Fact], new: int, dropped: Sequence[dict[str, Any]], requests: int
) -> Clozed:
    questions = [question for fact in facts for question in fact.questions]
    reasons = collections.Counter(one["reason"] for one in dropped)
    return Clozed(
        facts=len(facts),
        questions=len(questions),
        clozes=sum(question.cloze is not None for question in questions),
        new=new,
        dropped=dict(sorted(reasons.items())),
        requests=requests,
    )
