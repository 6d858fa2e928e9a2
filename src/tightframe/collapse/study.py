"""From a model and tokens to a results file: a pass over each split, then all measures."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from tightframe.collapse.measures import Measure, choose, metrics
from tightframe.collapse.subject import Model, Subject, model_facts, token_facts
from tightframe.collapse.values import Value
from tightframe.corpus.tokens import TokenShards
from tightframe.errors import UserError
from tightframe.files import fingerprint
from tightframe.lm.hardware import prepared
from tightframe.moments import stream
from tightframe.moments.state import ClassMoments, Decisions
from tightframe.results import Header, Row, read_rows, write_rows

Progress = Callable[[str, float | None, int], None]
"""Called as work goes on: the stage, the share of it that is done (None where unknown), and the
tokens gone through so far."""


def measure_run(
    model: str | Path | Model,
    tokens: TokenShards | str | Path | None = None,
    *,
    step: int | None = None,
    min_count: int = 1,
    measures: Sequence[str] | None = None,
    precision: stream.Precision = "fp32",
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Measure the geometry of a model: one pass over training tokens, one over validation.

    What was measured before, of this checkpoint on these tokens, is not measured again.

    Args:
        model: A run directory, a checkpoint or Hugging Face folder, a hub name, or a model.
        tokens: Token shards, or their folder; a run knows its own.
        step: The checkpoint of a run; the last by default.
        min_count: Embeddings that a class needs to take part, and to be a nearest class mean.
        measures: Names from `MEASURES`; "all" is all of them, None is `DEFAULT`.
        precision: Of the forward passes.
        out: Folder that takes `results/`; a run has its own.
        progress: Called as the passes go on.

    Returns:
        The results file, `results/step-N-<hash>.jsonl`; the hash is of tokens and settings. If
        nothing was left to measure, an earlier one.
    """
    chosen = choose(measures)
    subject = Subject.of(model, step, out)
    shards = subject.tokens(tokens)
    _check_classes(shards, min_count)
    settings = {
        "precision": precision,
        "min_count": min_count,
        "measures": [one.name for one in chosen],
    }
    digest = fingerprint([subject.name, subject.weights, shards.fingerprint, settings])
    path = subject.folder / "results" / f"step-{subject.step}-{digest}.jsonl"
    if path.exists():
        return path
    earlier = _earlier(subject, shards, precision)
    left = [one for one in chosen if (one.name, _least(one, min_count)) not in earlier]
    if not left:
        return earlier[chosen[0].name, _least(chosen[0], min_count)]
    with prepared(subject.threads):
        header, rows = _measure(subject, shards, left, settings, progress)
    write_rows(path, header, [row for row in rows if (row.metric, row.min_count) not in earlier])
    return path


def _measure(
    subject: Subject,
    shards: TokenShards,
    measures: Sequence[Measure],
    settings: dict[str, Any],
    progress: Progress | None,
) -> tuple[Header, list[Row]]:
    """The two passes and all that is made of them."""
    model, min_count = subject.model, settings["min_count"]
    moments, decisions = _passes(model, shards, measures, settings, progress)
    values = metrics(
        moments,
        model.classifier,
        decisions,
        measures=[measure.name for measure in measures],
        min_count=min_count,
    )
    facts = model_facts(model, shards)
    n_classes = int(moments.seen(min_count).sum())
    facts |= {"n_classes": n_classes, "classes_per_dimension": n_classes / moments.dim}
    machine = {
        "dtype": str(model.classifier.dtype).removeprefix("torch."),
        "device": str(model.classifier.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    header = Header(
        run=subject.name,
        step=subject.step,
        model={"name": subject.name, **facts},
        tokens=token_facts(shards),
        settings=subject.settings,
        measurement={**settings, **machine},
    )
    rows = [
        _row(header, measure.name, measure.split, _least(measure, min_count), values[measure.name])
        for measure in measures
    ]
    rows += [_row(header, name, "val", 1, value) for name, value in _losses(decisions, shards)]
    return header, rows


def _check_classes(shards: TokenShards, min_count: int) -> None:
    """Pairs need two classes; how many there will be is known before any model is loaded."""
    most = shards.split("train").label_counts().sort(descending=True).values[:2]
    if min_count < 1 or len(most) < 2 or int(most[-1]) < min_count:
        raise UserError(
            f"min_count is {min_count}; expected 1 to {int(most[-1]):,}, so that at least two "
            f"classes of {shards.path} take part"
        )


def _passes(
    model: Model,
    shards: TokenShards,
    measures: Sequence[Measure],
    settings: dict[str, Any],
    progress: Progress | None,
) -> tuple[ClassMoments, Decisions]:
    def show(stage: str) -> stream.Progress | None:
        if progress is None:
            return None
        return lambda done, total: progress(stage, done / total, done * shards.block)

    moments = stream.measure(
        model,
        shards.split("train"),
        scatter=any(measure.needs_scatter for measure in measures),
        precision=settings["precision"],
        progress=show("training split"),
    )
    decisions = stream.decide(
        model,
        shards.split("val"),
        moments,
        min_count=settings["min_count"],
        precision=settings["precision"],
        progress=show("validation split"),
    )
    return moments, decisions


def _losses(decisions: Decisions, shards: TokenShards) -> Iterator[tuple[str, Value]]:
    """How well the model predicts, and what no model can beat where that is known."""
    n, loss = decisions.n, decisions.loss
    yield "val_loss", Value(loss, n, 0)
    yield "val_accuracy", Value(decisions.accuracy, n, 0)
    yield "val_perplexity", Value(math.exp(loss) if loss < 700 else math.inf, n, 0)
    if (floor := shards.entropy_floor) is not None:
        n = int(floor["positions"])
        yield "entropy_floor", Value(floor["mean_conditional_entropy"], n, 0)
        yield "realised_floor", Value(floor["realised_nll"], n, 0)


def _earlier(subject: Subject, shards: TokenShards, precision: str) -> dict[tuple[str, int], Path]:
    """Metrics and minimum counts that other files of this checkpoint and these tokens hold."""
    found: dict[tuple[str, int], Path] = {}
    for path in sorted((subject.folder / "results").glob(f"step-{subject.step}-*.jsonl")):
        header, rows = read_rows(path)
        same = header.run == subject.name and header.measurement.get("precision") == precision
        if same and header.tokens.get("fingerprint") == shards.fingerprint:
            found |= {(row.metric, row.min_count): path for row in rows}
    return found


def _least(measure: Measure, min_count: int) -> int:
    """Samples that a class needs for this measure."""
    return max(min_count, measure.least_count)


def _row(header: Header, metric: str, split: str, min_count: int, value: Value) -> Row:
    return Row(
        run=header.run,
        step=header.step,
        split=split,
        layer=header.model["depth"],
        labels="next",
        subset="all",
        metric=metric,
        value=value.value,
        n=value.n,
        min_count=min_count,
        excluded=value.excluded,
        low=value.low,
        high=value.high,
        resampled=value.resampled,
        reason=value.reason,
    )
