"""Checks of a request against files, before torch, a model or its tokens are loaded.

The commands call these first, so that a mistake costs a fraction of a second; the modules that
compute hold their arguments to the same rules.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tightframe.corpus.manifest import read_manifest
from tightframe.errors import UserError
from tightframe.files import check_place, check_writable
from tightframe.formats import kind_of
from tightframe.geometry.measures import check_measures
from tightframe.geometry.options import InputOptions, PassOptions, check_depth
from tightframe.lm.described import check_described, depth_of, positions_of
from tightframe.lm.folders import (
    Located,
    check_model,
    check_tokenizer_known,
    locate,
    with_tokenizer,
)
from tightframe.lm.placement import read_device_map
from tightframe.lm.runs import Run

_PART = re.compile(r"\.part-\d+-of-\d+$")  # ends the name of a piece of a state
_STATES = ("ClassMoments", "Decisions")  # kinds of state files


def check_measurement(model: str, options: PassOptions) -> None:
    """Refuse measures that do not exist, and all that `check_input` refuses."""
    check_measures(options.measures)
    run = check_input(model, options, others=options.more_tokens)
    where = _located(model, options)
    check_depth(options.layers, depth_of(where.source) if run is None else run.settings.depth)


def check_input(model: str, options: InputOptions, *, others: Sequence[Any] = ()) -> Run | None:
    """Refuse paths and names under which nothing can be found, or results cannot be written.

    Blocks that the model has no room for are refused, too, where its files tell.

    Args:
        model: A run, a model's folder or a hub name.
        options: Tokens, text and places.
        others: Further folders of tokens that are given.

    Returns:
        The run; None for a model from elsewhere.
    """
    if options.device_map is not None:
        read_device_map(options.device_map)
    where = _located(model, options)
    model, folder = str(where.source), Path(where.source).expanduser()
    check_place(folder)
    run = Run.open(folder) if (folder / "config.toml").is_file() else None
    if run is not None:
        run.kept(where.step)
    else:
        check_model(model, allow_bin=options.allow_bin)
        check_described(model, trust_remote_code=options.trust_remote_code)
    check_room(options.context, positions_of(model), name=folder.name)
    for given in (options.tokens, *others):
        if given is not None:
            read_manifest(Path(given))
    texts = [text for text in (options.text, options.validation) if text is not None]
    if texts:
        from tightframe.corpus.sources import check_source  # what reads texts is needed for no run

        for text in texts:
            check_source(text, field=options.field)
    if run is not None:
        check_no_tokenizer(run.path, options.tokenizer)
    elif options.text is not None:
        from tightframe.corpus.model_tokenizer import check_files

        check_tokenizer_known(options.tokenizer or model)
        check_files(with_tokenizer(options.tokenizer or model))
    if options.tokens is None and options.text is None:
        if run is None:
            raise no_tokens(folder.name)
        read_manifest(Path(run.settings.tokens))
    if run is None and options.out is not None:
        check_no_run(Path(options.out), folder.name)
    check_writable(Path(options.out or (folder if run else "runs")))
    return run


def _located(model: str, options: InputOptions) -> Located:
    return locate(model, options.step, allow_bin=options.allow_bin, subfolder=options.subfolder)


def check_no_run(out: Path, name: str) -> None:
    """Refuse to write results of a model that is not a run into the folder of a run."""
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


def check_room(context: int | None, positions: int | None, *, name: str) -> None:
    """Refuse blocks that are longer than a model takes; None is not known, or no limit."""
    if context and positions and context > positions + 1:  # a block's last token is only predicted
        raise UserError(
            f"context is {context:,}, but model {name} has {positions:,} positions; "
            f"give {positions + 1:,} or fewer"
        )


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
