"""From a file of facts to a file of facts with questions or clozes.

The unfinished file is beside it (`benchmark.py`); what an endpoint said is kept in replies/.
"""

import collections
import dataclasses
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from tightframe.errors import UserError
from tightframe.knowledge import cloze_prompts, llm
from tightframe.knowledge.benchmark import load_benchmark, refuse_finished, save
from tightframe.knowledge.clozes import cloze_of_question
from tightframe.knowledge.entries import read_entries
from tightframe.knowledge.kinds import failures, found_targets
from tightframe.knowledge.questions import Asked, ask, checked
from tightframe.knowledge.records import MASK, TYPES, Fact, Question, Type
from tightframe.knowledge.rules import Known


@dataclasses.dataclass(frozen=True)
class Written:
    """What a run has written, for its reader."""

    facts: int
    without_target: int  # facts that rules have no question for, but locality
    questions: dict[str, int]  # by type
    dropped: dict[str, int]  # by reason
    warnings: dict[str, int]  # by name
    requests: int  # sent to an endpoint


def write_questions(
    facts: Path,
    out: Path,
    *,
    backend: str = "rules",
    types: Collection[Type] = TYPES,
    known: Path | None = None,
    seed: int = 0,
    strict: bool = False,
    wait: float = 1.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Written:
    """Write questions about the facts of a file, by `ask` or by an endpoint.

    Args:
        facts: A file of facts, in any format that is read.
        out: The new file; one that an earlier run left incomplete is written again.
        backend: "rules" or "llm".
        types: What to ask.
        known: JSON lines of `prompt` and `answers`, for locality questions by rules.
        seed: See `ask`.
        strict: See `ask` and `load_benchmark`.
        wait: Seconds before an endpoint is asked again, see `ask_all`.
        progress: Called with the number of facts that an endpoint has answered, and of all.

    Raises:
        PartlyDoneError: The endpoint gave no questions for some facts; all others are written.
    """
    refuse_finished(out)
    read = load_benchmark(facts, strict=strict)
    left: dict[int, str] = {}
    requests = 0
    if backend == "rules":
        asked = ask(
            read, types=types, known=read_known(known) if known else (), seed=seed, strict=strict
        )
    else:
        if known:
            raise UserError("--known is for --backend rules; the endpoint writes its own locality")
        total = len(read)
        asked, left, requests = _ask_endpoint(
            read, out, types, strict, wait, lambda done: progress(done, total)
        )
    dropped = [
        {"fact_id": one.fact_id, **dataclasses.asdict(one.question), "reason": one.reason}
        for one in asked.dropped
    ]
    save(out, asked.facts, left, dropped, what="questions")
    return _written(asked, requests)


def read_known(path: Path) -> list[Known]:
    """Older knowledge: JSON lines of `prompt` and `answers`, a list of at least one text."""
    known = []
    for entry in read_entries(path):
        record = entry.value if isinstance(entry.value, dict) else {}
        prompt, answers = record.get("prompt"), record.get("answers")
        if (
            not isinstance(prompt, str)
            or not isinstance(answers, list)
            or not answers
            or not all(isinstance(answer, str) and answer.strip() for answer in answers)
        ):
            raise UserError(
                f"{path}: {entry.place}: {entry.problem or 'no older knowledge'}; expected prompt,"
                " a text, and answers, a list of texts none of which is empty"
            )
        known.append(Known(prompt, tuple(answers)))
    if not known:
        raise UserError(f"{path}: holds nothing; expected a JSON object a line")
    return known


def _ask_endpoint(
    facts: Sequence[Fact],
    out: Path,
    types: Collection[Type],
    strict: bool,
    wait: float,
    progress: Callable[[int], None],
) -> tuple[Asked, dict[int, str], int]:
    """Facts with questions, the indices of those without a reply with the reason, requests sent."""
    from tightframe.knowledge import llm, prompts

    endpoint = llm.Endpoint.from_environment()
    missing = [set(types) - {question.type for question in fact.questions} for fact in facts]
    open_ = [index for index, lacks in enumerate(missing) if lacks]
    replies = llm.ask_all(
        [prompts.messages(facts[index], missing[index]) for index in open_],
        endpoint,
        [partial(prompts.parse, types=missing[index]) for index in open_],
        cache=out.parent / "replies",
        wait=wait,
        progress=progress,
    )
    left = {index: why for index, why in zip(open_, replies.reasons, strict=True) if why}
    reply_of = dict(zip(open_, replies.parsed, strict=True))
    new = [
        prompts.questions(fact, reply_of.get(index) or {}, endpoint.model)
        for index, fact in enumerate(facts)
    ]
    return checked(facts, new, strict=strict), left, replies.requests


def _written(asked: Asked, requests: int) -> Written:
    questions = [question for fact in asked.facts for question in fact.questions]
    types = collections.Counter(question.type for question in questions)
    return Written(
        facts=len(asked.facts),
        without_target=sum(not found_targets(fact) for fact in asked.facts),
        questions={type_: types[type_] for type_ in TYPES if types[type_]},
        dropped=dict(sorted(collections.Counter(one.reason for one in asked.dropped).items())),
        warnings=dict(sorted(collections.Counter(n for q in questions for n in q.checks).items())),
        requests=requests,
    )


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
        written, reasons, requests = _ask_for_clozes(lacking, out, wait, progress)
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


def _ask_for_clozes(
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
