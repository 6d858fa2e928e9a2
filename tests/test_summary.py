"""What a measurement prints: by property, layers side by side, each reason once, in words."""

import dataclasses
import math

import pytest

from tightframe.geometry.summary import arrow, lines_of_summary
from tightframe.results import Header, Row

HEADER = Header(
    run="small",
    step=300,
    model={"n_classes": 700, "width": 64, "classes_per_dimension": 700 / 64},
    tokens={"name": "novel"},
    settings={"width": 64},
    measurement={"min_count": 20, "groups": 20},
)
FEW = "classes with fewer than 20 samples: 2700 left out"


def _row(metric, value=0.5, *, layer=2, subset="all", reason="", **interval):
    return Row(
        run="small",
        step=300,
        split="val",
        layer=layer,
        labels="next",
        subset=subset,
        metric=metric,
        value=value,
        n=9,
        min_count=20,
        excluded=0,
        **interval,
        reason=reason,
    )


def _lines(*rows, header=HEADER, control=None, **options):
    return list(lines_of_summary(header, rows, control or {}, **options))


def _line(lines, metric):
    (found,) = [line for line in lines if line.strip().startswith(f"{metric} ")]
    return found


@pytest.mark.parametrize(
    ("metric", "shown"),
    [
        ("nc1_cdnv_med_db", "↓"),
        ("nc3_cos_mean", "↑"),
        ("gnc2_log_kernel_excess", "→ 0"),
        ("nc2_equiang_mean", "→ -1/(K-1)"),
        ("dim_outliers", ""),
        ("val_loss", ""),
    ],
)
def test_arrows_point_to_collapse(metric, shown):
    assert arrow(metric) == shown


def test_properties_stand_in_their_order_and_the_robust_view_before_the_published_one():
    names = ["nc1_cdnv_p2", "nc1_cdnv_med_db", "nc2_equiang_cov", "nc2_equiang_std"]
    names += ["gnc2_log_kernel_excess", "nc3_cos_mean", "unc3_cos_var", "nc4_rate", "val_loss"]
    lines = _lines(*[_row(name) for name in reversed(names)])
    order = [line.split()[0] for line in lines if line.startswith("  ")]
    assert order == [names[i] for i in (1, 0, 3, 2, 4, 5, 6, 7, 8)]
    heads = [line.partition(":")[0] for line in lines if line.startswith(("NC", "GNC", "UNC"))]
    assert heads == ["NC1", "NC2", "GNC2", "NC3", "UNC3", "NC4"]


def test_other_measures_are_printed_where_they_are_asked_for():
    rows = [_row("nc1_cdnv_med_db"), _row("rank_pr"), _row("nc1_quotient")]
    lines = _lines(*rows)
    assert not any("rank_pr" in line for line in lines)
    assert lines[-1] == "--full prints 2 more measures of each layer."
    for option in ("full", "chosen"):
        lines = _lines(*rows, **{option: True})
        assert _line(lines, "rank_pr")
        assert not any("--full" in line for line in lines)


def test_an_interval_and_the_control_stand_beside_the_value_they_belong_to():
    rows = [_row("nc1_cdnv_med_db", 0.64123, low=0.6, high=0.7), _row("nc3_cos_mean", 0.25)]
    lines = _lines(*rows, control={(2, "all", "nc3_cos_mean"): 0.001})
    assert _line(lines, "nc1_cdnv_med_db").split() == (
        ["nc1_cdnv_med_db", "↓", "0.6412", "[0.6,", "0.7]"]
    )
    assert _line(lines, "nc3_cos_mean").split() == ["nc3_cos_mean", "↑", "0.25", "0.001"]
    assert any(line.split() == ["random"] for line in lines)


def test_a_reason_stands_once_and_is_marked_on_the_numbers_that_it_is_about():
    why = "no interval: its bias is too large, {} standard errors would be left; raise min_count"
    lines = _lines(
        _row("nc1_cdnv_p2", reason=f"{FEW}; {why.format('11.0')}"),
        _row("gnc2_log_kernel_excess", reason=f"{FEW}; {why.format('2.4')}"),
        _row("nc3_cos_mean", reason=FEW),
        _row("nc4_rate", reason="positions without a class mean: 7 left out"),
        width=200,
    )
    assert _line(lines, "nc1_cdnv_p2").endswith("(1)")
    assert _line(lines, "gnc2_log_kernel_excess").endswith("(1)")
    assert _line(lines, "nc3_cos_mean").endswith("0.5")
    assert _line(lines, "nc4_rate").endswith("(2)")
    notes = [line for line in lines if line.startswith("(")]
    # What differs in its numbers only is one reason; which classes take part is in the title.
    assert notes == [
        f"(1) {why.format('2.4 to 11.0')}",
        "(2) positions without a class mean: 7 left out",
    ]
    assert "700 classes with 20 samples or more (2,700 with fewer left out)" in lines[0]


def test_what_stands_beside_an_interval_is_its_centre():
    rows = [
        _row("nc3_cos_mean", 0.6, low=0.61, high=0.63, centre=0.62),
        _row("nc4_rate_fullv", 0.2),
    ]
    lines = _lines(*rows, width=400)
    assert _line(lines, "nc3_cos_mean").split()[2:] == ["0.62", "[0.61,", "0.63]"]
    assert _line(lines, "nc4_rate_fullv").split()[-1] == "0.2"
    assert any("a cosine of 0.62 with" in line for line in lines)


