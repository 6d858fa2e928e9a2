"""From a file of facts to a file of facts with questions, see `unfinished` for what is beside it.

What an endpoint said is kept in replies/, beside the file.
"""

import collections
import dataclasses
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

from tightframe.errors import UserError
from tightframe.knowledge.data.benchmark import load_benchmark
from tightframe.knowledge.data.entries import read_entries
from tightframe.knowledge.data.records import TYPES, Fact, Type
from tightframe.knowledge.data.unfinished import refuse_finished, save
from tightframe.knowledge.making.kinds import found_targets
from tightframe.knowledge.making.questions import Asked, ask, checked
from tightframe.knowledge.making.rules import Known


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
    from tightframe.knowledge.making import llm, prompts

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
