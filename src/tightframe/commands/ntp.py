"""Commands of the theory: from a text to the geometry that it predicts, and to models beside it."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from cyclopts import Parameter

from tightframe.commands.console import (
    Flag,
    Json,
    as_parameters,
    done,
    dumps,
    say,
    show,
    warnings_said,
)
from tightframe.errors import UserError
from tightframe.files import check_new, check_writable
from tightframe.ntp.options import (
    CompareOptions,
    ConceptOptions,
    CountOptions,
    PredictOptions,
    RidgePathOptions,
    SolveOptions,
)
from tightframe.progress import bar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cyclopts import Token

    from tightframe.geometry.values import Value
    from tightframe.ntp.table import ContextTable

LARGE = 5000  # distinct supports above which solving is announced as long


def _context_length(kind: Any, tokens: "Sequence[Token]") -> "int | str":
    word = tokens[0].value
    if word != "all" and not (word.isdecimal() and int(word) > 0):
        raise UserError(f"--context {word}: expected a number of tokens from 1 on, or all")
    return word if word == "all" else int(word)


if TYPE_CHECKING:
    Count: TypeAlias = CountOptions
    Solve: TypeAlias = SolveOptions
    RidgePath: TypeAlias = RidgePathOptions
    Predict: TypeAlias = PredictOptions
    Compare: TypeAlias = CompareOptions
    Concepts: TypeAlias = ConceptOptions
else:
    length = Parameter(name=["--context", "-c"], converter=_context_length)
    Count = as_parameters(CountOptions, length=length)
    Solve, RidgePath = as_parameters(SolveOptions), as_parameters(RidgePathOptions)
    Predict = as_parameters(PredictOptions, source=Parameter(name="--from"))
    Compare, Concepts = as_parameters(CompareOptions), as_parameters(ConceptOptions)


def count(
    tokens: Path,
    /,
    *,
    out: Path,
    options: Count = Count(),  # noqa: B008
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
    followers_only
        Leave out tokens that follow none of the contexts: a smaller matrix, of another geometry
        than that of the whole vocabulary.
    json
        Print one JSON object on standard output.
    """
    import numpy as np

    from tightframe.corpus.manifest import read_manifest
    from tightframe.ntp.table import save_table

    check_new(out)
    check_writable(out.parent)
    read_manifest(tokens)
    from tightframe.corpus.shards import TokenShards
    from tightframe.ntp.contexts import count as count_contexts

    shards = TokenShards.open(tokens)
    with warnings_said(out), bar("pairs"):
        counted = count_contexts(shards, **vars(options))
    if followers_only:
        counted = counted.of_tokens(np.unique(counted.counts.indices))
    save_table(out, counted)
    dropped = counted.source["dropped_pairs"]
    left_out = ", ".join(f"{n:,} by {reason}" for reason, n in dropped.items() if n)
    done(
        f"{out}: {counted.one_line}" + (f"; pairs left out: {left_out}" if left_out else ""),
        json,
        table=str(out),
        **counted.report(),
        source=counted.source,
    )


def solve(folder: Path, /, *, options: Solve = Solve(), json: Json = False) -> None:  # noqa: B008
    """Solve for the logits that separate every support with least nuclear norm, with a certificate.

    Parameters
    ----------
    folder
        A context table, ntp/NAME of `tightframe ntp count`; the solution goes to its solutions/.
    json
        Print one JSON object on standard output.
    """
    from tightframe.lm.runs import check_device
    from tightframe.ntp.table import load_table, table_fingerprint

    fingerprint_of_table = table_fingerprint(folder)
    check_device(options.device)

    from tightframe.files import fingerprint
    from tightframe.ntp.solution import load_solution
    from tightframe.ntp.svm import solve_svm

    table = load_table(folder)
    source = {
        "table": fingerprint_of_table,
        "gap": options.gap,
        "max_iter": options.max_iter,
        "dtype": options.dtype,
    }
    path = folder / "solutions" / f"svm-{fingerprint(source)}.safetensors"
    if path.exists():
        solution = load_solution(path, table.support)
        say(f"{path}: already solved")
    else:
        _announce(folder, table)
        started = time.monotonic()
        with warnings_said(folder), bar("steps"):
            try:
                solution = solve_svm(table.support, vocab_size=table.vocab_size, **vars(options))
            except (ValueError, MemoryError) as error:  # the size of the table
                raise UserError(f"{folder}: {error}") from None
        solution.save(path, source)
        say(f"{path}: written after {time.monotonic() - started:.2f} s")
    line = (
        f"{solution.status}: upper {solution.upper:.9g}, lower {solution.lower:.9g}, "
        f"gap {solution.gap:.2g}, rank {solution.rank}, {solution.groups.describe()}, "
        f"{solution.iterations} steps"
    )
    done(line, json, solution=str(path), **solution.summary())


def ridge_path(
    folder: Path,
    /,
    *,
    options: RidgePath = RidgePath(),  # noqa: B008
    json: Json = False,
) -> None:
    """Follow the optimum of unconstrained features as their weight decay falls, with certificates.

    With a solution of the table (of several, that of smallest gap), the laws by which the path
    approaches it are measured.

    Parameters
    ----------
    folder
        A context table, ntp/NAME of `tightframe ntp count`; writes to its paths/ and results/.
    json
        Print one JSON object on standard output.
    """
    from tightframe.ntp.table import table_fingerprint

    table_fingerprint(folder)
    from tightframe.ntp.asymptotics import path_of_table, path_table  # imports torch

    with bar("steps"):
        written = path_of_table(folder, options, say=say)
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