def test_it_says_which_nc1_to_believe_where_there_are_two():
    both = [_row("nc1_cdnv_p2", 0.03, reason=FEW), _row("nc1_cdnv_med_db", 0.9, reason=FEW)]
    lines = _lines(*both, width=200)
    assert _line(lines, "nc1_cdnv_p2").endswith("(1)")
    assert _line(lines, "nc1_cdnv_med_db").endswith("0.9")
    (note,) = [line for line in lines if line.startswith("(1)")]
    assert note.endswith("where it disagrees with nc1_cdnv_med_db, believe that one")
    assert not any("believe" in line for row in both for line in _lines(row, width=200))


def test_the_last_sentence_says_it_in_words_and_names_the_step():
    rows = [_row("nc1_cdnv_med_db", 0.64), _row("nc4_rate_fullv", 0.078)]
    (sentence,) = [x for x in _lines(*rows, width=400) if x.startswith("In words")]
    assert sentence == (
        "In words: in small at step 300, variance within classes is 0.64 times the squared "
        "distance between them, and the nearest class mean decides as the classifier at 7.8% of "
        "positions; at full collapse these are 0 and 100%."
    )
    control = {(2, "all", "nc1_cdnv_med_db"): 13.6}
    (sentence,) = [x for x in _lines(*rows, control=control, width=400) if x.startswith("In words")]
    assert "between them (random weights: 14), and" in sentence
    elsewhere = dataclasses.replace(HEADER, step=0, settings={})
    assert not any("step" in line for line in _lines(*rows, header=elsewhere))


def test_layers_stand_side_by_side_within_the_line():
    names = ["nc1_cdnv_med_db", "gnc2_log_kernel_excess", "nc3_cos_mean", "unc3_cos_var"]
    names += ["ncc_accuracy", "rank_pr", "nc2_etf_error"]
    values = {0: 0.9, 1: 0.2, -1: 0.3, 2: 0.4}
    rows = [
        _row(name, value, layer=layer, reason="no interval: of none")
        for layer, value in values.items()
        for name in names
    ]
    lines = _lines(*rows, _row("val_loss", 5.5))
    assert all(len(line) <= 80 for line in lines)
    found = {line.split()[0]: line.split()[1:] for line in lines if len(line.split()) == 7}
    assert found.keys() == {"0", "1", "prenorm", "2"}  # etf_error is no headline
    assert [x.split() for x in lines if x.startswith("layer")] == [
        ["layer", "↓", "→", "0", "↑", "↓", "↑", "↑"]
    ]
    assert found["1"] == ["0.2"] * 6  # of intervals, which a table has none of, it says nothing
    assert not any("interval: of none" in line for line in lines)
    best = " ".join(lines).partition("Most collapsed ")[2].partition(".  ")[0]
    assert best.startswith(
        "at layer 0 by nc3_cos_mean, ncc_accuracy, rank_pr; "
        "at layer 1 by nc1_cdnv_med_db, gnc2_log_kernel_excess, unc3_cos_var."
    )
    assert "--full prints 1 more" in lines[-1]
    full = _lines(*rows, full=True)
    assert [line for line in full if line.startswith("layer")] == [
        f"layer {name}" for name in ("0", "1", "prenorm", "2")
    ]
    assert sum("interval: of none" in line for line in full) == 1


@pytest.mark.parametrize(("loss", "said"), [(6.41, True), (4.2, False)])
def test_a_model_that_knows_little_more_than_frequencies_is_said_to(loss, said):
    header = dataclasses.replace(HEADER, tokens={"name": "novel", "unigram_entropy": 6.5})
    lines = _lines(_row("nc3_cos_mean"), _row("val_loss", loss), header=header)
    assert any(line.startswith("Close to a unigram model") for line in lines) == said


def test_the_form_that_the_results_have_stands_in_the_view():
    # Debiased by groups where they were kept apart; else as if samples were independent.
    names = [f"{x}{e}" for x in ("gnc2_log_kernel_excess", "nc3_cos_mean") for e in ("_db", "_dbg")]
    rows = [_row(name, 0.5) for name in names]
    shown = {line.split()[0] for line in _lines(*rows) if line.startswith("  ")}
    assert shown == {"gnc2_log_kernel_excess_dbg", "nc3_cos_mean_dbg"}
    ungrouped = [_row(name, math.nan if name.endswith("_dbg") else 0.5) for name in names]
    shown = {line.split()[0] for line in _lines(*ungrouped) if line.startswith("  ")}
    assert shown == {"gnc2_log_kernel_excess_db", "nc3_cos_mean_db"}
    (sentence,) = [x for x in _lines(*rows, width=400) if x.startswith("In words")]
    assert "class means have a cosine of 0.5 with their rows" in sentence


def test_what_has_no_debiased_form_says_so_where_it_stands():
    rows = [_row("unc3_cos_var", 0.2), _row("nc4_rate_fullv", 0.3)]
    lines = _lines(*rows, width=200)
    assert _line(lines, "unc3_cos_var").endswith("(1)")
    assert not _line(lines, "nc4_rate_fullv").endswith(")")
    (note,) = [line for line in lines if line.startswith("(1)")]
    assert note.startswith("(1) there is no form of it without the noise of the class means")
    layers = [dataclasses.replace(row, layer=layer) for row in rows for layer in (1, 2)]
    (note,) = [line for line in _lines(*layers, width=200) if line.startswith("unc3_cos_var: ")]
    assert "compare it at equal counts only" in note
