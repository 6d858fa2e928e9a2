"""Commands that write with facts: questions about them, and other wordings to train on."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tightframe.commands.console import Flag, Json, Names, done, say
from tightframe.errors import UserError, nearest
from tightframe.knowledge.facts import TYPES, Type
from tightframe.progress import bar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


def questions(
    facts: Path,
    /,
    *,
    out: Path,
    backend: Literal["rules", "llm"] = "rules",
    types: Names = None,
    cloze_only: Flag = False,
    known: Path | None = None,
    seed: int = 0,
    strict: Flag = False,
    json: Json = False,
) -> None:
    """Write questions about facts, by rules or by a language model, and check every one.

    Parameters
    ----------
    facts
        A file of facts in any format; `tightframe knowledge parse` makes one.
    out
        The new file, facts with their questions. What was dropped is beside it, and why.
    backend
        rules: offline, the same bytes from the same facts. llm: an endpoint of the OpenAI format
        at TIGHTFRAME_LLM_BASE_URL, with TIGHTFRAME_LLM_MODEL and TIGHTFRAME_LLM_KEY from the
        environment; replies are kept beside OUT, and never asked for twice.
    types
        What to ask, of reliability (the fact's subject), generality (another part of it),
        paraphrase (the first in other words), portability (two facts at once), factual and
        counterfactual (true or false), locality (older knowledge); all seven otherwise. Those
        that a fact has already are kept.
    cloze_only
        Write no questions; give those that there are and have none a cloze: the question with its
        wh-phrase as the mask, or a statement that the endpoint makes of it.
    known
        With rules: JSON lines of prompt and answers, older knowledge for locality questions.
    seed
        With rules: what stands in the place of the target in an altered fact depends on it.
    strict
        Drop questions whose answer does not occur in the hook, and refuse a file with blemishes;
        otherwise these are warnings.
    json
        Print one JSON object on standard output.
    """
    chosen = question_types(types)
    if cloze_only:
        if known:
            raise UserError("--known is for new questions; leave it out with --cloze-only")
        _write_clozes(facts, out, backend, chosen, strict, json)
    else:
        _write_questions(facts, out, backend, chosen, known, seed, strict, json)


def reword(
    facts: Path,
    /,
    *,
    out: Path,
    reordered: Flag = False,
    paraphrases: int = 0,
    generated_qas: Flag = False,
    strict: Flag = False,
    json: Json = False,
) -> None:
    """Write facts with other wordings of them, to train on: reordered by rule, others by a model.

    Parameters
    ----------
    facts
        A file of facts in any format. Wordings of a kind that a fact has already are kept.
    out
        The new file, facts with their wordings. What was dropped is beside it, and why.
    reordered
        The fact with its answer at the end, after all its clues; offline.
    paraphrases
        How many paraphrases to ask for, of an endpoint as for `questions --backend llm`.
    generated_qas
        Ask the endpoint for question-answer pairs, other than those that the fact is asked.
    strict
        Refuse a file with blemishes.
    json
        Print one JSON object on standard output.
    """
    import dataclasses

    from tightframe.knowledge.generate import reword as write_wordings

    if paraphrases < 0:
        raise UserError(f"--paraphrases {paraphrases}: expected a number from 1 on")
    if not (reordered or paraphrases or generated_qas):
        raise UserError("expected --reordered, --paraphrases N or --generated-qas, or several")
    with _progress("requests") as progress:
        written = write_wordings(
            facts,
            out,
            reordered=reordered,
            paraphrases=paraphrases,
            generated_qas=generated_qas,
            strict=strict,
            progress=progress,
        )
    counts = ", ".join(f"{name} {n:,}" for name, n in written.wordings.items() if n)
    lines = [f"{out}: {written.facts:,} facts; wordings: {counts or 'none'}"]
    lines += _counted("dropped", written.dropped)
    if written.without_answer:
        lines.append(f"{written.without_answer:,} facts do not hold their answer: not reordered")
    done("\n".join(lines), json, out=str(out), **dataclasses.asdict(written))


def question_types(names: "Sequence[str] | None") -> list[Type]:
    """The types that --types names, in their usual order; all if it isn't given."""
    for name in names or ():
        if name not in TYPES:
            raise UserError(
                f"--types {name}: unknown{nearest(name, TYPES)}; expected some of"
                f" {', '.join(TYPES)}"
            )
    return [one for one in TYPES if names is None or one in names]


def _write_questions(
    facts: Path,
    out: Path,
    backend: Literal["rules", "llm"],
    types: "Sequence[Type]",
    known: Path | None,
    seed: int,
    strict: bool,
    json: bool,
) -> None:
    import dataclasses

    from tightframe.knowledge.generate import write_questions

    if backend == "rules" and "locality" in types and known is None:
        say("no locality questions: --known FILE gives the older knowledge to ask for")
    with _progress("facts") as progress:
        written = write_questions(
            facts,
            out,
            backend=backend,
            types=types,
            known=known,
            seed=seed,
            strict=strict,
            progress=progress,
        )
    counts = ", ".join(f"{name} {count:,}" for name, count in written.questions.items())
    lines = [f"{out}: {written.facts:,} facts; questions: {counts or 'none'}"]
    lines += _counted("dropped", written.dropped) + _counted("warnings", written.warnings)
    if backend == "rules" and written.without_target:
        lines.append(
            f"{written.without_target:,} facts have no target, hence no questions by rules"
        )
    done("\n".join(lines), json, out=str(out), **dataclasses.asdict(written))


def _write_clozes(
    facts: Path,
    out: Path,
    backend: Literal["rules", "llm"],
    types: "Sequence[Type]",
    strict: bool,
    json: bool,
) -> None:
    import dataclasses

    from tightframe.knowledge.generate import write_clozes

    with _progress("questions") as progress:
        written = write_clozes(
            facts, out, backend=backend, types=types, strict=strict, progress=progress
        )
    lines = [
        f"{out}: {written.facts:,} facts; {written.clozes:,} of {written.questions:,} questions"
        f" have clozes, {written.new:,} new"
    ]
    lines += _counted("no cloze", written.dropped)
    done("\n".join(lines), json, out=str(out), **dataclasses.asdict(written))


def _counted(what: str, by_name: dict[str, int]) -> list[str]:
    """A line of counts by name, where there are any."""
    counts = ", ".join(f"{name} {n:,}" for name, n in by_name.items())
    return [f"{what}: {counts}"] if by_name else []


@contextlib.contextmanager
def _progress(of: str) -> "Iterator[Callable[[int, int], None]]":
    """Yield what shows how many of the requests an endpoint has answered."""
    with bar(of) as show:
        yield lambda done, total: show("answered", done / total if total else None, done)
