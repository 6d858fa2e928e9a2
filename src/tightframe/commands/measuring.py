"""Commands that measure a model: all of its geometry, pieces of a pass, down to the token."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tightframe.commands.console import (
    SEVERAL,
    Flag,
    Json,
    Names,
    columns,
    done,
    dumps,
    first_process,
    say,
    show,
)
from tightframe.errors import UserError
from tightframe.progress import bar

if TYPE_CHECKING:
    from tightframe.geometry.subject import Text

Labels = Literal["next", "current", "shuffled"]


def measure(
    model: str,
    /,
    *,
    tokens: Path | None = None,
    text: str | None = None,
    step: int | None = None,
    layers: str = "last",
    labels: Annotated[list[Labels] | None, SEVERAL] = None,
    min_count: int | None = None,
    measures: Names = None,
    groups: int | None = None,
    by_frequency: Flag = False,
    skip_positions: int | None = None,
    skip_special: bool | None = None,
    context: int | None = None,
    bos: Literal["auto", "never"] = "auto",
    max_tokens: int | None = None,
    validation: str | None = None,
    documents: Literal["files", "paragraphs"] | None = None,
    field: str = "text",
    tokenizer: str | None = None,
    project: int | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    random_weights: int | None = None,
    ood: Path | None = None,
    compat: Names = None,
    shared_with: Path | None = None,
    matched: Flag = False,
    part: str | None = None,
    batch_tokens: int = 8192,
    trust_remote_code: Flag = False,
    keep_states: bool = True,
    out: Path | None = None,
    full: Flag = False,
    json: Json = False,
) -> None:
    """Measure the geometry of a model's class means: one pass over training, one over validation.

    A pass that is cut short goes on where it was when the same command is given again. Under
    torchrun, the processes share the passes.

    Parameters
    ----------
    model
        A run directory, a folder with a Hugging Face checkpoint, or a hub name.
    tokens
        Token shards; a run knows its own.
    text
        Or text: a file, a folder, or hf:NAME; the model's own tokenizer makes the tokens.
    step
        The checkpoint of a run; the last one by default.
    layers
        last (what the classifier multiplies), all, or a list such as 0,4,prenorm: 0 is the input
        embedding, prenorm what goes into the final norm. The last one is always measured.
    labels
        What a class is: the next token, the current one, or next tokens shuffled (a null);
        next by default. Several take the same passes.
    min_count
        Samples that a class needs to take part (default: 20, or what intervals need beyond).
    measures
        The measures to compute instead of the default list; "all" for all of them.
    groups
        Groups of documents that are kept apart for 95 % intervals; 1 gives none (default: 20, or
        what text and memory allow).
    by_frequency
        Every measure also for the classes of each frequency stratum.
    skip_positions
        First positions of each block to leave out: in many models they are attention sinks
        (default: 1; 0 for a run, and with --compat).
    skip_special
        Leave out positions whose input is a special token, such as the end of a text: they are
        sinks, too (default: yes; no for a run, and with --compat).
    context
        With --text: tokens of a block (default: 1,024, or fewer if the model has fewer).
    bos
        With --text: whether blocks begin with the token that the tokenizer begins a text with.
    max_tokens
        With --text: at most so many tokens.
    validation
        With --text: a source of its own for validation.
    documents
        With --text: text files as they are, or cut at blank lines with an end-of-text between
        (default: as a run was trained; for other models, as they are).
    field
        With --text: what holds the text in records and tables (meta.text for a nested one).
    tokenizer
        With --text: a folder, a tokenizer.json or a hub name, instead of the model's own.
    project
        Project every layer but the last to so many dimensions, at random.
    precision
        Of the forward passes: for fp32, weights stored in 16 bits are widened. The statistics are
        float64 in any case.
    random_weights
        Measure a twin with weights drawn anew from this seed.
    ood
        Tokens of another kind of text, for NC5.
    compat
        lc-2024-05, lc-2024-10: also the columns of these published tables.
    shared_with
        The same text in another model's tokens: only classes that are one token in both.
    matched
        With --shared-with: as many training positions of each class as both have.
    part
        I/N: only the I-th of N shares of the training pass, for `tightframe merge`.
    batch_tokens
        Tokens of a forward pass: fewer take less memory.
    trust_remote_code
        Run Python code that comes with the model.
    keep_states
        Keep the class moments on disk; further measures then need no pass.
    out
        Folder for the results of a model that is not a run.
    full
        Print every number of every layer, not only the headlines.
    json
        Print one JSON object on standard output.
    """
    from tightframe.geometry import checks
    from tightframe.geometry.measures import check_measures

    checks.check_numbers(min_count=min_count, groups=groups, project=project)
    checks.check_numbers(batch_tokens=batch_tokens, max_tokens=max_tokens)
    checks.check_numbers(least=0, skip_positions=skip_positions)
    check_measures(measures or ())
    first, *also = dict.fromkeys(labels or ["next"])
    checks.check_compat(compat or (), min_count=min_count, labels=first)
    checks.layer_names(layers)
    if part is not None:
        checks.share_of(part)
        if also:
            raise UserError("--part: takes one of --labels; make the parts of each apart")
    if matched and shared_with is None:
        raise UserError("matched: say with shared_with to which tokens")
    how: dict[str, Any] = {"context": context, "bos": bos, "max_tokens": max_tokens}
    how |= {"validation": validation, "documents": documents, "field": field}
    how["tokenizer"] = tokenizer
    _check_given(tokens, text, how)
    places = [tokens, ood, shared_with]
    texts = [text, validation]
    checks.check_places(
        model,
        tokens=places,
        texts=texts,
        field=field,
        tokenizer=tokenizer,
        step=step,
        layers=layers,
        context=context,
        trust_remote_code=trust_remote_code,
        out=out,
    )

    from tightframe.geometry import measure_part, measure_run
    from tightframe.geometry.answers import answers, control_values
    from tightframe.geometry.asked import Asked
    from tightframe.geometry.summary import summary
    from tightframe.results import read_rows

    on = _given(model, tokens, text, how)
    asked: dict[str, Any] = {
        "layers": layers,
        "labels": first,
        "min_count": min_count,
        "measures": measures,
        "groups": groups,
        "by_frequency": by_frequency,
        "skip_positions": skip_positions,
        "skip_special": skip_special,
        "project": project,
        "precision": precision,
    }
    common: dict[str, Any] = {
        "step": step,
        "random_weights": random_weights,
        "batch_tokens": batch_tokens,
        "trust_remote_code": trust_remote_code,
        "out": out,
        "say": say,
    }
    started = time.time()
    with bar() as progress:
        if part is not None:
            paths = measure_part(model, on, part, progress=progress, **common, **asked)
        else:
            more: dict[str, Any] = {"keep_states": keep_states, "ood": ood, "compat": compat or ()}
            more |= {"shared_with": shared_with, "matched": matched, "also": also}
            path = measure_run(model, on, progress=progress, **more, **common, **asked)
    if part is not None:
        shown = [str(path) for path in paths]
        done("\n".join([*shown, "merge all parts with `tightframe merge`"]), json, states=shown)
        return
    if not first_process():
        return
    settled = read_rows(path)[0].measurement
    chosen_for = ("groups", "min_count", "skip_positions", "skip_special")
    asked |= {name: settled[name] for name in chosen_for}
    wanted = [Asked.of(**asked, compat=tuple(compat or ()))]
    wanted += [Asked.of(**asked | {"labels": name}) for name in also]
    found = [answers(path, each) for each in wanted]
    if json:
        notes = {"results": str(path), "sinks": found[0][0].measurement.get("sinks")}
        show(dumps(notes | {"rows": [vars(row) for _, rows in found for row in rows]}))
        return
    for place, (each, (header, rows)) in enumerate(zip(wanted, found, strict=True)):
        if place:
            show("")
        control = control_values(path, each, rows)
        chosen, width = measures is not None, columns()
        for line in summary(header, rows, control, full=full, chosen=chosen, width=width):
            show(line)
    done_before = path.stat().st_mtime < started
    say(
        f"{path}: {'was measured before' if done_before else 'written'}; "
        f"`tightframe report {path.parent.parent}` draws what is there"
    )


def merge(*states: Path, out: Path | None = None, json: Json = False) -> None:
    """Merge state files of one model, layer and text that were made apart.

    Parameters
    ----------
    states
        Files of `tightframe measure --part`, or any states that share no block.
    out
        The new file; by default the name under which `tightframe measure` looks for it.
    json
        Print one JSON object on standard output.
    """
    from tightframe.geometry.checks import check_pieces

    check_pieces(states, out)
    from tightframe.geometry.merging import merge_states

    path, state = merge_states(states, out)
    blocks = state.ledger.n_blocks
    done(f"{path}: {state.n:,} positions of {blocks:,} blocks", json, state=str(path), n=state.n)


def classes(
    model: str,
    /,
    *,
    tokens: Path | None = None,
    text: str | None = None,
    words: Names = None,
    step: int | None = None,
    min_count: int = 1,
    context: int | None = None,
    bos: Literal["auto", "never"] = "auto",
    max_tokens: int | None = None,
    validation: str | None = None,
    documents: Literal["files", "paragraphs"] | None = None,
    field: str = "text",
    tokenizer: str | None = None,
    out: Path | None = None,
    json: Json = False,
) -> None:
    """Describe a model token by token: a table with a row a class, and the heaviest pairs.

    Parameters
    ----------
    model
        A run directory, a folder with a Hugging Face checkpoint, or a hub name.
    tokens
        Token shards; a run knows its own.
    text
        Or text: a file, a folder, or hf:NAME, as for `tightframe measure`.
    words
        Words to show beside the averages, Anna,Tim,Lily: those that are a single token.
    step
        The checkpoint of a run; the last one by default.
    min_count
        Samples that a class needs to take part.
    context
        With --text: tokens of a block (default: 1,024, or fewer if the model has fewer).
    bos
        With --text: whether blocks begin with the token that the tokenizer begins a text with.
    max_tokens
        With --text: at most so many tokens.
    validation
        With --text: a source of its own for validation.
    documents
        With --text: text files as they are, or cut at blank lines with an end-of-text between
        (default: as a run was trained; for other models, as they are).
    field
        With --text: what holds the text in records and tables (meta.text for a nested one).
    tokenizer
        With --text: a folder, a tokenizer.json or a hub name, instead of the model's own.
    out
        Folder for the results of a model that is not a run.
    json
        Print one JSON object on standard output.
    """
    from tightframe.geometry import checks

    checks.check_numbers(min_count=min_count, max_tokens=max_tokens)
    how: dict[str, Any] = {"context": context, "bos": bos, "max_tokens": max_tokens}
    how |= {"validation": validation, "documents": documents, "field": field}
    how["tokenizer"] = tokenizer
    _check_given(tokens, text, how)
    texts = [text, validation]
    checks.check_places(
        model,
        tokens=[tokens],
        texts=texts,
        field=field,
        tokenizer=tokenizer,
        step=step,
        context=context,
        out=out,
    )

    from tightframe.geometry.classes import measure_classes, readable, records

    given = _given(model, tokens, text, how)
    with bar() as progress:
        made = measure_classes(
            model,
            tokens=given,
            names=words or [],
            step=step,
            min_count=min_count,
            out=out,
            progress=progress,
            say=say,
        )
    shown = {"words": made.words} if made.words is not None else made.tables.excerpts()
    lines = {name: records(table) for name, table in shown.items()}
    done("\n\n".join(map(readable, shown.values())), json, results=str(made.path), **lines)
    say(f"{made.path}: written")


def _check_given(tokens: Path | None, text: str | None, how: dict[str, Any]) -> None:
    """Refuse tokens beside a text, and options of a text without one."""
    from tightframe.geometry.checks import check_context

    if text is not None and tokens is not None:
        raise UserError("--tokens and --text: give one of them")
    check_context(how["context"])
    for name in ("context", "max_tokens", "validation", "tokenizer"):
        if text is None and how[name] is not None:
            option = name.replace("_", "-")
            raise UserError(f"--{option}: is for --text; tokens are as they were built")


def _given(
    model: str, tokens: Path | None, text: str | None, how: dict[str, Any]
) -> "Path | Text | None":
    """Return what to measure on: tokens, or a text that is yet to become tokens."""
    from tightframe.geometry.subject import Text
    from tightframe.lm.folders import with_tokenizer

    if text is None:
        return tokens
    if how["tokenizer"] is None and str(where := with_tokenizer(model)) != model:
        say(f"{model}: without a tokenizer of its own; that of {where} is taken")
    return Text(text, **how)
