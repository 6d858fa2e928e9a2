"""Files of facts with questions, clozes or other wordings, by rules or by a language model.

The new file is written whole. Beside it are NAME.dropped.jsonl, what failed a check and why, and,
while an endpoint has not answered for some facts, NAME.left.jsonl with these: the same command
resumes. Replies of an endpoint are kept in the folder replies/.
"""

import collections
import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tightframe.errors import PartlyDoneError, UserError
from tightframe.knowledge import prompts
from tightframe.knowledge.benchmark import load_benchmark, write_facts
from tightframe.knowledge.clozes import cloze_by_rule, with_reordered
from tightframe.knowledge.data_files import read_entries, write_records
from tightframe.knowledge.endpoint import Endpoint, Parse, Replies, ask_all
from tightframe.knowledge.facts import EVERY_TYPE, WORDINGS, Fact, Question
from tightframe.knowledge.options import QuestionOptions, WordingOptions
from tightframe.knowledge.questions import CheckedQuestions, KnownFact, checked, make_questions
from tightframe.knowledge.words import failures, found_targets

NO_RULE = "no_wh_word"  # the reason where a rule finds nothing to mask: "How many ...?"
NAMED = 5  # facts that a message names; others are counted

_Place: TypeAlias = tuple[int, int]  # index of a fact, and of one of its questions
_Dropped: TypeAlias = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class QuestionsWritten:
    """Counts of a file of questions."""

    facts: int
    without_target: int  # facts that rules have no question for, except locality
    questions: dict[str, int]  # by type
    dropped: dict[str, int]  # by reason
    warnings: dict[str, int]  # by name
    requests: int  # sent to an endpoint in this run


@dataclasses.dataclass(frozen=True)
class ClozesWritten:
    """Counts of a file of clozes."""

    facts: int
    questions: int
    clozes: int  # questions that have a cloze now
    new: int  # clozes that this run has written
    dropped: dict[str, int]  # by reason; such questions stay, without a cloze
    requests: int  # sent to an endpoint in this run


@dataclasses.dataclass(frozen=True)
class WordingsWritten:
    """Counts of a file of wordings."""

    facts: int
    wordings: dict[str, int]  # texts by name, see `facts.WORDINGS`
    without_answer: int  # facts that could not be reordered: their answer is not in them
    dropped: dict[str, int]  # by reason
    requests: int  # sent to an endpoint in this run


def write_questions(
    facts: Path,
    out: Path,
    options: QuestionOptions = QuestionOptions(),  # noqa: B008
    *,
    wait: float = 1.0,
) -> QuestionsWritten:
    """Write questions about the facts of a file, by `make_questions` or by an endpoint.

    Args:
        facts: A file of facts, in any known format.
        out: The new file; one that an earlier run left incomplete is written again.
        options: Types of questions, and how to write them.
        wait: Seconds before a request is repeated, see `ask_all`.

    Raises:
        PartlyDoneError: The endpoint gave no questions for some facts; all others are written.
    """
    refuse_finished(out)
    read = load_benchmark(facts, strict=options.strict)
    left: dict[int, str] = {}
    requests = 0
    if options.backend == "rules":
        made = make_questions(
            read,
            types=options.types,
            known=read_known(options.known) if options.known else (),
            seed=options.seed,
            strict=options.strict,
        )
    else:
        made, left, requests = _questions_of_endpoint(read, out, options, wait)
    dropped = [
        {"fact_id": one.fact_id, **dataclasses.asdict(one.question), "reason": one.reason}
        for one in made.dropped
    ]
    _save(out, made.facts, left, dropped, what="questions")
    questions = [question for fact in made.facts for question in fact.questions]
    types = collections.Counter(question.type for question in questions)
    return QuestionsWritten(
        facts=len(made.facts),
        without_target=sum(not found_targets(fact) for fact in made.facts),
        questions={one: types[one] for one in EVERY_TYPE if types[one]},
        dropped=_reasons(dropped),
        warnings=_counts(name for question in questions for name in question.checks),
        requests=requests,
    )


def read_known(path: Path) -> list[KnownFact]:
    """Read older knowledge: JSON lines of `prompt` and `answers`, a list of at least one text."""
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


