"""Commands of the theory: from a text to the geometry that it predicts."""

import time
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
from tightframe.files import check_new, check_writable
from tightframe.progress import bar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tightframe.ntp.table import ContextTable
    from tightframe.results import Row


LARGE = 5000  # distinct supports above which solving is announced as long


def table(
    tokens: Path,
    /,
    *,
    out: Path,
    context: Annotated[str, Parameter(name=["--context", "-c"])] = "5",
    split: Literal["train", "val"] = "train",
    min_count: int = 1,
    min_context: int = 1,
    max_contexts: int | None = None,
    sample_seed: int | None = None,
    max_length: int | None = None,
    followers_only: Flag = False,
    json: Json = False,
) -> None:
    """Count which tokens follow each context of a text.

    Parameters
    ----------
    tokens
        A tokens folder; `tightframe corpus build` makes one.
    out
        The new folder of the table, e.g. ntp/x.
    context
        Tokens of a context, or all: every beginning of a document.
    split
        The split to count.
    min_count
        Next tokens that followed their context less often are left out.
    min_context
        Contexts that occurred less often are left out.
    max_contexts
        Keep so many contexts, the most frequent ones.
    sample_seed
        With --max-contexts: keep a random sample of the contexts instead, drawn by this seed.
    max_length
        With --context all: no longer beginnings.
    followers_only
        Leave out tokens that follow none of the contexts: a smaller matrix, of another geometry
        than that of the whole vocabulary.
    json
        Print one JSON object on standard output.
    """
    import numpy as np

    from tightframe.corpus.manifest import read_manifest
    from tightframe.ntp.options import check_counting
    from tightframe.ntp.table import save_table

    if context != "all" and not (context.isdecimal() and int(context) > 0):
        raise UserError(f"--context {context}: expected a number of tokens from 1 on, or all")
    check_new(out)
    check_writable(out.parent)
    read_manifest(tokens)
    length = None if context == "all" else int(context)
    try:
        check_counting(length, min_count, min_context, max_contexts, sample_seed, max_length)
    except ValueError as error:  # their names are those of the arguments
        raise UserError(f"{error}; see `tightframe ntp table --help`") from None
    from tightframe.corpus.shards import TokenShards
    from tightframe.ntp.contexts import context_table

    shards = TokenShards.open(tokens)
    with warnings_said(out), bar("pairs"):
        try:
            counted = context_table(
                shards,
                length,
                split=split,
                min_count=min_count,
                min_context=min_context,
                max_contexts=max_contexts,
                sample_seed=sample_seed,
                max_length=max_length,
            )
        except ValueError as error:  # of the options: their names are those of the arguments
            raise UserError(f"{error}; see `tightframe ntp table --help`") from None
    if followers_only:
        counted = counted.of_tokens(np.unique(counted.counts.indices))
    save_table(out, counted)
    numbers = counted.report()
    dropped = counted.source["dropped_pairs"]
    left_out = ", ".join(f"{n:,} by {reason}" for reason, n in dropped.items() if n)
    done(
        f"{out}: {numbers['n_pairs']:,} pairs, {numbers['n_contexts']:,} contexts over "
        f"{numbers['n_tokens_used']:,} of {numbers['vocab_size']:,} tokens, "
        f"{numbers['n_supports']:,} distinct supports, {numbers['mean_support']:.2f} tokens "
        f"after a context on average, "
        f"density {numbers['density']:.2%}, empirical entropy "
        f"{numbers['empirical_entropy']:.4f} nats a pair"
        + (f"; pairs left out: {left_out}" if left_out else ""),
        json,
        table=str(out),
        **numbers,
        source=counted.source,
    )


def solve(
    folder: Path,
    /,
    *,
    gap: float = 1e-4,
    max_iter: int = 2000,
    device: Device = "cpu",
    dtype: Literal["float64", "float32"] = "float64",
    json: Json = False,
) -> None:
    """Solve for the logits that separate every support with least nuclear norm, with a certificate.

    Parameters
    ----------
    folder
        A context table, ntp/NAME of `tightframe ntp table`; the solution goes to its solutions/.
    gap
        Relative distance of the bounds at which the answer counts as optimal.
    max_iter
        Steps after which the answer is written as it is; its status says so.
    device
        Of the iteration: cpu, cuda or auto. The certificate is computed on the CPU.
    dtype
        Of the iteration; the certificate is float64.
    json
        Print one JSON object on standard output.
    """
    from tightframe.lm.runs import check_device
    from tightframe.ntp.options import check_solving
    from tightframe.ntp.table import load_table, table_fingerprint

    table_fingerprint(folder)
    check_device(device)
    try:
        check_solving(gap, max_iter, dtype)
    except ValueError as error:
        raise UserError(f"{folder}: {error}") from None

    import torch

    from tightframe.files import fingerprint
    from tightframe.lm.hardware import device_named
    from tightframe.ntp import load_solution, save_solution, solve_svm
    from tightframe.ntp.solution import facts_of

    table = load_table(folder)
    asked = {"table": table_fingerprint(folder), "gap": gap, "max_iter": max_iter, "dtype": dtype}
    path = folder / "solutions" / f"svm-{fingerprint(asked)}.safetensors"
    if path.exists():
        solution = load_solution(path, table.matrix)
        say(f"{path}: already solved")
    else:
        _announce(folder, table)
        started = time.monotonic()
        with warnings_said(folder), bar("steps"):
            try:
                solution = solve_svm(
                    table.matrix,
                    gap,
                    max_iter=max_iter,
                    device=device_named(device),
                    dtype=getattr(torch, dtype),
                    vocab_size=table.vocab_size,
                )
            except (ValueError, MemoryError) as error:  # the options', or the size of the table
                raise UserError(f"{folder}: {error}") from None
        save_solution(path, solution, asked)
        say(f"{path}: written after {time.monotonic() - started:.2f} s")
    facts = facts_of(solution)
    line = (
        f"{facts['status']}: upper {facts['upper']:.9g}, lower {facts['lower']:.9g}, "
        f"gap {facts['gap']:.2g}, rank {facts['rank']}, {solution.groups.describe()}, "
        f"{facts['iterations']} steps"
    )
    done(line, json, solution=str(path), **facts)


