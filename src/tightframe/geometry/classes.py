"""Down to the token: what each class contributes, which pairs decide a mean, some words' numbers.

Axes: C classes of the moments, K selected ones, V vocabulary, D embedding.
"""

import dataclasses
import math
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from tightframe.corpus.shards import TokenShards
from tightframe.corpus.tokenizer import token_names, vocab_size
from tightframe.errors import UserError, printable
from tightframe.files import whole_file
from tightframe.geometry import states
from tightframe.geometry.decisions import Decisions
from tightframe.geometry.labels import LabelledBlocks, LabelSpec
from tightframe.geometry.moments import ClassMoments
from tightframe.geometry.options import ClassesOptions
from tightframe.geometry.pairs import Aggregate, Pairs
from tightframe.geometry.passes import PassConfig, usual_positions
from tightframe.geometry.subject import Subject
from tightframe.geometry.values import Geometry
from tightframe.geometry.words import known_words, words
from tightframe.lm.hardware import prepared
from tightframe.lm.load import Model
from tightframe.results import write_csv

# Measures of pairs: their stem, and the quantity of the sweep that they are read off.
_CDNV = {
    "nc1_cdnv": "cdnv",
    "nc1_cdnv_p2": "cdnv_p2",
    "nc1_cdnv_db": "cdnv_db",
    "nc1_cdnv_p2_db": "cdnv_p2_db",
}
_KERNEL = "gnc2_log_kernel"
_OF_TAILS: tuple[Aggregate, ...] = ("rows", "moments", "median", "tail001", "largest")
_OF_DIRECTIONS: tuple[Aggregate, ...] = ("nearest", "logs", "median", "smallest")


@dataclasses.dataclass(frozen=True)
class ByToken:
    """The classes of a model, and the pairs of them that hold the most."""

    classes: pd.DataFrame  # a line a class, see `class_table`
    tails: pd.DataFrame  # a line a measure of pairs: how heavy its tail is
    pairs: pd.DataFrame  # the largest pairs of each, with the share of the sum that they hold

    def excerpts(self) -> dict[str, pd.DataFrame]:
        """Return excerpts to look at first: tails, the largest pairs, common classes."""
        columns = ["id", "token", "count", "norm", "cdnv", "cdnv_db", "cdnv_p2"]
        columns += ["nearest_token", "nearest_angle", "interference", "duality", "agreement"]
        return {
            "tails": self.tails,
            "pairs": self.pairs[self.pairs["rank"] <= 3],
            "classes": self.classes[columns].head(10),
        }


class Described(NamedTuple):
    """Files that `measure_classes` wrote, and their tables."""

    path: Path  # classes.parquet; the other tables lie beside it as CSV
    tables: ByToken
    words: pd.DataFrame | None  # of those that were asked for


def measure_classes(
    model: str | Path | Model, options: ClassesOptions, say: Callable[[str], None] | None = None
) -> Described:
    """Describe a model token by token: three tables, from the states of a measurement if any.

    Writes classes.parquet and .csv, heavy-tails.csv and heaviest-pairs.csv into the folder
    `results` of the run, in the place of earlier ones. Positions are left out as by `measure`.

    Args:
        model: A run directory, a checkpoint or Hugging Face folder, a hub name, or a model.
        options: All options; of several words, those that have no class are left out.
        say: Takes a line on each word that is left out, and on how a text was read.
    """
    names: Sequence[str] = options.words
    min_count = options.min_count
    subject = Subject.of(model, options, options.out)
    if names and options.text is not None:  # mistakes are told before the model is loaded
        tokenizer = subject.tokenizer(options).tokenizer
        known_words(names, tokenizer, range(vocab_size(tokenizer)))
    shards = subject.tokens(options, say)
    reading = usual_positions(subject, shards)
    counts = LabelledBlocks(shards.split("train"), reading).label_counts()
    if int((counts >= min_count).sum()) < 2:
        raise UserError(
            f"min_count is {min_count}; expected 1 or more, so that at least two classes of "
            f"{shards.path} take part"
        )
    spelled = token_names(shards.tokenizer, shards.vocab_size)
    common = counts.argsort(descending=True, stable=True)
    known = common[counts[common] >= min_count].tolist()
    names = known_words(names, shards.tokenizer, known, say)  # before the passes
    with prepared(subject.threads):
        moments, decisions = _states(subject, shards, reading, min_count)
        tables = by_token(
            moments,
            subject.model.classifier,
            decisions,
            tokens=spelled,
            min_count=min_count,
        )
    chosen = words(tables.classes, names, shards.tokenizer) if names else None
    tables.classes.attrs = {  # kept in the file
        "run": subject.name,
        "step": subject.step,
        "tokens": shards.fingerprint,
        "min_count": min_count,
        "val_loss": decisions.loss,
    }
    folder = subject.folder / "results"
    with whole_file(folder / "classes.parquet") as temporary:
        tables.classes.to_parquet(temporary, index=False)
    named = {"classes": tables.classes, "heavy-tails": tables.tails, "heaviest-pairs": tables.pairs}
    for name, table in named.items():
        write_csv(folder / f"{name}.csv", table)
    return Described(folder / "classes.parquet", tables, chosen)


