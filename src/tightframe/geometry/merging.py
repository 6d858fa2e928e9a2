"""Pieces of a state, made anywhere, to one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tightframe.errors import UserError
from tightframe.geometry.checks import check_pieces
from tightframe.geometry.decisions import Decisions
from tightframe.geometry.moments import ClassMoments

State = ClassMoments | Decisions
KINDS: dict[str, type[State]] = {"ClassMoments": ClassMoments, "Decisions": Decisions}


def merge_states(paths: Sequence[str | Path], out: str | Path | None = None) -> tuple[Path, State]:
    """Merge state files; those of another model, layer or text, or that overlap, are refused.

    Args:
        paths: The pieces, at least one.
        out: The new file. By default the name that the whole state would have, beside the first
            piece: `tightframe measure` finds it there, and goes on if blocks are missing.
    """
    files, out, kind = check_pieces(paths, out)
    total: Any = KINDS[kind].load(files[0])
    for file in files[1:]:
        try:
            total.merge(type(total).load(file))
        except UserError as error:
            raise UserError(f"{file}: {error}") from None
        except ValueError as error:  # another shape, or more than there can be
            raise UserError(f"{file}: {error}; it is of another model or text") from None
    total.save(out)
    return out, total
