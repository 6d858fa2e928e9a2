"""The command line: parse, load, call, print; no arithmetic. Heavy imports wait for their command.

Exit status: 0 done, 1 our mistake (traceback), 2 the user's (one line), 3 partly done (one line).
"""

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter
from cyclopts.validators import Number
from rich.console import Console

from tightframe.errors import PartlyDoneError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tightframe.results import Row

app = App(
    name="tightframe",
    help="Measure the geometry that language models collapse to, and relate it to what they learn.",
    exit_on_error=False,
    print_error=False,
    result_action="return_none",
    help_format="plaintext",
)
corpus = App(name="corpus", help="Text to token shards.")
sweep = App(name="sweep", help="A grid of settings to trained and measured models.")
app.command(corpus)
app.command(sweep)

console = Console(stderr=True, highlight=False, soft_wrap=True)

Json = Annotated[bool, Parameter(name="--json", negative="")]
Names = Annotated[list[str] | None, Parameter(negative="", consume_multiple=True)]
Flag = Annotated[bool, Parameter(negative="")]
Assignments = Annotated[
    list[str] | None, Parameter(name="--set", negative="", consume_multiple=False)
]


def main(arguments: "Sequence[str] | None" = None) -> None:
    """Run one command and exit with its status."""
    try:
        app(sys.argv[1:] if arguments is None else arguments)
    except CycloptsError as error:
        _stop(" ".join(str(error).split()) + "; see `tightframe --help`", status=2)
    except UserError as error:
        _stop(str(error), status=2)
    except PartlyDoneError as error:
        _stop(str(error), status=3)
    except KeyboardInterrupt:
        _stop("interrupted; the same command goes on from here", status=130)
    except BrokenPipeError:
        sys.exit(141)


@app.command
def demo(*, out: Path = Path(), json: Json = False) -> None:
    """Train and measure twelve models on the generated corpus, and make the page.

    Parameters
    ----------
    out
        Folder that takes tokens/demo and sweeps/demo.
    json
        Print one JSON object on standard output.
    """
    from tightframe.jobs.demo import run_demo

    page = run_demo(out, say=_say)
    _done(f"open {page}", json, page=str(page))


@corpus.command
def build(
    source: str,
    /,
    *,
    out: Path,
    vocab_size: int | None = None,
    tokenizer: str | None = None,
    blocks: Literal["whole", "packed", "published"] | None = None,
    block: int = 256,
    shards: int = 2,
    bos: Literal["auto", "never"] = "never",
    validation: str | None = None,
    validation_share: float = 0.1,
    documents: Literal["paragraphs", "files"] = "paragraphs",
    field: str = "text",
    words: Literal["word", "bpe"] | None = None,
    tokens: int | None = None,
    max_tokens: int | None = None,
    seed: int = 0,
    json: Json = False,
) -> None:
    """Turn text into token shards.

    Parameters
    ----------
    source
        stories (the generated corpus), a file (.txt, .jsonl, .parquet), a folder, or hf:NAME.
    out
        The new folder for shards, tokenizer and manifest.
    vocab_size
        Train a byte-level BPE of this size.
    tokenizer
        Take this one: a tokenizer.json, a folder that holds one, or a hub name.
    blocks
        How documents become blocks: whole (documents stay whole; default for stories), packed
        (an end-of-text token between documents, nothing dropped; default for other text), or
        published (as in Wu & Papyan 2024).
    block
        Tokens a block; the first is context only.
    shards
        With --blocks published: contiguous parts that the documents are dealt to.
    bos
        With --blocks packed: auto begins each block with the token that --tokenizer (or the
        configuration beside it) puts before a text; it is context only.
    validation
        A source of its own for validation; otherwise a share of SOURCE is kept for it.
    validation_share
        Share of the text that is kept for validation.
    documents
        In .txt files: a document is a paragraph (split at blank lines) or a whole file.
    field
        The field or column that holds the text, in .jsonl and .parquet.
    words
        Of the generated corpus: one word one token (default), or BPE.
    tokens
        Length of the generated corpus in words (default: a million).
    max_tokens
        Stop after this many tokens of other text.
    seed
        Of the generated corpus, and of the choice of validation documents.
    json
        Print one JSON object on standard output.
    """
    from tightframe.corpus.build import build as build_shards

    with _bar() as progress:
        built = build_shards(
            source,
            out=out,
            vocab_size=vocab_size,
            tokenizer=tokenizer,
            blocks=blocks,
            block=block,
            shards=shards,
            bos=bos,
            validation=validation,
            validation_share=validation_share,
            documents=documents,
            field=field,
            words=words,
            tokens=tokens,
            max_tokens=max_tokens,
            seed=seed,
            progress=progress,
        )
    train, val = (built.manifest["splits"][name] for name in ("train", "val"))
    floor = built.entropy_floor
    known = f", entropy floor {floor['mean_conditional_entropy']:.4f} nats/token" if floor else ""
    _done(
        f"{out}: {train['tokens']:,} training and {val['tokens']:,} validation tokens, "
        f"vocabulary {built.vocab_size:,}{known}",
        json,
        **built.manifest,
    )


