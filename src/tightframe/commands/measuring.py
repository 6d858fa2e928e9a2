"""Commands that measure a model: all of its geometry, pieces of a pass, down to the token."""

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from tightframe.commands.console import (
    Flag,
    Json,
    as_parameters,
    columns,
    done,
    dumps,
    first_process,
    say,
    show,
)
from tightframe.geometry.options import ClassesOptions, CompareModelsOptions, MeasureOptions
from tightframe.progress import bar

if TYPE_CHECKING:
    Measuring: TypeAlias = MeasureOptions
    Comparing: TypeAlias = CompareModelsOptions
    Describing: TypeAlias = ClassesOptions
else:
    Measuring = as_parameters(MeasureOptions)
    Comparing = as_parameters(CompareModelsOptions)
    Describing = as_parameters(ClassesOptions)


def measure(
    model: str,
    /,
    *,
    options: Measuring = Measuring(),  # noqa: B008
    part: str | None = None,
    full: Flag = False,
    json: Json = False,
) -> None:
    """Measure the geometry of a model's class means: one pass over training, one over validation.

    A pass that is cut short resumes where it was when the same command is given again. Under
    torchrun, the processes share the passes.

    Parameters
    ----------
    model
        A run directory or RUN@STEP, a folder with a Hugging Face checkpoint, or a hub name, perhaps
        with a branch, tag or commit: NAME@REVISION.
    part
        I/N: only the I-th of N shares of the training pass, for `tightframe merge`.
    full
        Print every number of every layer, not only the headlines.
    json
        Print one JSON object on standard output.
    """
    from tightframe.geometry.checks import check_measurement
    from tightframe.geometry.options import check_part

    check_part(part, options.labels)
    check_measurement(model, options)

    from tightframe.geometry.study import measure_model, measure_part

    with bar():
        if part is not None:
            states = [str(path) for path in measure_part(model, part, options, say)]
        else:
            result = measure_model(model, options, say)
    if part is not None:
        done("\n".join([*states, "merge all parts with `tightframe merge`"]), json, states=states)
    elif first_process():
        path, header = result.path, result.header
        assert path is not None
        if json:
            notes = {"results": str(path), "sinks": header.measurement.get("sinks")}
            show(dumps(notes | {"rows": [vars(row) for row in result.rows]}))
            return
        show(result.summary(full=full, width=columns()))
        say(
            f"{path}: {'written' if result.n_computed else 'was measured before'}; "
            f"`tightframe report {path.parent.parent}` draws what is there"
        )


def compare(
    a: str,
    b: str,
    /,
    *,
    options: Comparing = Comparing(),  # noqa: B008
    save: Path | None = None,
    json: Json = False,
) -> None:
    """Compare the geometry of two models on one text, with paired intervals of the differences.

    Both models see the same documents in the same groups. What is positive is larger in the second.

    Parameters
    ----------
    a
        A run directory or RUN@STEP, a folder with a Hugging Face checkpoint, or a hub name, perhaps
        with a branch, tag or commit: NAME@REVISION.
    b
        The model that is compared with it.
    save
        A file for the table: .csv, .parquet, .json or .jsonl.
    json
        Print one JSON object on standard output.
    """
    import dataclasses

    from tightframe.geometry.checks import check_measurement

    for model in (a, b):
        check_measurement(model, options)
    if save is not None:
        from tightframe.results import check_savable  # imports pydantic

        check_savable(save)

    from tightframe.geometry.compare import compare_models

    with bar():
        result = compare_models(a, b, options, say)
    if save is not None:
        result.save(save)
    rows = [dataclasses.asdict(row) for row in result.rows]
    done(result.summary(), json, a=result.a.run, b=result.b.run, rows=rows)


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
    from tightframe.geometry.states import merge_states

    path, state = merge_states(states, out)
    blocks = state.ledger.n_blocks
    done(f"{path}: {state.n:,} positions of {blocks:,} blocks", json, state=str(path), n=state.n)


def classes(
    model: str,
    /,
    *,
    options: Describing = Describing(),  # noqa: B008
    json: Json = False,
) -> None:
    """Describe a model token by token: a table with one row per class, and the heaviest pairs.

    Parameters
    ----------
    model
        A run directory or RUN@STEP, a folder with a Hugging Face checkpoint, or a hub name, perhaps
        with a branch, tag or commit: NAME@REVISION.
    json
        Print one JSON object on standard output.
    """
    from tightframe.geometry.checks import check_input

    check_input(model, options)

    from tightframe.geometry.classes import measure_classes, readable, records

    with bar():
        made = measure_classes(model, options, say)
    shown = {"words": made.words} if made.words is not None else made.tables.excerpts()
    lines = {name: records(table) for name, table in shown.items()}
    done("\n\n".join(map(readable, shown.values())), json, results=str(made.path), **lines)
    say(f"{made.path}: written")
