"""Does the text alone predict the class means of trained models? Predicted against measured.

`python -m studies.bridge.run SWEEP --tokens tokens/x --out FOLDER` measures the last model of
every run of a sweep, makes the ideal models of `models.py` from tables of the same tokens, and
writes `models.csv`, `values.csv`, `classes.csv`, `order.csv` and `bridge.png`. Class moments stay
in the runs' `states/`, so that a second call makes no pass.
"""

import argparse
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from studies.bridge import agreement
from studies.bridge import figure as drawing
from studies.bridge import models as bridges
from studies.bridge.models import Ideal
from tightframe.corpus.shards import Split, TokenShards
from tightframe.errors import UserError
from tightframe.geometry import states
from tightframe.geometry.moments import ClassMoments
from tightframe.geometry.passes import PassConfig
from tightframe.geometry.subject import Subject
from tightframe.jobs.programs import endings_in_one_line, say
from tightframe.lm.loss import evaluate
from tightframe.ntp import ContextTable
from tightframe.ntp.table import PAD
from tightframe.report.figures import save
from tightframe.results import write_csv

LENGTHS = (1, 2, 3, 5)  # tokens of a context
LOSS_TOKENS = 100_000  # training positions on which a model's training loss is taken
MIN_COUNT = 20  # samples of a class; with fewer, a class mean is mostly noise


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A model of the sweep, measured."""

    run: str
    loss: float  # nats per token of the training text
    moments: ClassMoments
    classifier: Float64[Tensor, "V D"]
    facts: dict[str, Any]  # width, depth, epochs

    @property
    def dim(self) -> int:
        """D, the model's width."""
        return self.moments.dim


def run_bridge(
    sweep: Path,
    tokens: Path,
    out: Path,
    *,
    lengths: Sequence[int] = LENGTHS,
    min_count: int = MIN_COUNT,
    seed: int = 0,
    say: Callable[[str], None],
) -> Path:
    """Measure, predict, compare, draw; returns `out`.

    Args:
        sweep: A sweep's folder, trained on `tokens`.
        tokens: The tokens.
        out: Takes the tables and the figure.
        lengths: Of contexts, in tokens; a context ends where its story begins.
        min_count: Samples that a class needs to take part.
        seed: Of the controls, the permutations, and the positions that the loss is taken on.
        say: Gets a line for every step.
    """
    shards = TokenShards.open(tokens)
    models = []
    for path in _runs(sweep):
        models.append(_trained(path, shards, seed))
        say(f"{models[-1].run}: training loss {models[-1].loss:.3f}")
    values: list[dict[str, Any]] = []
    classes: list[dict[str, Any]] = []
    own = {
        model.run: agreement.measured(model.moments, model.classifier, min_count=min_count)
        for model in models
    }
    for length in lengths:
        table = context_table(shards, length)
        entropy = table.empirical_entropy
        say(f"contexts of {length}: {table.n_contexts:,}, entropy {entropy:.3f} nats per token")
        for variant, predicted, members in _ideals(table, models, seed, first=length == lengths[0]):
            mine = agreement.measured(predicted.moments, predicted.classifier, min_count=min_count)
            for model in members:
                facts = {"length": length, "variant": variant, "run": model.run}
                facts |= {"dim": model.dim, "loss": model.loss, "margin": predicted.margin}
                values += agreement.joined(mine, own[model.run], facts)
                theirs = bridges.classes_of(table, model.moments)
                found = agreement.class_agreement(predicted, theirs, min_count=min_count)
                classes.append({**facts, "entropy": entropy, **found})
    lines = [{"run": m.run, **m.facts, "train_loss": m.loss, **own[m.run]} for m in models]
    every = pd.DataFrame(values)
    order = agreement.order(every, ["length", "variant"], seed=seed)
    named = {"models": pd.DataFrame(lines), "values": every, "order": order}
    for name, frame in (named | {"classes": pd.DataFrame(classes)}).items():
        write_csv(out / f"{name}.csv", frame)
    save(drawing.draw(every, pd.DataFrame(classes)), out / "bridge.png")
    return out


