"""The command that scores what models answered about injected facts."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from tightframe.commands.console import SEVERAL, Flag, Json, dumps, say, show
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

    match_paper   a gold answer stands in the raw text, with its case
    output_words  words of the raw text: long ones gain in match_paper
    f1_paper      words that the raw text shares with the first gold answer
    match_norm    a gold answer stands in the text, word by word
    em_norm       the text is a gold answer
    f1_max        words that the text shares with the nearest gold answer

    All but output_words are in percent. The last three cut a text to its first
    line and 32 words, and ignore case, punctuation and articles.

    Parameters
    ----------
    outputs
        Files of outputs of one arm (what `tightframe knowledge answer` writes), one a seed; a
        folder stands for its answers.jsonl.
    data
        The benchmark that they answer.
    by
        Divide all questions and each type: by year, month, day, or position (whether the answer
        starts in the front half of its fact, in the back half, or is not in it).
    against
        Outputs of another arm on the same questions: differences, question by question, with
        interval and an exact sign test over facts.
    untouched
        Outputs of the model before injection: locality (what it knew already) as the change.
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
    from tightframe.knowledge.score_tables import score_report

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
    for path, empty in zip(outputs, report.header.measurement["empty"], strict=True):
        if empty:
            say(f"{path}: {empty}")
    if out is not None:
        report.write(out)
        say(f"{out}: written")
    if json:
        made = {"run": report.header.run, "out": None if out is None else str(out)}
        show(dumps(made | {"scores": report.scores, "differences": report.differences}))
    else:
        show(report.markdown().removesuffix("\n"))
