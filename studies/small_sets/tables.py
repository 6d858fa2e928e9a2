"""Results of a small context table -> its figures and tables: models beside what is predicted.

It takes what `run.py` writes to a set's folder: rows of every model and of the ridge
path, checkpoints of every model, and the certified limit.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import safetensors.numpy

from studies.small_sets.figures import (
    CoursePanel,
    Embedded,
    Line,
    draw_course,
    draw_heat_maps,
)
from tightframe.files import whole_file
from tightframe.ntp.model import load_model_checkpoints
from tightframe.ntp.prediction import Prediction, predict, proxy
from tightframe.ntp.solution import load_solution
from tightframe.ntp.summary import EXCESS, at_same_loss, support_order
from tightframe.ntp.table import load_table
from tightframe.report.figures import save
from tightframe.results import gather, write_csv

PANELS = (
    CoursePanel("loss minus floor (nats)", (Line("ntp_excess", ""),), log=True),
    CoursePanel(
        "norms",
        (
            Line("ntp_norm_logits", "logits"),
            Line("ntp_norm_classifier", "classifier"),
            Line("ntp_norm_embeddings", "embeddings"),
        ),
        log=True,
    ),
    CoursePanel("error within supports / |L_in|", (Line("ntp_finite_error_rel", ""),), log=True),
    CoursePanel(
        "logits: distance to L_mm",
        (
            Line("ntp_logits_dist", "as they are"),
            Line("ntp_less_finite_dist", "less L_in"),
            Line("ntp_less_finite_dist_proxy", "less L_in, to proxy"),
        ),
    ),
    CoursePanel(
        "Gram of words: distance",
        (
            Line("ntp_gram_classifier_dist", "to limit"),
            Line("ntp_gram_classifier_dist_proxy", "to proxy"),
        ),
    ),
    CoursePanel(
        "Gram of contexts: distance",
        (
            Line("ntp_gram_embeddings_dist", "to limit"),
            Line("ntp_gram_embeddings_dist_proxy", "to proxy"),
        ),
    ),
    CoursePanel(
        "structural similarity to limit",
        (Line("ntp_ssim_classifier", "words"), Line("ntp_ssim_embeddings", "contexts")),
    ),
    CoursePanel(
        "cosine within equal supports",
        (
            Line("ntp_collapse_cos_embeddings", "embeddings"),
            Line("ntp_collapse_cos_rest", "logits, their rest"),
        ),
    ),
)
RIDGE = "ntp_lambda"  # of a point of the path
PATH = "path"  # the name of the ridge path among the results
NAMES = {"ufm": "free features", "transformer": "Transformer"}


def report_study(folder: Path, out: Path) -> list[Path]:
    """Write tables, courses, heat maps and the arrays behind these; return what was written.

    `<set>.csv` has a line a checkpoint, `<set>-path.csv` a line a point of the ridge path,
    `<set>.safetensors` the last classifier and embeddings of each column of the heat maps with the
    order of words and contexts.

    Args:
        folder: Of a set; all arms that have results are drawn.
        out: Takes the files.
    """
    name = folder.name
    rows = gather(sorted((folder / "results").glob("*.jsonl")))
    courses = with_predictions(rows, f"{name}-{PATH}")
    table = load_table(folder)
    solution = load_solution(folder / "solutions" / "limit.safetensors", table.support)
    write_csv(out / f"{name}.csv", courses)
    points = _by_step(rows[rows["run"] == f"{name}-{PATH}"])
    write_csv(out / f"{name}-path.csv", points)
    figures = {
        str(run): draw_course(course, PANELS, title=_title(str(run), name, solution.gap))
        for run, course in courses.groupby("run")
    }
    columns = _columns(folder, predict(solution), proxy(table.support))
    order = support_order(table.support)
    figures[f"{name}-heat"] = draw_heat_maps(
        list(columns.values()),
        words=order.words,
        contexts=order.contexts,
        title=f"{name}: words and contexts in the order of a clustering of their supports",
    )
    arrays = {"words": order.words, "contexts": order.contexts}
    for key, column in columns.items():
        arrays[f"{key}.classifier"] = column.classifier.astype(np.float32)
        arrays[f"{key}.embeddings"] = column.embeddings.astype(np.float32)
    with whole_file(out / f"{name}.safetensors") as temporary:
        temporary.write_bytes(safetensors.numpy.save(arrays))
    for file, figure in figures.items():
        save(figure, out / f"{file}.png")
    tables = [f"{name}.csv", f"{name}-path.csv", f"{name}.safetensors"]
    return [out / file for file in (*tables, *(f"{file}.png" for file in figures))]


def _title(run: str, name: str, gap: float) -> str:
    arm = run.removeprefix(f"{name}-")
    return f"{NAMES.get(arm, arm)} on the set {name}; limit certified (gap {gap:.0e})"


def _columns(folder: Path, limit: Prediction, stand_in: Prediction) -> dict[str, Embedded]:
    """Of the heat maps: the end of each arm, the limit, the proxy."""
    columns = {}
    for arm in ("transformer", "ufm"):
        path = folder / "runs" / f"{arm}.safetensors"
        if path.exists():
            last = load_model_checkpoints(path)[0][-1]
            columns[arm] = Embedded(
                NAMES[arm], last.classifier.astype(float), last.embeddings.astype(float)
            )
    columns["limit"] = Embedded(f"theory, {limit.label}", limit.classifier, limit.embeddings)
    label = "proxy" if stand_in.kind == "proxy" else f"proxy, {stand_in.label}"
    columns["proxy"] = Embedded(label, stand_in.classifier, stand_in.embeddings)
    return columns


def _by_step(rows: pd.DataFrame) -> pd.DataFrame:
    """One line a run and step, a column a metric that has a value somewhere."""
    values = rows.pivot(index=["run", "step"], columns="metric", values="value").reset_index()
    values.columns.name = None
    return values.dropna(axis=1, how="all")


def with_predictions(rows: pd.DataFrame, path: str) -> pd.DataFrame:
    """One line a checkpoint: `run`, `step`, the metrics, and for each that a panel shows columns.

    `at_same_loss.<metric>` is the value of the ridge path at the checkpoint's loss (`ntp_lambda`
    among them, the ridge that has this loss), and
    `shuffled.<metric>` of a structural similarity or a distance of Gram matrices that of supports
    drawn at random; the distance of the mean cosine.

    Args:
        rows: As `results.gather` gives them.
        path: The run that is the ridge path.
    """
    points = _by_step(rows[rows["run"] == path])
    models = _by_step(rows[rows["run"] != path])
    known = set(models) & set(points)
    shown = [line.metric for panel in PANELS for line in panel.lines if line.metric in known]
    told = [RIDGE, *(metric for metric in shown if metric != EXCESS)]
    predicted = at_same_loss(points, models, told).add_prefix("at_same_loss.")
    baselines = {
        f"shuffled.{metric}": found
        for metric in shown
        if (found := _baseline(models, metric)) is not None
    }
    return pd.concat([models, predicted, pd.DataFrame(baselines)], axis=1)


def _baseline(models: pd.DataFrame, metric: str) -> pd.Series | None:
    if f"{metric}_shuffled" in models:
        return models[f"{metric}_shuffled"]
    cosine = f"{metric.removesuffix('_dist')}_cos_shuffled"
    if not metric.endswith("_dist") or cosine not in models:
        return None
    distances: pd.Series = np.sqrt(2 - 2 * models[cosine])
    return distances