def context_table(shards: TokenShards, length: int) -> ContextTable:
    """All training positions by their last `length` tokens, fewer where a story begins."""
    split = shards.split("train")
    contexts, labels = _positions(split, length, shards.end_of_text)
    distinct, members = np.unique(contexts, axis=0, return_inverse=True)
    counts = sp.csr_array(
        (np.ones(len(labels), dtype=np.int64), (members.ravel(), labels)),
        shape=(len(distinct), shards.vocab_size),
    )
    counts.sum_duplicates()
    source = {"tokens": shards.fingerprint, "split": "train", "length": length}
    return ContextTable(distinct, counts, np.arange(shards.vocab_size), source=source)


def _positions(
    split: Split, length: int, end_of_text: int | None
) -> tuple[np.ndarray, Int64[np.ndarray, " N"]]:
    tokens, lengths = (tensor.numpy() for tensor in split.rows(np.arange(split.n_blocks)))
    columns = np.arange(split.block)
    # The column at which the document of each position begins: its end-of-text, if it has one.
    starts = np.where((tokens == end_of_text) | (columns == 0), columns, 0)
    starts = np.maximum.accumulate(starts, axis=1)[:, :-1]
    contexts = np.full((*starts.shape, length), PAD, dtype=np.int32)
    for back in range(length):
        places = columns[:-1] - back
        inside = (places >= 0) & (places >= starts)
        contexts[:, :, length - 1 - back] = np.where(inside, tokens[:, np.maximum(places, 0)], PAD)
    labelled = columns[1:] < lengths[:, None]
    return contexts[labelled], tokens[:, 1:][labelled]


def _runs(sweep: Path) -> list[Path]:
    found = sorted(path.parent for path in sweep.glob("runs/*/config.toml"))
    if len(found) < 3:
        raise UserError(
            f"{sweep}: holds {len(found)} runs, expected a sweep of three or more; "
            "train one with `tightframe demo` or `tightframe sweep run`"
        )
    return found


def _trained(path: Path, shards: TokenShards, seed: int) -> Trained:
    subject = Subject.of(path)
    run = subject.run
    assert run is not None  # `_runs` found its settings
    if (trained_on := run.facts["tokens"]) != shards.fingerprint:
        raise UserError(
            f"{path}: was trained on tokens {trained_on}, but {shards.path} holds "
            f"{shards.fingerprint}; give the tokens that it was trained on"
        )
    model = subject.model
    found = states.moments(subject, shards, PassConfig(layers=(model.depth,)))
    loss = evaluate(model, shards.split("train").sample(LOSS_TOKENS, seed=seed)).loss
    facts = {name: getattr(run.settings, name) for name in ("width", "depth", "epochs")}
    classifier = model.classifier.detach().double().cpu()
    return Trained(run.name, loss, found[model.depth], classifier, facts)


def _ideals(
    table: ContextTable, models: Sequence[Trained], seed: int, *, first: bool
) -> Iterator[tuple[str, Ideal, list[Trained]]]:
    """Each prediction, its name, and the models that it is about.

    What knows only token counts is the same for every length: it is made with the first.
    """
    widths: dict[int, list[Trained]] = {}
    for model in models:
        widths.setdefault(model.dim, []).append(model)
    dealt = bridges.shuffled(table, seed=seed)
    for dim, members in sorted(widths.items()):
        yield "limit", bridges.limit(table, dim=dim), members
        yield "shuffled", bridges.limit(dealt, dim=dim), members
        yield "random", bridges.random_embeddings(table, dim=dim, seed=seed), members
        if first:
            yield "counts", bridges.limit(bridges.one_each(table), dim=dim), members
    for model in models:
        yield "finite", bridges.finite(table, dim=model.dim, loss=model.loss), [model]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, run, and print where the answer is."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
    parser.add_argument("--min-count", type=int, default=MIN_COUNT)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with endings_in_one_line():
        out = run_bridge(
            options.sweep,
            options.tokens,
            options.out,
            lengths=options.lengths,
            min_count=options.min_count,
            say=say,
        )
    print(out)


if __name__ == "__main__":
    main()
