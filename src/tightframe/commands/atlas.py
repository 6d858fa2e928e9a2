"""Commands on series of models: an audit of their revisions, and all of them measured."""

from typing import TYPE_CHECKING, TypeAlias

from tightframe.commands.console import Json, as_parameters, done, say
from tightframe.errors import PartlyDoneError
from tightframe.jobs.audit import AuditOptions
from tightframe.jobs.series import AtlasOptions
from tightframe.progress import bar

if TYPE_CHECKING:
    Auditing: TypeAlias = AuditOptions
    Series: TypeAlias = AtlasOptions
else:
    Auditing, Series = as_parameters(AuditOptions), as_parameters(AtlasOptions)


def audit(
    name: str,
    /,
    *,
    options: Auditing = Auditing(),  # noqa: B008
    json: Json = False,
) -> None:
    """Audit a series of revisions on the Hugging Face hub without downloading weights.

    One request lists the revisions, and one for each of them its files with their digests.
    What was listed before is read from the file of the audit.

    Parameters
    ----------
    name
        Name of the model on the hub, as NAME or OWNER/NAME.
    json
        Print one JSON object on standard output.
    """
    from tightframe.jobs.audit import audit_series

    with bar("revisions"):
        made = audit_series(name, options, options.out, say)
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


def run(
    name: str,
    /,
    *,
    options: Series = Series(),  # noqa: B008
    json: Json = False,
) -> None:
    """Measure a series of models one by one, within a disk budget; finished ones are skipped.

    A revision on the hub is downloaded, measured and deleted, while the next one is
    downloaded. Revisions whose weights are not their own, by the audit, are left out.
    The same command resumes what was cut short.

    Parameters
    ----------
    name
        Name of the model on the hub, as NAME or OWNER/NAME; or a folder with runs
        or checkpoints, such as those of a Trainer.
    json
        Print one JSON object on standard output.
    """
    from tightframe.jobs.atlas import measure_series

    with bar():
        made = measure_series(name, options, say)
    line = f"{made.one_line}; `tightframe report {made.path}` makes the page"
    done(line, json, **vars(made))
    if made.failed:
        reasons = "; ".join(f"{one} ({why})" for one, why in made.failed.items())
        raise PartlyDoneError(
            f"{len(made.failed)} revisions failed: {reasons}; the same command tries them again"
        )
