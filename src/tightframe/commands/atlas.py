"""Commands on series of models: an audit of their revisions, and all of them measured."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from tightframe.commands.console import Json, done, say
from tightframe.errors import PartlyDoneError
from tightframe.progress import bar

PerStep = Annotated[int | None, Parameter(validator=Number(gt=0))]


def audit(
    name: str,
    /,
    *,
    revisions: str = "*",
    tokens_per_step: PerStep = None,
    out: Path | None = None,
    json: Json = False,
) -> None:
    """Audit a series of revisions on the Hugging Face hub without downloading weights.

    One request lists the revisions, and one for each of them its files with their digests.
    What was listed before is read from the file of the audit.

    Parameters
    ----------
    name
        Name of the model on the hub, as NAME or OWNER/NAME.
    revisions
        Pattern of the names of branches and tags, such as 'step*'.
    tokens_per_step
        Training tokens per step, for names that tell steps only.
    out
        Folder of the series; atlas/NAME by default.
    json
        Print one JSON object on standard output.
    """
    from tightframe.jobs.audit import audit_series

    with bar("revisions"):
        made = audit_series(name, revisions, tokens_per_step, out, say)
    records = made.to_pandas().astype(object)
    done(
        made.summary(),
        json,
        audit=str(made.path),
        revisions=records.where(records.notna(), None).to_dict("records"),
        not_understood=made.not_understood,
    )
    say(f"{made.path}: written; `tightframe atlas run {name}` measures what is fine")
    if unlisted := [one.revision for one in made.revisions if one.verdict == "not listed"]:
        raise PartlyDoneError(
            f"{len(unlisted)} of {len(made.revisions)} revisions are not listed, "
            f"{', '.join(unlisted)}; the same command tries them again"
        )