@app.command
def train(
    config: Path | None = None,
    /,
    *,
    set_: Assignments = None,
    measure: Flag = False,
    measure_every: Annotated[int, Parameter(validator=Number(gte=0))] = 0,
    min_count: int = 1,
    measures: Names = None,
    json: Json = False,
) -> None:
    """Train one model; a killed run goes on where it was when the same command is given again.

    Parameters
    ----------
    config
        A TOML file of settings.
    set_
        A setting as key=value, e.g. --set width=128; may be given again.
    measure
        Measure every kept checkpoint afterwards.
    measure_every
        Measure a fixed probe every so many steps of the training; 0 is never.
    min_count
        When measuring: samples that a class needs to take part.
    measures
        When measuring: the measures to compute instead of the default list.
    json
        Print one JSON object on standard output.
    """
    from tightframe.lm.training import TrainSettings
    from tightframe.lm.training import train as train_model
    from tightframe.settings import overrides, read_toml, resolve

    values = (read_toml(config) if config else {}) | overrides(set_ or [])
    settings = resolve(TrainSettings, values, source=str(config or "--set"))
    step_hooks = []
    if measure_every:
        from tightframe.collapse.callback import CollapseCallback

        callback = CollapseCallback(
            settings.tokens,
            out=settings.out,
            every=measure_every,
            min_count=min_count,
            measures=measures,
        )
        step_hooks.append(callback.step)
    run = train_model(settings, step_hooks=step_hooks)
    results = []
    if measure:
        from tightframe.collapse import measure_run

        results = [
            measure_run(run.path, step=step, min_count=min_count, measures=measures)
            for step in run.steps
        ]
    last = run.log[-1]
    floors = (
        f" (entropy floor {last['entropy_floor']:.4f}, realised {last['realised_floor']:.4f})"
        if "entropy_floor" in last
        else ""
    )
    _done(
        f"{run.path}: validation loss {last['val_loss']:.4f} nats per token{floors}, "
        f"accuracy {last['val_accuracy']:.1%}, perplexity {last['val_perplexity']:.2f}",
        json,
        run=str(run.path),
        results=[str(path) for path in results],
        **last,
    )