def records(table: pd.DataFrame) -> list[dict[Hashable, object]]:
    """Return a table as plain values, one record per row; missing values are None."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def readable(table: pd.DataFrame) -> str:
    """Return a table as text: numbers to four digits, tokens in quotes."""
    tokens = [name for name in table.columns if name.endswith("token")]
    quoted = {
        name: table[name].map(lambda token: token and f'"{printable(token)}"', na_action="ignore")
        for name in tokens
    }
    return table.assign(**quoted).to_string(index=False, float_format="{:.4g}".format, na_rep="-")


def _states(
    subject: Subject, shards: TokenShards, reading: LabelSpec, min_count: int
) -> tuple[ClassMoments, Decisions]:
    """Return the states that a measurement has left, or make a pass over each split."""
    last = subject.model.depth
    config = PassConfig(layers=(last,), reading=reading)
    moments = states.moments(subject, shards, config)
    decisions = states.decisions(subject, shards, config, moments, min_count=min_count)
    return moments[last], decisions[last]


def by_token(
    moments: ClassMoments,
    classifier: Float[Tensor, "V D"],
    decisions: Decisions | None = None,
    *,
    tokens: Sequence[str] | None = None,
    min_count: int = 1,
) -> ByToken:
    """All three tables from one sweep over pairs; arguments as in `class_table`.

    Returns:
        tails: measure; `pairs` that have a value and those `excluded`; their mean and median;
            `tail001`, the share of the sum that the largest 0.1 % hold (in [0.001, 1]; NaN for the
            log kernel, whose values have two signs).
        pairs: measure and rank; id and token of both classes; the value; its share of the sum. The
            largest 20 values of each measure; ties in the order of the sweep.
    """
    geometry = Geometry(moments, classifier, decisions, min_count=min_count)
    for quantity in _CDNV.values():
        for aggregate in _OF_TAILS:
            geometry.plan(quantity, aggregate)
    for aggregate in _OF_DIRECTIONS:
        geometry.plan("unit", aggregate)
    names = _names(tokens, moments.n_classes)
    return ByToken(_classes(geometry, names), _tails(geometry), _pairs(geometry, names))


def class_table(
    moments: ClassMoments,
    classifier: Float[Tensor, "V D"],
    decisions: Decisions | None = None,
    *,
    tokens: Sequence[str] | None = None,
    min_count: int = 1,
) -> pd.DataFrame:
    """Return one row per class with a mean, the commonest first.

    Args:
        moments: Of the training split.
        classifier: A row a token.
        decisions: Of the validation split; without them, what they decide is NaN.
        tokens: What each class is called; its id by default.
        min_count: Embeddings that a class needs to take part.

    Returns:
        id, token: The class.
        count: Embeddings of it.
        norm: Of its mean, centred by the unweighted mean of all class means.
        variance, variance_unbiased: Mean squared distance to the mean, over n and over n - 1 (NaN
            for one embedding).
        cdnv, cdnv_p2: Mean over all other classes of (s2_i + s2_j) / 2 / d_ij^(2p), p = 1 and the
            published p = 2; `cdnv_pairs` is over how many.
        cdnv_db, cdnv_p2_db, cdnv_db_pairs: The same debiased, over classes with two embeddings or
            more.
        nearest, nearest_token: The class whose centred mean has the largest cosine with this one;
            of several, the first with two embeddings or more, by id.
        nearest_angle, nearest_distance: Between the two, in degrees, and in the embedding's unit.
        interference: Mean cosine of its centred mean with the others', in [-1, 1].
        interference_dot: Mean inner product with them: the published form of October 2024.
        duality: Cosine of its centred mean with its row of the classifier, in [-1, 1].
        positions: Where it is the label on validation.
        agreement: Share of them where classifier and nearest class mean decide the same.
        nearest_accuracy, accuracy: Share of them where the one, and the other, is right.
        loss: Mean cross-entropy there, nats per token.
    """
    geometry = Geometry(moments, classifier, decisions, min_count=min_count)
    for quantity in _CDNV.values():
        geometry.plan(quantity, "rows")
    geometry.plan("unit", "nearest")
    return _classes(geometry, _names(tokens, moments.n_classes))


def _names(tokens: Sequence[str] | None, n_classes: int) -> list[str]:
    if tokens is None:
        return [str(index) for index in range(n_classes)]
    if len(tokens) < n_classes:
        raise ValueError(f"{len(tokens)} tokens, but the moments have {n_classes} classes")
    return [str(token) for token in tokens[:n_classes]]


def _classes(geometry: Geometry, names: Sequence[str]) -> pd.DataFrame:
    classes = geometry.classes
    ids = classes.ids.tolist()
    columns: dict[str, Tensor] = {
        "id": classes.ids,
        "count": classes.counts,
        "norm": classes.norms,
        "variance": classes.variances,
        "variance_unbiased": _where(classes.counts > 1, classes.unbiased_variances),
    }
    for quantity in _CDNV.values():
        summary = geometry.pairs(quantity, "rows")
        columns[quantity] = _padded(summary.row_means, classes.k)
        if quantity in ("cdnv", "cdnv_db"):
            assert summary.row_counts is not None
            columns[f"{quantity}_pairs"] = _padded(summary.row_counts, classes.k, 0)
    frame = pd.DataFrame({name: column.cpu().numpy() for name, column in columns.items()})
    frame.insert(1, "token", [names[index] for index in ids])
    frame = frame.join([_nearest(geometry, names), _angles(geometry), _decided(geometry)])
    return frame.sort_values(["count", "id"], ascending=[False, True], ignore_index=True)


def _nearest(geometry: Geometry, names: Sequence[str]) -> pd.DataFrame:
    """Return the class in the most similar direction; none for a class without a direction."""
    classes = geometry.classes
    summary = geometry.pairs("unit", "nearest")
    assert summary.nearest is not None
    assert summary.nearest_ids is not None
    none = (summary.nearest_ids < 0).cpu().numpy()
    other = summary.nearest_ids.clamp(min=0)
    ids = classes.ids[other].cpu().numpy()
    distances = (classes.means - classes.means[other]).square().sum(1).sqrt()
    angles = 2 * torch.rad2deg(torch.asin(summary.nearest.clamp(max=4).sqrt() / 2))
    return pd.DataFrame(
        {
            "nearest": pd.arrays.IntegerArray(ids, none),
            "nearest_token": pd.Series([names[index] for index in ids], dtype=object).mask(none),
            "nearest_angle": pd.Series(angles.cpu().numpy()).mask(none),
            "nearest_distance": pd.Series(distances.cpu().numpy()).mask(none),
        }
    )


def _angles(geometry: Geometry) -> pd.DataFrame:
    """Interference, by sums of vectors rather than by pairs, and duality."""
    classes = geometry.classes
    directions = _where(classes.nonzero[:, None], classes.means / classes.norms[:, None])
    others = int(classes.nonzero.sum()) - 1
    total = directions.nansum(0)  # (D,)
    interference = (directions @ total - 1) / others if others > 0 else directions.sum(1) * math.nan
    # The centred means sum to 0: their products with one of them sum to minus its squared norm.
    dots = classes.squared_norms / -(classes.k - 1) if classes.k > 1 else classes.norms * math.nan
    rows = geometry.classifier.square().sum(1).sqrt()
    duality = _where(classes.nonzero & (rows > 0), geometry.dots / (rows * classes.norms))
    columns = {"interference": interference, "interference_dot": dots, "duality": duality}
    return pd.DataFrame({name: column.cpu().numpy() for name, column in columns.items()})


def _decided(geometry: Geometry) -> pd.DataFrame:
    """Return the decisions at positions whose label is the class."""
    decisions, ids = geometry.decisions, geometry.classes.ids.cpu()
    columns = ("agreement", "nearest_accuracy", "accuracy", "loss")
    if decisions is None:
        unknown = pd.array([None] * len(ids), dtype="Int64")
        return pd.DataFrame({"positions": unknown, **dict.fromkeys(columns, math.nan)})
    counts = decisions.counts[ids].double()  # int / int would give float32
    agreements = _where(decisions.seen[ids], decisions.agreements[ids])
    sums = (
        *(agreements, decisions.nearest_hits[ids], decisions.classifier_hits[ids]),
        decisions.losses[ids],
    )
    shares = {name: (x / counts).numpy() for name, x in zip(columns, sums, strict=True)}  # 0 / 0
    positions = pd.array(decisions.counts[ids].numpy(), dtype="Int64")
    return pd.DataFrame({"positions": positions, **shares})


def _tails(geometry: Geometry) -> pd.DataFrame:
    lines = []
    for measure, quantity in _CDNV.items():
        summary = geometry.pairs(quantity, "tail001")
        values = (summary.values.mean, sum(summary.middle) / 2, summary.tail001_share)
        lines.append((measure, summary.n, summary.pairs - summary.n, *values))
    summary = geometry.pairs("unit", "logs")
    median = sum(map(_kernel, summary.middle)) / 2
    values = (-summary.logs.mean / 2, median, math.nan)
    lines.append((_KERNEL, summary.n, summary.pairs - summary.n, *values))
    columns = ["measure", "pairs", "excluded", "mean", "median", "tail001"]
    return pd.DataFrame(lines, columns=columns)


def _pairs(geometry: Geometry, names: Sequence[str]) -> pd.DataFrame:
    frames = []
    for measure, quantity in _CDNV.items():
        summary = geometry.pairs(quantity, "largest")
        assert summary.largest is not None
        total = summary.n * summary.values.mean
        frame = _extremes(geometry, names, measure, summary.largest)
        frames.append(frame.assign(share=frame["value"] / total if total > 0 else math.nan))
    summary = geometry.pairs("unit", "smallest")  # the nearer, the larger is the kernel
    assert summary.smallest is not None
    frame = _extremes(geometry, names, _KERNEL, summary.smallest)
    frames.append(frame.assign(value=frame["value"].map(_kernel), share=math.nan))
    return pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)


def _extremes(geometry: Geometry, names: Sequence[str], measure: str, pairs: Pairs) -> pd.DataFrame:
    own = geometry.classes.ids.cpu()
    ids = torch.stack([own[pairs.i.cpu()], own[pairs.j.cpu()]]).sort(0).values.tolist()
    return pd.DataFrame(
        {
            "measure": measure,
            "rank": range(1, len(pairs) + 1),
            "id": ids[0],
            "token": [names[index] for index in ids[0]],
            "other_id": ids[1],
            "other_token": [names[index] for index in ids[1]],
            "value": pairs.values.tolist(),
        }
    )


def _kernel(squared_distance: float) -> float:
    """Return the log kernel, -ln of the distance."""
    return -math.log(squared_distance) / 2 if squared_distance > 0 else math.nan


def _where(condition: Tensor, values: Tensor) -> Float64[Tensor, " *shape"]:
    """Return the values where the condition holds, and NaN elsewhere."""
    return values.double().where(condition, math.nan)


def _padded(values: Tensor, k: int, missing: int | float = math.nan) -> Tensor:
    """Values of the first classes, and what stands for those of the others."""
    return torch.cat([values, values.new_full((k - len(values),), missing)])