def predict(folder: Path, /, *, options: Predict = Predict(), json: Json = False) -> None:  # noqa: B008
    """Predict word and context embeddings from a solution, or from the centred support matrix.

    Parameters
    ----------
    folder
        A context table, ntp/NAME of `tightframe ntp count`; the result goes to its predictions/.
    json
        Print one JSON object on standard output.
    """
    from tightframe.ntp.table import check_solved

    check_solved(folder, options.source)
    from tightframe.ntp.prediction import predict_table  # imports torch

    with warnings_said(folder):
        path, prediction, report = predict_table(folder, options, say=say)
    lines = [prediction.one_line]
    if report:
        bounds = f"; optimum in [{report.bound:.9g}, {report.upper:.9g}]"
        lines.append(
            f"centred support matrix: {report.verdict} ({report.reason})"
            + (bounds if report.rank >= 0 else "")
        )
    facts = prediction.to_dict() | {"proxy": report and report.to_dict()}
    done("\n".join(lines), json, prediction=str(path), **facts)


def compare(
    model: str,
    /,
    *,
    table: Path,
    options: Compare = Compare(),  # noqa: B008
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
    json
        Print one JSON object on standard output.
    """
    from tightframe.lm.described import check_described
    from tightframe.lm.folders import check_model
    from tightframe.lm.runs import Run, check_device
    from tightframe.ntp.table import table_fingerprint

    check_device(options.device)
    table_fingerprint(table)
    check_model(model)
    folder = Path(model).expanduser()
    if (folder / "config.toml").is_file():
        Run.open(folder).kept(options.step)
    else:
        check_described(model, trust_remote_code=options.trust_remote_code)
    check_writable(options.out or table)
    from tightframe.ntp.study import compare as compare_model
    from tightframe.results import read_rows

    with bar() as progress:
        comparison = compare_model(model, table, progress=progress, say=say, **vars(options))
    if json:
        rows = [vars(row) for path in comparison.paths for row in read_rows(path)[1]]
        show(dumps({"results": [str(path) for path in comparison.paths], "rows": rows}))
        return
    for line in _beside(comparison.values):
        show(line)
    say(comparison.one_line)
    say(f"{comparison.paths[-1]}: written")


def concepts(
    folder: Path,
    /,
    *,
    options: Concepts = Concepts(),  # noqa: B008
    json: Json = False,
) -> None:
    """Read the leading singular vectors of a context table's proxy as concepts.

    Parameters
    ----------
    folder
        A context table, ntp/NAME of `tightframe ntp count`; tables go to its concepts/.
    json
        Print one JSON object on standard output.
    """
    import pandas as pd

    from tightframe.formats import read_json
    from tightframe.lm.folders import check_model
    from tightframe.ntp.table import table_fingerprint

    table_fingerprint(folder)
    if options.model is not None:
        check_model(options.model)
    from tightframe.ntp.concept_study import readable, study_concepts  # imports torch

    with warnings_said(folder), bar("contexts"):
        out = study_concepts(folder, options, say=say)
    facts = read_json(out / "concepts.json")
    lines = readable(pd.DataFrame(facts["concepts"]))
    done("\n".join(lines), json, results=str(out), **facts)
    say(f"{out}: written; singular values and vectors are those of the proxy")


def _announce(folder: Path, table: "ContextTable") -> None:
    """Refuse a matrix that does not fit into memory, and announce work that takes long."""
    import torch

    from tightframe.lm.hardware import free_memory

    needed, free = table.vocab_size * table.n_contexts, free_memory(torch.device("cpu"))
    if free is not None and needed > free:
        raise UserError(
            f"{folder}: the support matrix of {table.vocab_size:,} tokens x {table.n_contexts:,} "
            f"contexts takes {needed:,} bytes, {free:,} are free; make a smaller table "
            f"(`tightframe ntp count --help`), or `tightframe ntp predict {folder} --from proxy "
            "--rank 32`"
        )
    if table.n_supports > LARGE:
        say(
            f"{folder}: {table.n_supports:,} distinct supports over {table.vocab_size:,} tokens, "
            f"this may take hours; `tightframe ntp predict {folder} --from proxy --rank 32` is a "
            "prediction without a certificate"
        )


def _beside(values: "Mapping[str, Value]") -> "Iterator[str]":
    """Yield lines for readers: one per quantity, with its value against each reference."""
    names = {"": "value", "_proxy": "proxy", "_shuffled": "shuffled"}
    quantities: dict[str, dict[str, Value]] = {}
    for name, value in values.items():
        kind = next(end for end in ("_proxy", "_shuffled", "") if name.endswith(end))
        quantities.setdefault(name.removesuffix(kind), {})[kind] = value
    width = max(map(len, quantities))
    yield " ".join([" " * width, *(f"{name:>12}" for name in names.values())])
    for quantity, found in quantities.items():
        cells = [f"{found[kind].value:12.6g}" if kind in found else " " * 12 for kind in names]
        reason = found[""].reason if "" in found else ""
        yield " ".join([f"{quantity:{width}}", *cells, f" {reason}"]).rstrip()
