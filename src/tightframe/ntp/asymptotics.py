"""Ridge paths of a table's folder: their points on disk, and the asymptotics that they follow.

With `L_mm` the solution of the NTP-SVM, as the ridge falls: the excess loss over the ridge tends
to the nuclear norm of `L_mm`; the coefficient of `L_mm` grows by log 10 in each decade; the part
within the supports reaches `L_in`, its error falling tenfold in each decade; and what one decade
adds is parallel to `L_mm`. The logits themselves turn towards it too, but only logarithmically.

    ntp/<name>/paths/path-<hash>.safetensors    factors of every point, their numbers as JSON
    ntp/<name>/results/path-<hash>.jsonl        rows, one subset "lambda=..." per point

Points are not in `solutions/`, which holds certified answers to the limit problem alone.

Axes: V tokens, M contexts, D embedding.
"""

import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from tightframe.errors import UserError
from tightframe.files import fingerprint
from tightframe.formats import Count, Record, TensorFormat
from tightframe.ntp.options import RidgePathOptions
from tightframe.ntp.ridge import RidgePoint, Status, decades, judged, ridge_path
from tightframe.ntp.similarity import cosine
from tightframe.ntp.soft_labels import (
    SoftLabels,
    finite_component,
    project_in_support,
    project_off_support,
)
from tightframe.ntp.solution import best_solution, load_solution
from tightframe.ntp.table import load_table, table_fingerprint
from tightframe.results import Header, Row, read_rows, write_rows

NEGLIGIBLE = 1e-6  # singular values below this share of the largest are not of the rank


@dataclasses.dataclass(frozen=True)
class LimitCosines:
    """Cosines with the predicted geometry, each in [-1, 1], 1 if parallel."""

    logits_cosine: float
    classifier_gram_cosine: float
    embedding_gram_cosine: float


@dataclasses.dataclass(frozen=True)
class Asymptotics:
    """Approach to the limit at one point; the first point has NaN for changes since the last.

    Attributes:
        lam: Ridge of the point.
        norm_ratio: (CE - H) / lam over the nuclear norm of `L_mm`; tends to 1.
        coefficient: Coordinate R of the off-support component along `L_mm`.
        growth: Growth of R since the point before, per factor e of the ridge; tends to 1.
        finite_error: Frobenius norm of P_F(L) - L_in.
        finite_fall: Factor per decade by which the error has fallen since; tends to 10.
        increment_cosine: Cosine of what was added to the logits since with `L_mm`; tends to 1.
        cosines: Cosines of logits and Gram matrices with the limit; tend to 1 logarithmically.
    """

    lam: float
    norm_ratio: float
    coefficient: float
    growth: float
    finite_error: float
    finite_fall: float
    increment_cosine: float
    cosines: LimitCosines

    def to_dict(self) -> dict[str, float]:
        """Return all numbers in one dictionary."""
        own = {name: value for name, value in vars(self).items() if name != "cosines"}
        return own | vars(self.cosines)


def asymptotics(
    points: Sequence[RidgePoint], solution_logits: Float[np.ndarray, "V M"], labels: SoftLabels
) -> list[Asymptotics]:
    """Return how each point of a path approaches the limit.

    Args:
        points: Points by falling ridge, from `ridge_path`.
        solution_logits: L_mm, from `solve_svm` on `labels.matrix`.
        labels: Soft labels that the path was computed for.

    Raises:
        ValueError: `solution_logits` are 0, as where all tokens follow every context: a path tends
            to no direction.

    Warns:
        UserWarning: Embeddings with fewer dimensions than the rank of `L_mm` can't reach it.
    """
    support, finite = labels.matrix, finite_component(labels).toarray()
    norm = float(np.linalg.norm(solution_logits, "nuc"))
    if norm == 0:
        raise ValueError("solution_logits: all are 0, they have no direction, so there are no laws")
    laws: list[Asymptotics] = []
    before: tuple[Float[np.ndarray, "V M"], Asymptotics] | None = None
    if points:
        _warn_of_rank(points[0].classifier.shape[1], solution_logits)
    for point in points:
        logits = point.logits
        off = project_off_support(logits, support)
        coefficient = float(np.vdot(off, solution_logits) / np.vdot(*[solution_logits] * 2))
        error = float(np.linalg.norm(project_in_support(logits, support) - finite))
        growth = fall = increment = math.nan
        if before is not None:
            earlier, law = before
            factor = math.log(law.lam / point.lam)
            growth = (coefficient - law.coefficient) / factor
            if error > 0:
                fall = (law.finite_error / error) ** (math.log(10) / factor)
            increment = cosine(logits - earlier, solution_logits)
        laws.append(
            Asymptotics(
                lam=point.lam,
                norm_ratio=point.excess / point.lam / norm,
                coefficient=coefficient,
                growth=growth,
                finite_error=error,
                finite_fall=fall,
                increment_cosine=increment,
                cosines=limit_cosines(point.classifier, point.embeddings, solution_logits),
            )
        )
        before = logits, laws[-1]
    return laws


