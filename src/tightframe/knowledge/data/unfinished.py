"""A file of facts that an endpoint may leave unfinished, and goes on with in another run.

OUT.jsonl           facts that are done
OUT.dropped.jsonl   what failed a check, with the reason
OUT.left.jsonl      facts that the endpoint gave no reply for; gone once there are none
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tightframe.errors import PartlyDoneError, UserError
from tightframe.knowledge.data.benchmark import write_facts
from tightframe.knowledge.data.json_lines import write_records
from tightframe.knowledge.data.records import Fact

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
