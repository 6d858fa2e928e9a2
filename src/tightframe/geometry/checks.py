"""Check what a measurement is asked for before torch, a model or its tokens are loaded.

`tightframe measure` calls these first, so that a mistake costs a fraction of a second;
the modules that compute hold their arguments to the same rules.
"""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from tightframe.corpus.manifest import read_manifest
from tightframe.corpus.model_tokenizer import check_files
from tightframe.corpus.sources import check_source
from tightframe.errors import UserError, nearest
from tightframe.files import check_place, check_writable
from tightframe.formats import kind_of
from tightframe.lm.folders import (
    check_described,
    check_model,
    check_tokenizer_known,
    depth_of,
    positions_of,
    with_tokenizer,
)
from tightframe.lm.runs import Run

_PART = re.compile(r"\.part-\d+-of-\d+$")  # ends the name of a piece of a state
_STATES = ("ClassMoments", "Decisions")  # kinds of state files

# The published tables by name, and what stands before the dot in the names of their columns.
PREFIXES = {"lc-2024-05": "compat05", "lc-2024-10": "compat10"}


def check_places(
    model: str,
    *,
    tokens: Sequence[Path | None] = (),
    texts: Sequence[str | None] = (),
    field: str | None = None,
    tokenizer: str | None = None,
    step: int | None = None,
    layers: str = "last",
    context: int | None = None,
    trust_remote_code: bool = False,
    out: Path | None = None,
) -> None:
    """Refuse paths and names under which nothing can be found, or results cannot be written.

    So are layers and blocks that the model does not have, where its files tell.

    Args:
        model: A run, a model's folder or a hub name.
        tokens: Folders of tokens that are given, the first one to be measured on.
        texts: Sources of text that are given, the first one to be measured on.
        field: Of their records: where the text is.
        tokenizer: What makes tokens of them instead of the model's own.
        step: The checkpoint of a run.
        layers: Of the model; see `layer_names`.
        context: Tokens of a block of text.
        trust_remote_code: Whether Python code that comes with the model is run.
        out: Folder for the results of a model that is not a run.
    """
    folder = Path(model).expanduser()
    check_place(folder)
    run = Run.open(folder) if (folder / "config.toml").is_file() else None
    if run is not None:
        run.kept(step)
    else:
        check_model(model)
        check_described(model, trust_remote_code=trust_remote_code)
    check_depth(layers, depth_of(model) if run is None else run.settings.depth)
    check_room(context, positions_of(model), name=folder.name)
    for given in tokens:
        if given is not None:
            read_manifest(given)
    for text in texts:
        if text is not None:
            check_source(text, field=field)
    if run is not None:
        check_no_tokenizer(run.path, tokenizer)
    elif any(texts[:1]):
        check_tokenizer_known(tokenizer or model)
        check_files(with_tokenizer(tokenizer or model))
    if not any((*tokens[:1], *texts[:1])):
        if run is None:
            raise no_tokens(folder.name)
        read_manifest(Path(run.settings.tokens))
    if run is None and out is not None:
        check_no_run(out, folder.name)
    check_writable(out or (folder if run else Path("runs")))


def check_no_run(out: Path, name: str) -> None:
    """Refuse to put what is measured of a model from elsewhere into the folder of a run."""
    if (out / "config.toml").exists():
        raise UserError(f"{out}: belongs to a run; say with `out` where {name} should go")


def check_no_tokenizer(run: Path, tokenizer: str | Path | None) -> None:
    """Refuse a tokenizer for a run, which knows the one that it was trained with."""
    if tokenizer is not None:
        raise UserError(f"tokenizer: {run} is a run and knows its own; leave it out")


def no_tokens(name: str) -> UserError:
    """Return the error of a model that knows no tokens, where none are given."""
    return UserError(
        f"{name}: not a run directory; say on which tokens to measure it "
        "(`--tokens`), or on which text (`--text`)"
    )


def check_numbers(*, least: int = 1, **numbers: int | None) -> None:
    """Refuse numbers below the smallest that makes sense; None is fine."""
    for name, value in numbers.items():
        if value is not None and value < least:
            raise UserError(f"{name} is {value}; expected at least {least}")


def check_context(context: int | None) -> None:
    """Refuse blocks in which no token predicts another."""
    if context is not None and context < 2:
        raise UserError(f"context is {context}; expected 2 or more: one token predicts the next")


def check_room(context: int | None, positions: int | None, *, name: str) -> None:
    """Refuse blocks that are longer than a model takes; None is not known, or no limit."""
    if context and positions and context > positions + 1:  # a block's last token is only predicted
        raise UserError(
            f"context is {context:,}, but model {name} has {positions:,} positions; "
            f"give {positions + 1:,} or fewer"
        )


def check_depth(layers: str, depth: int | None) -> None:
    """Refuse numbers of layers beyond the last one of a model; None is not known."""
    for name in layer_names(layers):
        if depth is not None and name.isdecimal() and int(name) > depth:
            raise unknown_layer(name, depth)


def check_compat(tables: Collection[str], *, min_count: int | None, labels: str) -> None:
    """Refuse unknown published tables, and those of another class set than the published one."""
    for table in tables:
        check_table(table)
    if tables and ((min_count or 1) > 1 or labels != "next"):
        raise UserError(
            "compat: the published tables are of next tokens and of every class that occurs, "
            f"not of labels '{labels}' and min_count {min_count or 1}; ask for them apart"
        )


def check_table(name: str) -> None:
    """Refuse a name that is not that of a published table."""
    if name not in PREFIXES:
        hint = nearest(name, PREFIXES) or f"; there are {' and '.join(PREFIXES)}"
        raise UserError(f"unknown table '{name}'{hint}")


def layer_names(spec: str) -> list[str]:
    """Split a specification of layers into names: "all", "last", "prenorm" and numbers.

    A range such as 0-3 stands for each of its numbers.
    """
    names = []
    for name in map(str.strip, spec.split(",")):
        first, dash, last = (part.strip() for part in name.partition("-"))
        if dash and first.isdecimal() and last.isdecimal() and int(first) <= int(last) < 10_000:
            names += [str(number) for number in range(int(first), int(last) + 1)]
        elif name.isdecimal() or name in ("last", "prenorm") or spec == "all":
            names.append(name)
        else:
            raise unknown_layer(name)
    return names


def unknown_layer(name: str, depth: int | None = None) -> UserError:
    """Return the error of a layer that a model does not have."""
    end = "the model's depth" if depth is None else depth
    return UserError(
        f"layers: unknown layer '{name}'; expected all, last, prenorm, or numbers from 0 (the "
        f"input embedding) to {end} and ranges such as 0-3, separated by commas"
    )


def share_of(part: str) -> tuple[int, int]:
    """Return i and n of a part "i/n"."""
    i, _, n = part.partition("/")
    if not (i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
        raise UserError(f"part is '{part}'; expected I/N with I from 1 to N")
    return int(i), int(n)


def check_pieces(
    paths: Sequence[str | Path], out: str | Path | None
) -> tuple[list[Path], Path, str]:
    """Refuse state files that are missing or not of one kind, and a place that is taken.

    Returns:
        The files, where the whole state goes, and its kind.
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
        if kind not in _STATES or kind != kinds[files[0]]:
            raise UserError(f"{file}: holds {kind}, but {files[0]} holds {kinds[files[0]]}")
    return files, out, kinds[files[0]]