def path(
    folder: Path,
    /,
    *,
    dim: int | None = None,
    down_to: float = 1e-7,
    seed: int = 0,
    json: Json = False,
) -> None:
    """Follow the optimum of free embeddings as their weight decay falls, each point certified.

    With a solution of the table (of several, that of smallest gap), the laws by which the path
    approaches it are measured.

    Parameters
    ----------
    folder
        A context table, ntp/NAME of `tightframe ntp table`; writes to its paths/ and results/.
    dim
        Dimensions of the embeddings; by default as many as the optimum may need.
    down_to
        The smallest ridge; the others are powers of ten below the one where all is zero.
    seed
        Of the noise that leaves saddles.
    json
        Print one JSON object on standard output.
    """
    from tightframe.ntp.options import check_path

    check_path(folder, dim=dim, down_to=down_to)
    from tightframe.ntp.asymptotics import path_of_table, path_table

    with bar("steps"):
        written = path_of_table(folder, dim=dim, down_to=down_to, seed=seed, say=say)
    points = path_table(written)
    if json:
        show(dumps({"results": str(written), "points": points}))
        return
    columns = {
        "lam": "lambda",
        "relgap": "gap",
        "excess": "CE - H",
        "nuclear_norm": "norm",
        "norm_ratio": "ratio",
        "coefficient": "R",
        "growth": "growth",
        "finite_error": "error",
        "finite_fall": "fall",
        "increment_cosine": "step cos",
        "logits_cosine": "cos",
        "classifier_gram_cosine": "cos G_W",
        "embedding_gram_cosine": "cos G_H",
    }
    shown = [name for name in columns if any(name in point for point in points)]
    show("  ".join(f"{columns[name]:>9}" for name in shown))
    for point in points:
        cells = (f"{point[name]:9.4g}" if name in point else " " * 9 for name in shown)
        show("  ".join(cells) + f"  {point['reason']}".rstrip())


def predict(
    folder: Path,
    /,
    *,
    source: Annotated[str | None, Parameter(name="--from")] = None,
    rank: int | None = None,
    json: Json = False,
) -> None:
    """Predict word and context embeddings from a solution, or from the centred support matrix.

    Parameters
    ----------
    folder
        A context table, ntp/NAME of `tightframe ntp table`; the result goes to its predictions/.
    source
        A solution's file, or `proxy`: the centred support matrix. By default the folder's solution
        of smallest gap.
    rank
        Keep this many dimensions; of a proxy only these are computed, however large the table is.
    json
        Print one JSON object on standard output.
    """
    from tightframe.ntp.options import check_prediction

    check_prediction(folder, source, rank)
    from tightframe.ntp.prediction import predict_table

    with warnings_said(folder):
        path, facts = predict_table(folder, source, rank, say=say)
    values = facts["singular_values"]
    gap = f" (gap {facts['gap']:.1e})" if facts["kind"] == "certified" else ""
    lines = [
        f"{facts['kind']}{gap}: {facts['tokens']:,} tokens and {facts['contexts']:,} contexts in "
        f"{facts['rank']} dimensions, singular values {values[0]:.6g} to {values[-1]:.6g}"
    ]
    if report := facts["proxy"]:
        bounds = f"; optimum in [{report['bound']:.9g}, {report['upper']:.9g}]"
        lines.append(
            f"centred support matrix: {report['verdict']} ({report['reason']})"
            + (bounds if report["rank"] >= 0 else "")
        )
    done("\n".join(lines), json, prediction=str(path), **facts)


def _announce(folder: Path, table: "ContextTable") -> None:
    """Refuse a matrix that can't be held, and say before the work that it is long."""
    import torch

    from tightframe.lm.hardware import free_memory

    needed, free = table.vocab_size * table.n_contexts, free_memory(torch.device("cpu"))
    if free is not None and needed > free:
        raise UserError(
            f"{folder}: the support matrix of {table.vocab_size:,} tokens x {table.n_contexts:,} "
            f"contexts takes {needed:,} bytes, {free:,} are free; make a smaller table "
            f"(`tightframe ntp table --help`), or `tightframe ntp predict {folder} --from proxy "
            "--rank 32`"
        )
    if table.n_supports > LARGE:
        say(
            f"{folder}: {table.n_supports:,} distinct supports over {table.vocab_size:,} tokens, "
            f"this may take hours; `tightframe ntp predict {folder} --from proxy --rank 32` is a "
            "prediction without a certificate"
        )


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
    from tightframe.ntp.options import Asked
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
