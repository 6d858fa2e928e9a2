"""The command that writes questions about facts."""

from pathlib import Path
from typing import Literal

from tightframe.commands.console import Flag, Json, Names, console, done, say
from tightframe.errors import UserError, nearest


def questions(
    facts: Path,
    /,
    *,
    out: Path,
    backend: Literal["rules", "llm"] = "rules",
    types: Names = None,
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
        What to ask, e.g. reliability,paraphrase; all seven types otherwise. Those that a fact has
        already are kept.
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
    import dataclasses

    from rich.progress import Progress

    from tightframe.knowledge.question_files import write_questions
    from tightframe.knowledge.records import TYPES

    names = [name for given in types or TYPES for name in given.split(",") if name]
    for name in names:
        if name not in TYPES:
            raise UserError(
                f"--types {name}: unknown{nearest(name, TYPES)}; expected some of"
                f" {', '.join(TYPES)}"
            )
    if not names:
        raise UserError(f"--types: names no type; expected some of {', '.join(TYPES)}")
    if backend == "rules" and "locality" in names and known is None:
        say("no locality questions: --known FILE gives the older knowledge to ask for")
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("facts", visible=backend == "llm")
        written = write_questions(
            facts,
            out,
            backend=backend,
            types=[type_ for type_ in TYPES if type_ in names],
            known=known,
            seed=seed,
            strict=strict,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    counts = ", ".join(f"{name} {count:,}" for name, count in written.questions.items())
    lines = [f"{out}: {written.facts:,} facts; questions: {counts or 'none'}"]
    for what, by_name in (("dropped", written.dropped), ("warnings", written.warnings)):
        if by_name:
            lines.append(f"{what}: {', '.join(f'{name} {n:,}' for name, n in by_name.items())}")
    if backend == "rules" and written.without_target:
        lines.append(
            f"{written.without_target:,} facts have no target, hence no questions by rules"
        )
    done("\n".join(lines), json, out=str(out), **dataclasses.asdict(written))
