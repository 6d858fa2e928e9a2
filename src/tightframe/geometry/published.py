"""The two published result tables of Wu & Papyan 2024, column for column, for any model.

The tables of May and of October 2024 hold partly different quantities under the same names; which
is which is said here and nowhere else. It is their definitions that are reproduced, in float64,
not the rounding of float32. Where a definition breaks down (two equal class means, a class mean at
the global one), what breaks it is left out, as in our own measures.
"""

import dataclasses
import math
from collections.abc import Mapping

from jaxtyping import Float, Float64
from torch import Tensor

from tightframe.geometry.closed_forms import EPS
from tightframe.geometry.decisions import Decisions
from tightframe.geometry.measures import metrics
from tightframe.geometry.moments import ClassMoments
from tightframe.geometry.options import FACTS, MAY, TABLES, check_table
from tightframe.geometry.values import Geometry, Value, std


def columns(table: str) -> tuple[str, ...]:
    """Return the columns of a table in its order (without May's unnamed row index)."""
    return (*FACTS, *_measures_of(table))


def compat(
    table: str,
    moments: ClassMoments,
    classifier: Float[Tensor, "V D"],
    decisions: Decisions,
    facts: Mapping[str, str | int],
) -> dict[str, str | float]:
    """Return a row of a published table: its columns, in its order.

    Args:
        table: "lc-2024-05" or "lc-2024-10".
        moments: Of the training split, all classes that occur.
        classifier: A row a token.
        decisions: Of the validation split.
        facts: `model` and `n_params`, which are passed on.
    """
    values = published_values(table, moments, classifier, decisions)
    row: dict[str, str | float] = {
        name: facts[name] if name in facts else values[name].value for name in FACTS
    }
    return row | {name: values[name].value for name in _measures_of(table)}


def published_values(
    table: str, moments: ClassMoments, classifier: Float[Tensor, "V D"], decisions: Decisions
) -> dict[str, Value]:
    """Return the numbers of a published table with how many things each is over.

    Args:
        table: "lc-2024-05" or "lc-2024-10".
        moments: Of the training split, all classes that occur.
        classifier: A row a token.
        decisions: Of the validation split.
    """
    wanted = _measures_of(table)
    geometry = Geometry(moments, classifier, decisions)
    own = _may(geometry, decisions) if wanted is MAY else _october(geometry)
    measures = [name for name in wanted.values() if name]
    values = metrics(moments, classifier, decisions, measures=measures)
    hits, loss = values["nc4_hits"], decisions.loss
    own["misses"] = dataclasses.replace(hits, value=hits.n - hits.value)
    perplexity = math.exp(loss) if loss < 700 else math.inf
    of_positions = {"val_acc": decisions.accuracy, "val_loss": loss, "perplex": perplexity}
    return {name: Value(value, decisions.n, 0) for name, value in of_positions.items()} | {
        column: values[name] if name else own[column] for column, name in wanted.items()
    }


def _measures_of(table: str) -> dict[str, str]:
    check_table(table)
    return TABLES[table]


def _may(geometry: Geometry, decisions: Decisions) -> dict[str, Value]:
    """Return what no measure of ours has: norms are squared, deviations have ddof 1."""
    classes = geometry.classes
    squares, scale = classes.squared_norms, math.sqrt(classes.dim)
    logs = 2 * classes.norms[classes.nonzero].log()
    matches = decisions.agreements.to(classes.ids.device)[classes.ids].double()
    return {
        **_mean_and_std("dists", _faulty_distances(geometry), classes.k),
        "sims_std": _over(geometry.cosines, std(geometry.cosines), classes.k),
        **_mean_and_std("norms", squares, classes.k),
        **_mean_and_std("norms_scl", squares / scale, classes.k),
        **_mean_and_std("norms_log", logs, classes.k),
        **_mean_and_std("norms_logscl", logs - math.log(scale), classes.k),
        **_mean_and_std("matches", matches, classes.k),
    }


def _october(geometry: Geometry) -> dict[str, Value]:
    """Return what no measure of ours has: norms are not squared, variances have ddof 1."""
    classes = geometry.classes
    logs = classes.norms[classes.nonzero].log()
    return {
        "norms_mean": _over(classes.norms, float(classes.norms.mean()), classes.k),
        "norms_var": _over(classes.norms, std(classes.norms) ** 2, classes.k),
        "norms_log_mean": _over(logs, float(logs.mean()), classes.k),
        "norms_log_var": _over(logs, std(logs) ** 2, classes.k),
    }


def _faulty_distances(geometry: Geometry) -> Float64[Tensor, " k"]:
    """May's `dists`: no distances, but sums of the coordinates of unit vectors.

    The difference of the two unit vectors was scaled to norm 1 before its coordinates were summed,
    signs and all. To be imported and compared, never to be analysed. Its sign is that of row minus
    mean, which public material doesn't settle.
    """
    rows, classes = geometry.classifier, geometry.classes
    norms = rows.square().sum(1).sqrt()
    defined = classes.nonzero & (norms > 0)
    gaps = (rows / norms[:, None])[defined] - (classes.means / classes.norms[:, None])[defined]
    return gaps.sum(1) / (gaps.square().sum(1).sqrt() + EPS)


def _mean_and_std(name: str, values: Float64[Tensor, " k"], n_classes: int) -> dict[str, Value]:
    return {
        f"{name}_mean": _over(values, float(values.mean()), n_classes),
        f"{name}_std": _over(values, std(values), n_classes),
    }


def _over(values: Float64[Tensor, " k"], value: float, n_classes: int) -> Value:
    """Return a value over the classes that have a number, and count those without."""
    return Value(value, len(values), n_classes - len(values))