def _questions_of_endpoint(
    facts: Sequence[Fact], out: Path, options: QuestionOptions, wait: float
) -> tuple[CheckedQuestions, dict[int, str], int]:
    """Return the questions, why facts (by index) have none, and the number of requests sent."""
    missing = [{*options.types} - {one.type for one in fact.questions} for fact in facts]
    open_ = [index for index, lacks in enumerate(missing) if lacks]
    replies, model = _replies(
        [prompts.question_messages(facts[index], missing[index]) for index in open_],
        [partial(prompts.parse_questions, types=missing[index]) for index in open_],
        out,
        wait,
    )
    left = {index: why for index, why in zip(open_, replies.reasons, strict=True) if why}
    reply_of = dict(zip(open_, replies.parsed, strict=True))
    new = [
        prompts.questions_of(fact, reply_of.get(index) or {}, model)
        for index, fact in enumerate(facts)
    ]
    return checked(facts, new, strict=options.strict), left, replies.requests


def write_clozes(
    facts: Path,
    out: Path,
    options: QuestionOptions = QuestionOptions(),  # noqa: B008
    *,
    wait: float = 1.0,
) -> ClozesWritten:
    """Write clozes for the questions of a file that have none; all else stays as it is.

    Args:
        facts: A file of facts with questions, in any known format.
        out: The new file; one that an earlier run left incomplete is written again.
        options: Types of questions, and how to write their clozes (rules: `cloze_by_rule`).
        wait: Seconds before a request is repeated, see `ask_all`.

    Raises:
        PartlyDoneError: The endpoint gave no cloze for questions of some facts; all others are
            written.
    """
    refuse_finished(out)
    read = load_benchmark(facts, strict=options.strict)
    lacking = {
        (index, nth): question
        for index, fact in enumerate(read)
        for nth, question in enumerate(fact.questions)
        if question.cloze is None and question.type in options.types
    }
    left: dict[int, str] = {}
    requests = 0
    if options.backend == "rules":
        clozes = {place: cloze_by_rule(question) for place, question in lacking.items()}
    else:
        replies, _ = _replies(
            [prompts.cloze_messages(question) for question in lacking.values()],
            [prompts.parse_cloze] * len(lacking),
            out,
            wait,
        )
        requests = replies.requests
        parsed = zip(lacking, replies.parsed, strict=True)
        clozes = {place: reply["cloze"] for place, reply in parsed if reply is not None}
        for (index, _), reason in zip(lacking, replies.reasons, strict=True):
            if reason:
                left.setdefault(index, reason)
    written: dict[_Place, Question] = {}
    dropped: _Dropped = []
    for place, cloze in clozes.items():
        fact, question = read[place[0]], lacking[place]
        failed = NO_RULE if cloze is None else _cloze_failure(question, cloze, fact)
        clozed = dataclasses.replace(question, cloze=cloze)
        if failed:
            dropped.append({"fact_id": fact.id, **dataclasses.asdict(clozed), "reason": failed})
        else:
            written[place] = clozed
    done = []
    for index, fact in enumerate(read):
        questions = [written.get((index, nth), one) for nth, one in enumerate(fact.questions)]
        done.append(dataclasses.replace(fact, questions=tuple(questions)))
    _save(out, done, left, dropped, what="clozes")
    all_questions = [question for fact in done for question in fact.questions]
    return ClozesWritten(
        facts=len(done),
        questions=len(all_questions),
        clozes=sum(question.cloze is not None for question in all_questions),
        new=len(written),
        dropped=_reasons(dropped),
        requests=requests,
    )


def _cloze_failure(question: Question, cloze: str, fact: Fact) -> str | None:
    """Return the check on form or answers that a cloze fails as a prompt, None if it passes."""
    prompt = dataclasses.replace(question, prompt=cloze, cloze=cloze)
    failed = failures(prompt, fact, reliability=None)
    return next((name for name in failed if name in ("answer_in_prompt", "form")), None)


_Kind: TypeAlias = Literal["paraphrases", "generated_qas"]
_PARSE: dict[_Kind, Parse] = {
    "paraphrases": prompts.parse_paraphrases,
    "generated_qas": prompts.parse_pairs,
}


