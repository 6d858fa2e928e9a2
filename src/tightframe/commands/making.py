"""Commands that make models: the demo, text to tokens, tokens to a trained run."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from tightframe.commands.console import Assignments, Flag, Json, Names, done, say
from tightframe.errors import UserError
from tightframe.files import check_new, check_writable
from tightframe.progress import bar


def demo(*, out: Path = Path(), json: Json = False) -> None:
    """Train and measure twelve models on the generated corpus, and make the page.

    Parameters
    ----------
    out
        Folder that takes tokens/demo and sweeps/demo.
    json
        Print one JSON object on standard output.
    """
    check_writable(out)
    from tightframe.jobs.demo import run_demo  # imports torch

    page = run_demo(out, say=say)
    done(f"open {page}", json, page=str(page))


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
        stories (the generated corpus), a file (.txt, .md, .jsonl, also .gz or .zst; .parquet), a
        folder of these, one that datasets saved, or hf:NAME.
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
        In text files: a document is a paragraph (split at blank lines) or a whole file.
    field
        The field or column that holds the text, in records and tables (meta.text for a nested one).
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
    from tightframe.corpus.options import check_request, layout_of
    from tightframe.corpus.sources import STORIES, check_source

    generated = source == STORIES
    check_request(
        generated=generated,
        layout=layout_of(blocks, generated=generated),
        block=block,
        validation_share=validation_share,
        vocab_size=vocab_size,
        tokenizer=tokenizer,
        shards=shards,
        bos=bos,
        validation=validation,
        max_tokens=max_tokens,
        words=words,
        tokens=tokens,
    )
    check_source(source, field=field, generated=True)
    if validation is not None:
        check_source(validation, field=field)
    check_new(out)
    check_writable(out.parent)
    from tightframe.corpus.tokenization import build as build_shards

    with bar() as progress:
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
    for note in built.notes:
        say(note)
    train, val = (built.manifest["splits"][name] for name in ("train", "val"))
    floor = built.entropy_floor
    known = f", entropy floor {floor['mean_conditional_entropy']:.4f} nats/token" if floor else ""
    done(
        f"{out}: {train['tokens']:,} training and {val['tokens']:,} validation tokens, "
        f"vocabulary {built.vocab_size:,}{known}",
        json,
        **built.manifest,
    )


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
    from tightframe.geometry import checks
    from tightframe.geometry.measures import check_measures
    from tightframe.lm.options import TrainSettings
    from tightframe.lm.runs import check_training
    from tightframe.settings import overrides, read_toml, resolve

    if config is not None and "=" in config.name and not config.exists():
        raise UserError(f"{config}: no such file; a setting is given as --set {config}")
    checks.check_numbers(min_count=min_count)
    check_measures(measures or ())
    values = (read_toml(config) if config else {}) | overrides(set_ or [])
    settings = resolve(TrainSettings, values, source=str(config or "--set"))
    check_training(settings)
    from tightframe.lm.training import train as train_model

    step_hooks = []
    if measure_every:
        from tightframe.geometry.callback import CollapseCallback

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
        from tightframe.geometry import measure_run

        asked: dict[str, Any] = {"min_count": min_count, "groups": 1, "measures": measures}
        with bar() as progress:
            results = [
                measure_run(run.path, step=step, progress=progress, **asked) for step in run.steps
            ]
    last = run.log[-1]
    floors = (
        f" (entropy floor {last['entropy_floor']:.4f}, realised {last['realised_floor']:.4f})"
        if "entropy_floor" in last
        else ""
    )
    done(
        f"{run.path}: validation loss {last['val_loss']:.4f} nats per token{floors}, "
        f"accuracy {last['val_accuracy']:.1%}, perplexity {last['val_perplexity']:.2f}",
        json,
        run=str(run.path),
        results=[str(path) for path in results],
        **last,
    )
