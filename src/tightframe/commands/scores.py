"""The command that scores what models answered about injected facts."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from tightframe.commands.console import SEVERAL, Flag, Json, dumps, say
from tightframe.errors import UserError
from tightframe.files import check_new

Files = Annotated[list[Path] | None, Parameter(negative="", consume_multiple=True)]
Divisions = Annotated[list[Literal["type", "year", "month", "day", "position"]] | None, SEVERAL]


def score(
    *outputs: Path,
    data: Path,
    by: Divisions = None,
    against: Files = None,
    untouched: Files = None,
    allow_missing: Flag = False,
    seed: int = 0,
    out: Path | None = None,
    json: Json = False,
) -> None:
    """Score outputs on a benchmark: as published and corrected, with intervals over facts.

    match_paper counts an answer anywhere in the raw text, so that long outputs gain; their mean
    length in words stands beside it.

    Parameters
    ----------
    outputs
        Files of outputs (or run directories with an answers.jsonl) of one arm: one a seed.
    data
        The benchmark that they answer.
    by
        Divide all questions and each type: by year, month, day, position (where in the fact the
        answer stands).
    against
        Outputs of another arm on the same questions: differences with interval and sign test.
    untouched
        Outputs of the model before injection: locality as the change against them.
    allow_missing
        Leave out and count questions without output, instead of refusing.
    seed
        Of the resamples of facts.
    out
        A new folder for the rows and tables; without it they are only printed.
    json
        Print one JSON object on standard output.
    """
    from tightframe.knowledge.benchmark import load_benchmark
    from tightframe.knowledge.score_files import score_report

    if not outputs:
        raise UserError("no outputs to score; name at least one file")
    if out is not None:
        check_new(out)
    report = score_report(
        load_benchmark(data),
        data,
        outputs,
        by=by or ("type",),
        against=against or (),
        untouched=untouched or (),
        allow_missing=allow_missing,
        seed=seed,
    )
    if out is not None:
        report.write(out)
        say(f"{out}: written")
    if json:
        made = {"run": report.header.run, "out": None if out is None else str(out)}
        print(dumps(made | {"scores": report.scores, "differences": report.differences}))
    else:
        print(report.markdown(), end="")