def write_wordings(
    facts: Path,
    out: Path,
    options: WordingOptions,
    *,
    wait: float = 1.0,
) -> WordingsWritten:
    """Write facts with other wordings of them, to train on.

    Facts are reordered by rule, and paraphrased by a model. There are no paraphrases by rules:
    rules do for questions, which are checked and may be stiff, but a statement in which the wrong
    clause moved is false, and would be trained on.

    Args:
        facts: A file of facts, in any known format.
        out: The new file; one that an earlier run left incomplete is written again.
        options: Kinds of wordings.
        wait: Seconds before a request is repeated, see `ask_all`.

    Raises:
        PartlyDoneError: The endpoint gave no wordings for some facts; all others are written.
    """
    if not (options.reordered or options.paraphrases or options.generated_qas):
        raise UserError("expected --reordered, --paraphrases N or --generated-qas, or several")
    refuse_finished(out)
    read = load_benchmark(facts, strict=options.strict)
    done = with_reordered(read) if options.reordered else list(read)
    without_answer = sum(not fact.reordered for fact in done) if options.reordered else 0
    wanted: dict[_Kind, int] = {
        "paraphrases": options.paraphrases,
        "generated_qas": options.generated_qas,
    }
    lacking = [
        (index, kind)
        for index, fact in enumerate(done)
        for kind, n in wanted.items()
        if n and not getattr(fact, kind)
    ]
    left: dict[int, str] = {}
    dropped: _Dropped = []
    requests = 0
    if lacking:
        replies, _ = _replies(
            [
                prompts.paraphrase_messages(done[index], options.paraphrases)
                if kind == "paraphrases"
                else prompts.pair_messages(done[index])
                for index, kind in lacking
            ],
            [_PARSE[kind] for _, kind in lacking],
            out,
            wait,
        )
        requests = replies.requests
        for (index, kind), reply, reason in zip(
            lacking, replies.parsed, replies.reasons, strict=True
        ):
            if reason:
                left.setdefault(index, reason)
            elif kind == "paraphrases":
                new = reply["paraphrases"][: options.paraphrases]
                done[index] = prompts.with_paraphrases(done[index], new, dropped)
            else:
                done[index] = prompts.with_pairs(done[index], reply["pairs"], dropped)
    _save(out, done, left, dropped, what="wordings")
    return WordingsWritten(
        facts=len(done),
        wordings={name: sum(len(getattr(fact, name)) for fact in done) for name in WORDINGS},
        without_answer=without_answer,
        dropped=_reasons(dropped),
        requests=requests,
    )


def _replies(
    requests: Sequence[prompts.Messages], parse: Sequence[Parse], out: Path, wait: float
) -> tuple[Replies, str]:
    """Return the replies to requests, and the name of the model that gave them."""
    endpoint = Endpoint.from_environment()
    replies = ask_all(
        requests,
        endpoint,
        parse,
        cache=out.parent / "replies",
        wait=wait,
    )
    return replies, endpoint.model


def _counts(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(collections.Counter(names).items()))


def _reasons(dropped: _Dropped) -> dict[str, int]:
    return _counts(one["reason"] for one in dropped)


def refuse_finished(out: Path) -> None:
    """Refuse a file that already exists, unless an earlier run left it incomplete."""
    if os.path.lexists(out) and not _left(out).exists():
        raise UserError(f"{out}: already exists; remove it or choose another name")


def _save(
    out: Path, facts: Sequence[Fact], left: Mapping[int, str], dropped: _Dropped, *, what: str
) -> None:
    """Write the facts that are done and what was dropped; report facts that are left, by index.

    Raises:
        PartlyDoneError: Some facts are left; all others are written.
    """
    if left:  # before the facts: they are known to be unfinished from the start
        records = ({"fact_id": facts[index].id, "reason": why} for index, why in left.items())
        write_records(_left(out), records)
    write_records(out.with_suffix(".dropped.jsonl"), dropped)
    write_facts(out, [fact for index, fact in enumerate(facts) if index not in left])
    if left:
        ids = [facts[index].id for index in left]
        more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
        raise PartlyDoneError(
            f"{len(facts) - len(left)} of {len(facts)} facts have their {what} in {out}; left:"
            f" {', '.join(ids[:NAMED])}{more} ({next(iter(left.values()))}); all are in"
            f" {_left(out)}; run again to resume"
        )
    _left(out).unlink(missing_ok=True)


def _left(out: Path) -> Path:
    return out.with_suffix(".left.jsonl")
