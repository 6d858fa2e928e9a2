"""Commands that hold models against what a text predicts, and that read its concepts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from tightframe.commands.console import (
    Device,
    Flag,
    Json,
    Seed,
    done,
    dumps,
    say,
    show,
    warnings_said,
)
from tightframe.errors import UserError
from tightframe.files import check_writable
from tightframe.progress import bar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tightframe.results import Row


def compare(
    model: str,
    /,
    *,
    table: Path,
    step: int | None = None,
    bos: Literal["auto", "never"] = "auto",
    shuffles: Annotated[int, Parameter(validator=Number(lte=1000))] = 5,
    seed: int = 0,
    device: Device = "auto",
    batch_tokens: int = 8192,
    trust_remote_code: Flag = False,
    out: Path | None = None,
    json: Json = False,
) -> None:
    """Compare a trained model with the geometry that a table predicts, along its checkpoints.

    Checkpoints that were compared before are not read again. The prediction is the table's
    solution of smallest gap; without one, the proxy alone.

    Parameters
    ----------
    model
        A run directory, a folder with a Hugging Face checkpoint, or a hub name.
    table
        The folder of a context table, of tokens of the model's own tokenizer.
    step
        One checkpoint of a run; all by default.
    bos
        Whether contexts begin with the token that the model's tokenizer begins a text with.
    shuffles
        Random supports of the baseline.
    seed
        Of these.
    device
        Where the model should lie: cpu, cuda, or auto, the GPU if there is one.
    batch_tokens
        Tokens of a forward pass: fewer take less memory.
    trust_remote_code
        Run Python code that comes with the model.
    out
        Folder for the results files; by default results/MODEL in the table's folder.
    json
        Print one JSON object on standard output.
    """
    from tightframe.lm.folders import check_described, check_model
    from tightframe.lm.runs import Run, check_device
    from tightframe.ntp.table import table_fingerprint

    if batch_tokens < 1:
        raise UserError(f"batch_tokens is {batch_tokens}; expected at least 1")
    check_device(device)
    table_fingerprint(table)
    check_model(model)
    folder = Path(model).expanduser()
    if (folder / "config.toml").is_file():
        Run.open(folder).kept(step)
    else:
        check_described(model, trust_remote_code=trust_remote_code)
    check_writable(out or table)
    from tightframe.lm.hardware import device_named
    from tightframe.ntp.study import compare_run, rows_at

    with bar() as progress:
        paths = compare_run(
            model,
            table,
            step=step,
            bos=bos,
            shuffles=shuffles,
            seed=seed,
            device=device_named(device),
            batch_tokens=batch_tokens,
            trust_remote_code=trust_remote_code,
            out=out,
            progress=progress,
            say=say,
        )
    if json:
        rows = [vars(row) for path in paths for row in rows_at(path)[1]]
        show(dumps({"results": [str(path) for path in paths], "rows": rows}))
        return
    header, last = rows_at(paths[-1])
    for line in _beside(last):
        show(line)
    of = header.tokens
    say(
        f"{header.run} at step {header.step} on {of['name']}: {of['contexts']:,} contexts, "
        f"{of['vocab_size']:,} tokens, {len(paths)} checkpoint"
        f"{'' if len(paths) == 1 else 's'}"
    )
    say(f"{paths[-1]}: written")


def concepts(
    folder: Path,
    /,
    *,
    n: int = 10,
    clusters: int = 8,
    words: int = 10,
    model: str | None = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Read the leading singular vectors of a context table's proxy as concepts.

    Parameters
    ----------
    folder
        A context table, ntp/NAME of `tightframe ntp table`; tables go to its concepts/.
    n
        Concepts, largest singular values first.
    clusters
        Of k-means over tokens; at most as many orthants of the first concepts are made.
    words
        Tokens and contexts shown of each side.
    model
        Also how strong each concept is in a model: a run (every checkpoint), folder, or hub name.
    seed
        Of k-means.
    json
        Print one JSON object on standard output.
    """
    import pandas as pd

    from tightframe.formats import read_json
    from tightframe.lm.folders import check_model
    from tightframe.ntp.checks import Asked
    from tightframe.ntp.table import table_fingerprint

    asked = Asked(n, clusters, words, model, seed)
    table_fingerprint(folder)
    if model is not None:
        check_model(model)
    from tightframe.ntp.concept_study import readable, study_concepts  # imports torch

    with warnings_said(folder), bar("contexts"):
        out = study_concepts(folder, asked, say=say)
    facts = read_json(out / "concepts.json")
    lines = readable(pd.DataFrame(facts["concepts"]))
    done("\n".join(lines), json, results=str(out), **facts)
    say(f"{out}: written; singular values and vectors are those of the proxy")


def _beside(rows: "Sequence[Row]") -> "Iterator[str]":
    """Measured numbers for readers: a line a quantity, against each thing it is compared with."""
    names = {"": "value", "_proxy": "proxy", "_shuffled": "shuffled"}
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        kind = next(end for end in ("_proxy", "_shuffled", "") if row.metric.endswith(end))
        found.setdefault(row.metric.removesuffix(kind), {})[kind] = row
    width = max(map(len, found))
    yield " ".join([" " * width, *(f"{name:>12}" for name in names.values())])
    for quantity, values in found.items():
        cells = [f"{values[kind].value:12.6g}" if kind in values else " " * 12 for kind in names]
        reason = values[""].reason if "" in values else ""
        yield " ".join([f"{quantity:{width}}", *cells, f" {reason}"]).rstrip()
