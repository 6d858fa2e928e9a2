"""What attention sinks and outlier dimensions do to the inner layers of a pretrained model.

    python -m studies.smollm2.run models/smollm2-135m runs/smollm2-135m docs/results/smollm2

takes a model and its run after `tightframe measure` and `tightframe report`; see README.md.
"""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

import tightframe as tf
from tightframe.corpus.shards import Split
from tightframe.geometry.labels import LabelSpec
from tightframe.geometry.stream import Stream, accumulate_moments, layer_name, new_moments
from tightframe.lm.interface import PRENORM, LanguageModel
from tightframe.report.figures import LIGHT, STYLE

TOKENS = 20_000  # of the training part
MEASURES = ("rank_pr", "nc1_cdnv_rom_db")
MIN_COUNT = 20
DEPTH = 30
BOTH = tuple((labels, twin) for twin in (False, True) for labels in ("next", "current"))
PANELS = (
    ("ncc_accuracy", "positions whose nearest class mean is right", BOTH),
    ("nc1_cdnv_med_dbg", "variability within classes (NC1)", BOTH),
    ("nc3_cos_mean_dbg", "cosine of class mean and classifier (NC3)", BOTH[:2]),
)
OUTLIER = 100.0  # times the median mean square
ALL, USUAL = LabelSpec(), LabelSpec(skip=1, skip_special=True)


