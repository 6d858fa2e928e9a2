"""From a file of facts to a file of facts with questions, clozes or other wordings.

The unfinished file is beside it (`benchmark.py`); what an endpoint said is kept in replies/.

Facts are reordered by rule, and paraphrased by a model. There are no paraphrases by rules: rules do
for questions, which are checked and may be stiff, but a statement in which the wrong clause moved
is false, and would be trained. The unfinished file is beside it (`benchmark.py`); what an endpoint
said is kept in replies/.
"""

import collections
import dataclasses
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tightframe.errors import PartlyDoneError, UserError
from tightframe.knowledge import prompts
from tightframe.knowledge.benchmark import load_benchmark, read_entries, write_facts
from tightframe.knowledge.clozes import cloze_of_question, with_reordered
from tightframe.knowledge.endpoint import Endpoint, Messages, Parse, ask_all
from tightframe.knowledge.facts import (
    MASK,
    MAX_ANSWER_WORDS,
    TYPES,
    WORDINGS,
    Fact,
    Question,
    QuestionAnswer,
    Type,
    normalise,
    write_records,
)
from tightframe.knowledge.questions import CheckedQuestions, KnownFact, checked, make_questions
from tightframe.knowledge.words import contains, failures, found_targets


@dataclasses.dataclass(frozen=True)
class QuestionsWritten:
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
) -> QuestionsWritten:
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
        asked = make_questions(
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


def read_known(path: Path) -> list[KnownFact]:
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
        known.append(KnownFact(prompt, tuple(answers)))
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
) -> tuple[CheckedQuestions, dict[int, str], int]:
    """Facts with questions, the indices of those without a reply with the reason, requests sent."""
    endpoint = Endpoint.from_environment()
    missing = [set(types) - {question.type for question in fact.questions} for fact in facts]
    open_ = [index for index, lacks in enumerate(missing) if lacks]
    replies = ask_all(
        [prompts.question_messages(facts[index], missing[index]) for index in open_],
        endpoint,
        [partial(prompts.parse_questions, types=missing[index]) for index in open_],
        cache=out.parent / "replies",
        wait=wait,
        progress=progress,
    )
    left = {index: why for index, why in zip(open_, replies.reasons, strict=True) if why}
    reply_of = dict(zip(open_, replies.parsed, strict=True))
    new = [
        prompts.questions_of(fact, reply_of.get(index) or {}, endpoint.model)
        for index, fact in enumerate(facts)
    ]
    return checked(facts, new, strict=strict), left, replies.requests


def _written(asked: CheckedQuestions, requests: int) -> QuestionsWritten:
    questions = [question for fact in asked.facts for question in fact.questions]
    types = collections.Counter(question.type for question in questions)
    return QuestionsWritten(
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
class ClozesWritten:
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
) -> ClozesWritten:
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
        reason = NO_RULE if cloze is None else _cloze_failure(question, cloze, fact)
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


def _cloze_failure(question: Question, cloze: str, fact: Fact) -> str | None:
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
    replies = ask_all(
        [prompts.cloze_messages(question) for question in lacking.values()],
        Endpoint.from_environment(),
        [prompts.parse_cloze] * len(lacking),
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
) -> ClozesWritten:
    questions = [question for fact in facts for question in fact.questions]
    reasons = collections.Counter(one["reason"] for one in dropped)
    return ClozesWritten(
        facts=len(facts),
        questions=len(questions),
        clozes=sum(question.cloze is not None for question in questions),
        new=new,
        dropped=dict(sorted(reasons.items())),
        requests=requests,
    )


_SHOWN = 5  # of a list, in one line


def refuse_finished(out: Path) -> None:
    """UserError where the file is there already, unless an earlier run left it unfinished."""
    if os.path.lexists(out) and not _left(out).exists():
        raise UserError(f"{out}: already exists; remove it or choose another name")


def save(
    out: Path,
    facts: Sequence[Fact],
    left: Mapping[int, str],
    dropped: Iterable[dict[str, Any]],
    *,
    what: str,
) -> None:
    """Write the facts that are done, what was dropped, and what is left.

    Args:
        out: The file of facts.
        facts: All of them, in the order of the file.
        left: The indices of those that are not done, and why.
        dropped: Records of what failed a check, each with its reason.
        what: What facts get in this file, "questions"; for the message.

    Raises:
        PartlyDoneError: Some facts are left; all others are written.
    """
    if left:  # before the facts: they are known to be unfinished from the start
        write_records(
            _left(out),
            ({"fact_id": facts[index].id, "reason": reason} for index, reason in left.items()),
        )
    write_records(out.with_suffix(".dropped.jsonl"), dropped)
    write_facts(out, [fact for index, fact in enumerate(facts) if index not in left])
    if left:
        ids = [facts[index].id for index in left]
        more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
        raise PartlyDoneError(
            f"{len(facts) - len(left)} of {len(facts)} facts have their {what} in {out}; left:"
            f" {', '.join(ids[:_SHOWN])}{more} ({next(iter(left.values()))}); all are in"
            f" {_left(out)}; run again to go on"
        )
    _left(out).unlink(missing_ok=True)


def _left(out: Path) -> Path:
    return out.with_suffix(".left.jsonl")


_Kind: TypeAlias = Literal["paraphrases", "generated_qas"]
_Dropped: TypeAlias = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class WordingsWritten:
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
) -> WordingsWritten:
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
        replies = ask_all(
            [_wording_messages(done[index], kind, paraphrases) for index, kind in lacking],
            Endpoint.from_environment(),
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
                done[index] = _paired(done[index], prompts.pairs_of(reply), dropped)
    save(out, done, left, dropped, what="wordings")
    return WordingsWritten(
        facts=len(done),
        wordings={name: sum(len(getattr(fact, name)) for fact in done) for name in WORDINGS},
        without_answer=without_answer,
        dropped=dict(sorted(collections.Counter(one["reason"] for one in dropped).items())),
        requests=requests,
    )


def _wording_messages(fact: Fact, kind: _Kind, n: int) -> Messages:
    if kind == "paraphrases":
        return prompts.paraphrase_messages(fact, n)
    return prompts.pair_messages(fact)


_PARSE: dict[_Kind, Parse] = {
    "paraphrases": prompts.parse_paraphrases,
    "generated_qas": prompts.parse_pairs,
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
        if reason := _pair_failure(pair, said, asked, seen):
            dropped.append({"fact_id": fact.id, **dataclasses.asdict(pair), "reason": reason})
        else:
            kept.append(pair)
        seen.add(said)
    return dataclasses.replace(fact, generated_qas=tuple(kept))


def _pair_failure(pair: QuestionAnswer, said: str, asked: set[str], seen: set[str]) -> str:
    if len(pair.answer.split()) > MAX_ANSWER_WORDS:
        return "answer_length"
    if contains(pair.question, pair.answer):
        return "answer_in_prompt"
    if said in asked:
        return "asked"
    return "duplicate" if said in seen else ""


def _holds(text: str, aliases: Sequence[str]) -> bool:
    return any(contains(text, alias) for alias in aliases)
