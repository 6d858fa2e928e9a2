"""Pieces of a state, made anywhere, to one."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tightframe.errors import UserError
from tightframe.formats import kind_of
from tightframe.moments.state import ClassMoments, Decisions

State = ClassMoments | Decisions
KINDS: dict[str, type[State]] = {"ClassMoments": ClassMoments, "Decisions": Decisions}
_PART = re.compile(r"\.part-\d+-of-\d+$")


def merge_states(paths: Sequence[str | Path], out: str | Path | None = None) -> tuple[Path, State]:
    """Merge state files; those of another model, layer or text, or that overlap, are refused.

    Args:
        paths: The pieces, at least one.
        out: The new file. By default the name that the whole state would have, beside the first
            piece: `tightframe measure` finds it there, and goes on if blocks are missing.
    """
    files = [Path(path) for path in paths]
    if not files:
        raise UserError("no state files given; make some with `tightframe measure --part 1/4`")
    for file in files:
        if not file.is_file():
            raise UserError(f"{file}: no such file; make it with `tightframe measure --part 1/4`")
    if out is None:
        whole = {_PART.sub("", file.stem) for file in files}
        if len(whole) > 1 or whole == {files[0].stem}:
            raise UserError("the files are not parts of one state by their names; give --out FILE")
        out = files[0].with_name(f"{whole.pop()}.safetensors")
    out = Path(out)
    if out.exists():
        raise UserError(f"{out}: already exists; remove it or choose another name")
    kinds = {file: kind_of(file) for file in files}
    for file, kind in kinds.items():
        if kind not in KINDS or kind != kinds[files[0]]:
            raise UserError(f"{file}: holds {kind}, but {files[0]} holds {kinds[files[0]]}")
    total: Any = KINDS[kinds[files[0]]].load(files[0])
    for file in files[1:]:
        try:
            total.merge(type(total).load(file))
        except UserError as error:
            raise UserError(f"{file}: {error}") from None
        except ValueError as error:  # another shape, or more than there can be
            raise UserError(f"{file}: {error}; it is of another model or text") from None
    total.save(out)
    return out, total