def limit_cosines(
    classifier: Float[np.ndarray, "V D"],
    embeddings: Float[np.ndarray, "M D"],
    solution_logits: Float[np.ndarray, "V M"],
) -> LimitCosines:
    r"""Return the cosines of logits and Gram matrices of unconstrained features with the limit.

    With `L_mm = U S V^T`, the Gram matrices are compared with `U S U^T` and `V S V^T`.
    """
    left, values, right = np.linalg.svd(solution_logits, full_matrices=False)
    return LimitCosines(
        cosine(classifier @ embeddings.T, solution_logits),
        cosine(classifier @ classifier.T, (left * values) @ left.T),
        cosine(embeddings @ embeddings.T, (right.T * values) @ right),
    )


def _warn_of_rank(dim: int, solution_logits: Float[np.ndarray, "V M"]) -> None:
    values = np.linalg.svd(solution_logits, compute_uv=False)
    rank = int((values > NEGLIGIBLE * values[0]).sum())
    if dim < rank:
        message = (
            f"embeddings of dim {dim} can't reach L_mm, whose rank is {rank}; take dim >= {rank}"
        )
        warnings.warn(message, UserWarning, stacklevel=3)


METRICS = {
    "relgap": "ntp_path_relgap",  # relative duality gap, certified where small
    "excess": "ntp_path_excess",  # CE - H, nats per pair
    "nuclear_norm": "ntp_path_nuclear_norm",
    "norm_ratio": "ntp_path_norm_ratio",  # (CE - H) / lambda over the norm of L_mm
    "coefficient": "ntp_path_coefficient",  # R
    "growth": "ntp_path_growth",  # of R per factor e of lambda
    "finite_error": "ntp_path_finite_error",  # |P_F(L) - L_in|
    "finite_fall": "ntp_path_finite_fall",  # of the error per decade
    "increment_cosine": "ntp_path_increment_cos",  # with L_mm
    "logits_cosine": "ntp_path_logits_cos",
    "classifier_gram_cosine": "ntp_path_classifier_gram_cos",
    "embedding_gram_cosine": "ntp_path_embedding_gram_cos",
}


class PointFacts(Record):
    """Numbers of a `RidgePoint`."""

    lam: float
    excess: float
    nuclear_norm: float
    relgap: float
    status: Status
    iterations: Count


class PathFacts(Record):
    """Facts in the file of a path."""

    source: dict[str, Any]
    points: list[PointFacts]


FORMAT: TensorFormat[PathFacts] = TensorFormat(
    "points of a ridge path",
    PathFacts,
    {"*.classifier": "float64 V D", "*.embeddings": "float64 M D"},
    remedy="remove it, and run `tightframe ntp ridge-path` again",
)


