"""The command that scores what models answered about injected facts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

from cyclopts import Parameter

from tightframe.commands.console import Json, as_parameters, dumps, say, show
from tightframe.errors import UserError
from tightframe.files import check_new
from tightframe.knowledge.options import ScoreOptions

Files = Annotated[list[Path] | None, Parameter(negative="", consume_multiple=True)]
if TYPE_CHECKING:
    Scoring: TypeAlias = ScoreOptions
else:
    Scoring = as_parameters(ScoreOptions)


def score(
    *outputs: Path,
    data: Path,
    against: Files = None,
    base: Files = None,
    options: Scoring = Scoring(),  # noqa: B008
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
        Files of outputs of one arm (what `tightframe knowledge answer` writes), one per seed; a
        folder stands for its answers.jsonl.
    data
        The benchmark that they answer.
    against
        Outputs of another arm on the same questions: differences, question by question, with
        interval and an exact sign test over facts.
    base
        Outputs of the model before injection: locality (what it knew already) as the change.
    out
        New folder for the rows and tables; without it they are only printed.
    json
        Print one JSON object on standard output.
    """
    from tightframe.knowledge.benchmark import load
    from tightframe.knowledge.score_tables import score as score_arm

    if not outputs:
        raise UserError("no outputs to score; name at least one file")
    if out is not None:
        check_new(out)
    scores = score_arm(outputs, load(data), options, against=against or (), base=base or ())
    for path, empty in zip(outputs, scores.header.measurement["empty"], strict=True):
        if empty:
            say(f"{path}: {empty}")
    if out is not None:
        scores.write(out)
        say(f"{out}: written")
    if json:
        made = {"run": scores.header.run, "out": None if out is None else str(out)}
        show(dumps(made | {"scores": scores.scores, "differences": scores.differences}))
    else:
        show(scores.markdown().removesuffix("\n"))