def main(model: str, run: str, out: str) -> None:
    """Write tables and figures."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tables/layers.csv", "figures/layers.png"):
        shutil.copy(Path(run) / "report" / name, folder)
    (tokens,) = (Path(run) / "tokens").glob("*/")
    split = tf.TokenShards.open(tokens).split("train")
    ways = pd.DataFrame(way_rows(tf.load_model(model), split))
    ways.to_csv(folder / "ways.csv", index=False, float_format="%.5g")
    layers = pd.read_csv(folder / "layers.csv")
    for line in answers(layers, ways):
        print(line)
    draw_overview(layers).savefig(folder / "overview.png", metadata={"Software": None})
    draw(ways).savefig(folder / "ways.png", metadata={"Software": None})


def way_rows(model: LanguageModel, split: Split) -> Iterator[dict[str, Any]]:
    """Measure every layer in four ways: positions and dimensions, all or the usual ones."""
    layers = [*range(model.depth), PRENORM, model.depth]
    spans = [(0, min(TOKENS // split.block, split.n_blocks))]
    usual = Stream(model, split, USUAL)
    whole = new_moments(usual, layers, dimensions=True)
    every = Stream(model, split, ALL)
    all_positions = new_moments(every, layers)
    accumulate_moments(usual, whole, also=[(every, all_positions)], spans=spans)
    kept = {layer: usual_dimensions(state) for layer, state in whole.items()}
    narrow = {
        (layer, spec): tf.ClassMoments(usual.n_classes, int(kept[layer].sum()))
        for layer in layers
        for spec in (ALL, USUAL)
    }
    for part in every.parts(layers, spans):
        labels = {ALL: part.labels, USUAL: usual.relabelled(part).labels}
        for (layer, spec), state in narrow.items():
            state.update(part.embeddings[layer][:, kept[layer]], labels[spec])
    for layer in layers:
        left_out = int((~kept[layer]).sum())
        for state, positions, dimensions in (
            (all_positions[layer], "all", "all"),
            (whole[layer], "usual", "all"),
            (narrow[layer, ALL], "all", "usual"),
            (narrow[layer, USUAL], "usual", "usual"),
        ):
            columns = kept[layer] if dimensions == "usual" else slice(None)
            values = tf.geometry.metrics(
                state, model.classifier[:, columns], measures=MEASURES, min_count=MIN_COUNT
            )
            yield {
                "layer": layer_name(layer),
                "positions": positions,
                "dimensions": dimensions,
                "outliers": left_out,
                **{name: value.value for name, value in values.items()},
            }


def usual_dimensions(state: tf.ClassMoments) -> Tensor:
    """Return which dimensions are no outliers."""
    assert state.dimensions is not None
    squares = state.dimensions.mean_squares
    return squares <= OUTLIER * squares.median()


def answers(layers: pd.DataFrame, ways: pd.DataFrame) -> Iterator[str]:
    """Answer the three questions of README.md by their rules."""
    order = [*range(DEPTH), PRENORM, DEPTH]
    rows = layers[layers["subset"] == "all"].to_dict("records")
    found = {tuple(row[key] for key in ("metric", "labels", "twin", "layer")): row for row in rows}
    for metric, sign in (("nc1_cdnv_rom_dbg", -1), ("nc3_cos_mean_dbg", 1)):
        own, control = (found[metric, "next", twin, DEPTH] for twin in (False, True))
        near, far = ("low", "high") if sign > 0 else ("high", "low")
        values = [f"{x['centre']:.4g} [{x['low']:.4g}, {x['high']:.4g}]" for x in (own, control)]
        is_more = sign * (own[near] - control[far]) > 0
        yield f"1. {metric}: {values[0]}, random {values[1]}: {'yes' if is_more else 'no'}"
    name = "nc3_cos_mean_dbg"
    apart = [
        found[name, "next", False, one]["low"] > found[name, "current", False, one]["high"]
        for one in order
    ]
    first = max((i + 1 for i, is_apart in enumerate(apart) if not is_apart), default=0)
    begin = layer_name(order[first]) if first < len(order) else "nowhere"
    others = [layer_name(one) for one, is_apart in zip(order, apart, strict=True) if not is_apart]
    yield f"2. from layer {begin}; not so at layers {', '.join(others) or 'none'}"
    for (positions, dimensions), way in ways.groupby(["positions", "dimensions"]):
        by_layer = way.set_index(way["layer"].astype(str))["rank_pr"]
        middle = [by_layer[str(layer)] for layer in range(11, 29)]
        repaired = min(middle) >= by_layer["5"] / 2
        yield (
            f"3. {positions} positions, {dimensions} dimensions: rank_pr {by_layer['5']:.3g} at "
            f"layer 5, {min(middle):.3g} to {max(middle):.3g} at layers 11 to 28: "
            f"{'repaired' if repaired else 'not repaired'}"
        )


def draw_overview(layers: pd.DataFrame) -> Figure:
    """Draw three measures along the layers; intervals as bands, random weights dashed."""
    drawn = layers.assign(shown=layers["centre"].fillna(layers["value"]))
    drawn["place"] = drawn["layer"].map(lambda layer: DEPTH if layer == PRENORM else layer)
    drawn = drawn[drawn["layer"] != DEPTH].sort_values("place")  # the final norm apart, left out
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 2.9), layout="constrained", dpi=150)
        for axes, (measure, title, kinds) in zip(figure.subplots(1, 3), PANELS, strict=True):
            for labels, twin in kinds:
                line = drawn[(drawn["metric"] == measure) & (drawn["labels"] == labels)]
                line = line[line["twin"] == twin]
                colour = LIGHT[labels]
                name = f"{labels} token{', random weights' if twin else ''}"
                dashes = "--" if twin else "-"
                if is_log := measure.startswith("nc1"):
                    line = line[line["shown"] > 0]
                axes.plot(line["place"], line["shown"], dashes, color=colour, label=name)
                if not twin:
                    ends = line["low"], line["high"]
                    axes.fill_between(line["place"], *ends, color=colour, alpha=0.2, linewidth=0)
            axes.set_title(title)
            axes.set_xlabel("after block")
            if is_log:
                axes.set_yscale("log")
        handles = figure.axes[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=4)
    return figure


def draw(ways: pd.DataFrame) -> Figure:
    """Draw each measure against the layer, a line for each way."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.4 * len(MEASURES), 2.6), layout="constrained", dpi=150)
        for axes, measure in zip(figure.subplots(1, len(MEASURES)), MEASURES, strict=True):
            for (positions, dimensions), rows in ways.groupby(["positions", "dimensions"]):
                axes.plot(
                    range(len(rows)),
                    rows[measure],
                    color=LIGHT["ink"] if positions == "usual" else LIGHT["soft"],
                    linestyle="-" if dimensions == "all" else ":",
                    label=f"{positions} positions, {dimensions} dimensions",
                )
            axes.set_yscale("log")
            axes.set_xlabel("layer (the last but one is before the final norm)")
            axes.set_title(measure)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