def path_of_table(
    folder: Path,
    options: RidgePathOptions,
    *,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Compute the ridge path of a table and its asymptotics, unless they exist already.

    Args:
        folder: Folder of the table.
        options: Dimensions, smallest ridge and seed; with the default dimensions, min(V, M), every
            optimum can be reached.
        say: Function that takes lines on what is going on, warnings among them.

    Returns:
        The results file. Its asymptotics are those against the solution of smallest gap; without a
        solution of the table it holds none.
    """
    table = load_table(folder)
    labels = table.soft_labels
    of_table = table_fingerprint(folder)
    dim = options.dim or min(labels.vocab_size, labels.n_contexts)
    key = {"table": of_table, **vars(options), "dim": dim}
    points_path = folder / "paths" / f"path-{fingerprint(key)}.safetensors"
    solution_path = best_solution(folder, of_table)
    solution = solution_path.name if solution_path else ""
    path = folder / "results" / f"path-{fingerprint(key | {'solution': solution})}.jsonl"
    if path.exists():
        say(f"{path}: already there")
        return path
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        points = _points(folder, points_path, labels, key, say)
        laws = None
        if solution_path is not None:
            limit = load_solution(solution_path, table.support).logits
            say(f"{solution_path}: the laws are measured against it")
            try:
                laws = asymptotics(points, limit, labels)
            except ValueError as error:  # nothing is separated: the points are all there is
                say(f"{solution_path}: {error}")
        else:
            say(f"{folder}: no solution, so no laws; run `tightframe ntp solve {folder}` first")
    for warning in noted:
        say(f"{folder}: {warning.message}")
    name = folder.resolve().name
    header = Header(
        run=name,
        step=0,
        model={"name": "unconstrained features with a ridge", "width": dim},
        tokens={"name": name, "fingerprint": of_table, "source": table.source},
        settings={},
        measurement={"study": "ntp", **key, "solution": solution, "dtype": "float64"},
    )
    write_rows(path, header, path_rows(points, laws, name, labels.n_contexts))
    say(f"{path}: written")
    return path


def path_rows(
    points: Sequence[RidgePoint], laws: Sequence[Asymptotics] | None, run: str, n_contexts: int
) -> list[Row]:
    """Return the rows of a path; `subset` is the ridge, `reason` tells of a missing certificate."""
    rows = []
    for number, point in enumerate(points):
        values = point.to_dict() | (laws[number].to_dict() if laws is not None else {})
        uncertified = f"uncertified: relative duality gap {point.relgap:.2g}"
        for field, metric in METRICS.items():
            value = float(values.get(field, math.nan))
            if math.isnan(value):  # of a first point, or without a solution
                continue
            row = Row(
                run=run,
                step=0,
                split="train",
                layer=0,
                labels="support",
                subset=f"lambda={point.lam:g}",
                metric=metric,
                value=value,
                n=n_contexts,
                min_count=1,
                excluded=0,
                reason="" if point.status == "certified" else uncertified,
            )
            rows.append(row)
    return rows


def path_table(path: Path) -> list[dict[str, Any]]:
    """Return one dictionary per point of a results file: ridge, values by field, and `reason`."""
    fields = {metric: field for field, metric in METRICS.items()}
    lines: dict[str, dict[str, Any]] = {}
    for row in read_rows(path)[1]:
        line = lines.setdefault(row.subset, {"lam": float(row.subset.removeprefix("lambda="))})
        line |= {fields[row.metric]: row.value, "reason": row.reason}
    return list(lines.values())


def save_path(path: Path, points: Sequence[RidgePoint], source: dict[str, Any]) -> None:
    """Write the points of a path whole or not at all; `source` says what they were made from."""
    arrays = {}
    for number, point in enumerate(points):
        arrays[f"{number}.classifier"] = point.classifier
        arrays[f"{number}.embeddings"] = point.embeddings
    FORMAT.write(path, arrays, {"source": source, "points": [p.to_dict() for p in points]})


def load_path(path: Path) -> list[RidgePoint]:
    """Load the points of a path; a file that is anything else is refused in one line."""
    tensors, facts = FORMAT.read(path)
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    factors = ("classifier", "embeddings")
    if arrays.keys() != {f"{n}.{name}" for n in range(len(facts.points)) for name in factors}:
        raise UserError(f"{path}: its points and their factors differ; {FORMAT.remedy}")
    return [
        RidgePoint(**dict(point), **{name: arrays[f"{number}.{name}"] for name in factors})
        for number, point in enumerate(facts.points)
    ]


def _points(
    folder: Path,
    path: Path,
    labels: SoftLabels,
    key: dict[str, Any],
    say: Callable[[str], None],
) -> list[RidgePoint]:
    if path.exists():
        return [judged(point, labels) for point in load_path(path)]
    try:
        lambdas = decades(labels, key["down_to"])
        points = ridge_path(labels, lambdas, dim=key["dim"], seed=key["seed"])
    except ValueError as error:  # of the options: a ridge or a dim out of range
        raise UserError(f"{folder}: {error}") from None
    save_path(path, points, key)
    say(f"{path}: written")
    return points
