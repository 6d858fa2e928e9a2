"""Commands that make models: the demo, text to tokens, tokens to a trained run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

from cyclopts import Parameter
from cyclopts.validators import Number

from tightframe.commands.console import (
    Assignments,
    Flag,
    Json,
    Names,
    as_parameters,
    done,
    first_process,
    say,
)
from tightframe.corpus.options import BuildOptions
from tightframe.errors import UserError
from tightframe.files import check_writable
from tightframe.progress import bar

if TYPE_CHECKING:
    Building: TypeAlias = BuildOptions
else:
    Building = as_parameters(BuildOptions)


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
    options: Building = Building(),  # noqa: B008
    json: Json = False,
) -> None:
    """Turn text into token shards.

    Parameters
    ----------
    source
        stories (the generated corpus), a file (.txt, .md, .jsonl, also .gz or .zst; .parquet), a
        folder of these, one that datasets saved, or hf:NAME.
    out
        New folder for shards, tokenizer and manifest.
    json
        Print one JSON object on standard output.
    """
    from tightframe import corpus

    with bar() as progress:
        built = corpus.build(source, out=out, progress=progress, **vars(options))
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
    track: str | None = None,
    json: Json = False,
) -> None:
    """Train one model; a killed run goes on where it was when the same command is given again.

    Under torchrun, the processes share each batch.

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
    track
        Tracker that also gets the log and the measured values: wandb, trackio or tensorboard, with
        :PROJECT if you like.
    json
        Print one JSON object on standard output.
    """
    from tightframe.geometry.measures import check_measures
    from tightframe.geometry.options import check_numbers
    from tightframe.lm.options import TrainOptions
    from tightframe.lm.runs import check_training
    from tightframe.settings import overrides, read_toml, resolve
    from tightframe.tracking import check_tracker, tracker

    if config is not None and "=" in config.name and not config.exists():
        raise UserError(f"{config}: no such file; a setting is given as --set {config}")
    check_numbers(min_count=min_count)
    check_measures(measures or ())
    check_tracker(track)
    values = (read_toml(config) if config else {}) | overrides(set_ or [])
    settings = resolve(TrainOptions, values, source=str(config or "--set"))
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
    from tightframe.lm.hardware import process_group

    results = []
    with process_group(), tracker(track, settings.out):
        run = train_model(settings, step_hooks=step_hooks)
        if measure:
            from tightframe.geometry.options import MeasureOptions
            from tightframe.geometry.study import measure_model

            with bar():
                for step in run.steps:
                    options = MeasureOptions(
                        step=step, min_count=min_count, groups=1, measures=tuple(measures or ())
                    )
                    results.append(measure_model(run.path, options).path)
    if not first_process():
        return
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