@app.command
def measure(
    model: str,
    /,
    *,
    tokens: Path | None = None,
    text: str | None = None,
    step: int | None = None,
    layers: str = "last",
    labels: Literal["next", "current", "shuffled"] = "next",
    min_count: int = 1,
    measures: Names = None,
    groups: int = 1,
    by_frequency: Flag = False,
    skip_positions: int = 0,
    context: int | None = None,
    bos: Literal["auto", "never"] = "auto",
    max_tokens: int | None = None,
    validation: str | None = None,
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
        What a class is: the next token, the current one, or next tokens shuffled (a null).
    min_count
        Samples that a class needs to take part.
    measures
        The measures to compute instead of the default list; "all" for all of them.
    groups
        Groups of documents that are kept apart for 95 % intervals; 20 is usual, 1 gives none.
    by_frequency
        Every measure also for the classes of each frequency stratum.
    skip_positions
        First positions of each block to leave out: in many models they are attention sinks.
    context
        With --text: tokens of a block (default: 1,024, or fewer if the model has fewer).
    bos
        With --text: whether blocks begin with the token that the tokenizer begins a text with.
    max_tokens
        With --text: at most so many tokens.
    validation
        With --text: a source of its own for validation.
    project
        Project every layer but the last to so many dimensions, at random.
    precision
        Of the forward passes; the statistics are float64 in any case.
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
    json
        Print one JSON object on standard output.
    """
    from tightframe.collapse import measure_part, measure_run
    from tightframe.collapse.subject import Text
    from tightframe.errors import UserError
    from tightframe.results import read_rows

    if text is not None and tokens is not None:
        raise UserError("--tokens and --text: give one of them")
    on = tokens if text is None else Text(text, context, bos, max_tokens, validation)
    asked: dict[str, Any] = {
        "layers": layers,
        "labels": labels,
        "min_count": min_count,
        "measures": measures,
        "groups": groups,
        "by_frequency": by_frequency,
        "skip_positions": skip_positions,
        "project": project,
        "precision": precision,
    }
    common: dict[str, Any] = {
        "step": step,
        "random_weights": random_weights,
        "batch_tokens": batch_tokens,
        "trust_remote_code": trust_remote_code,
        "out": out,
        "say": _say,
    }
    with _bar() as progress:
        if part is not None:
            paths = measure_part(model, on, part, progress=progress, **common, **asked)
        else:
            more: dict[str, Any] = {"keep_states": keep_states, "ood": ood, "compat": compat or ()}
            more |= {"shared_with": shared_with, "matched": matched}
            path = measure_run(model, on, progress=progress, **more, **common, **asked)
    if part is not None:
        shown = [str(path) for path in paths]
        _done("\n".join([*shown, "merge all parts with `tightframe merge`"]), json, states=shown)
        return
    _, rows = read_rows(path)
    if json:
        print(_dumps({"results": str(path), "rows": [vars(row) for row in rows]}))
        return
    for line in _table(rows):
        print(line)
    _say(f"{path}: written")


@app.command
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
    from tightframe.collapse.merging import merge_states

    path, state = merge_states(states, out)
    blocks = state.ledger.n_blocks
    _done(f"{path}: {state.n:,} positions of {blocks:,} blocks", json, state=str(path), n=state.n)


@sweep.command
def plan(file: Path, /, *, json: Json = False) -> None:
    """Write the settings of every run of a sweep, without running them.

    Parameters
    ----------
    file
        The sweep file (TOML).
    json
        Print one JSON object on standard output.
    """
    from tightframe.jobs import sweep as jobs

    runs = jobs.plan(file)
    _done("\n".join(str(run.plan) for run in runs), json, plans=[str(run.plan) for run in runs])


@sweep.command
def run(file: Path, /, *, workers: int | None = None, json: Json = False) -> None:
    """Train and measure every run of a sweep; finished ones are skipped.

    Parameters
    ----------
    file
        The sweep file (TOML).
    workers
        Runs at a time; by default as many as have a core for each of their threads, one on a GPU.
    json
        Print one JSON object on standard output.
    """
    from tightframe.jobs import sweep as jobs

    path = jobs.run(file, workers=workers, say=_say)
    _done(f"{path}: done; `tightframe report {path}` makes the page", json, sweep=str(path))


@sweep.command
def status(file: Path, /, *, json: Json = False) -> None:
    """Say which runs of a sweep are finished, started or waiting.

    Parameters
    ----------
    file
        The sweep file (TOML).
    json
        Print one JSON object on standard output.
    """
    from tightframe.jobs import sweep as jobs

    states = {run.name: run.state for run in jobs.plan(file)}
    _done("\n".join(f"{state:9} {name}" for name, state in states.items()), json, **states)


@app.command
def report(path: Path, /, *, out: Path | None = None, json: Json = False) -> None:
    """Make the page, the figures and the tables of a sweep or a run.

    Parameters
    ----------
    path
        A sweep's or a run's folder.
    out
        Where to write; the folder `report` inside PATH by default.
    json
        Print one JSON object on standard output.
    """
    from tightframe.report import report as write_report

    page = write_report(path, out=out)
    _done(f"open {page}", json, page=str(page))


@app.command
def classes(
    model: str,
    /,
    *,
    tokens: Path | None = None,
    words: Names = None,
    step: int | None = None,
    min_count: int = 1,
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
    words
        Words to show beside the averages, each a single token: Anna,Tim,Lily.
    step
        The checkpoint of a run; the last one by default.
    min_count
        Samples that a class needs to take part.
    out
        Folder for the results of a model that is not a run.
    json
        Print one JSON object on standard output.
    """
    from tightframe.collapse.classes import measure_classes, readable, records

    names = [word for part in words or [] for word in part.split(",") if word]
    with _bar() as progress:
        made = measure_classes(
            model,
            tokens=tokens,
            names=names,
            step=step,
            min_count=min_count,
            out=out,
            progress=progress,
        )
    shown = {"words": made.words} if made.words is not None else made.tables.excerpts()
    lines = {name: records(table) for name, table in shown.items()}
    _done("\n\n".join(map(readable, shown.values())), json, results=str(made.path), **lines)
    _say(f"{made.path}: written")


@contextlib.contextmanager
def _bar() -> "Iterator[Callable[[str, float | None, int], None]]":
    """A progress bar with share done, tokens a second and time left; nothing off a terminal."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as p:
        task = p.add_task("", total=None)

        def show(stage: str, share: float | None, tokens: int) -> None:
            elapsed = p.tasks[0].elapsed or 0.0
            rate = f", {tokens / elapsed:,.0f} a second" if tokens and elapsed else ""
            p.update(
                task, description=f"{stage}: {tokens:,} tokens{rate}", total=1, completed=share
            )

        yield show


def _table(rows: "Sequence[Row]") -> "Iterator[str]":
    """Measured numbers for readers, a paragraph a layer and subset."""
    width = max(len(row.metric) for row in rows)
    several = len({(row.layer, row.subset) for row in rows}) > 1
    before = None
    for row in rows:
        here = (row.layer, row.subset)
        if several and here != before:
            layer = "prenorm" if row.layer < 0 else row.layer
            yield f"{'' if before is None else chr(10)}layer {layer}, {row.subset} classes"
        before = here
        interval = f"  [{row.low:.6g}, {row.high:.6g}]" if row.low == row.low else ""
        reason = f"  ({row.reason})" if row.reason else ""
        yield f"{row.metric:{width}}  {row.value:12.6g}{interval}  n = {row.n:,}{reason}"


def _say(line: str) -> None:
    console.print(line, markup=False)


def _done(line: str, as_json: bool, **fields: Any) -> None:
    print(_dumps(fields) if as_json else line)


def _dumps(value: Any) -> str:
    return json.dumps(_finite(value), default=str)


def _finite(value: Any) -> Any:
    """NaN and infinities as null: JSON has no words for them."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and value - value != 0 else value


def _stop(line: str, *, status: int) -> None:
    console.print(f"tightframe: {line}", markup=False)
    sys.exit(status)
