"""The page of a knowledge study: verdicts, accuracy, answers, runs, ensembles, geometry.

Answers, facts and names are strangers' text: jinja2 escapes them in the page (`rendering.py`),
`knowledge_plots.py` for plotly, and the script puts answers into the page as text only.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import pandas as pd

from tightframe.knowledge.intervals import LEVEL, MARGIN
from tightframe.report import knowledge, knowledge_plots, plots
from tightframe.report.knowledge_folder import Study
from tightframe.report.rendering import facts, number, render_template

MOST_DIFFERENCES = 600
_SHOWN_SCORES = ("match_paper", "match_norm", "correct")
_RUNS = (  # key, heading, kind
    ("run", "run", "text"),
    ("arm", "arm", "text"),
    ("n_facts", "facts", "number"),
    ("exposures", "exposures", "number"),
    ("seed", "seed", "number"),
    ("parameters", "parameters", "number"),
    ("tokens", "tokens", "number"),
    ("final_loss", "final loss", "number"),
    ("seconds", "seconds", "number"),
    ("cloze_seen", "cloze seen, %", "number"),
    ("cloze_question", "cloze question, %", "number"),
    ("device", "device", "text"),
    ("stream", "stream", "text"),
    ("finished", "finished", "text"),
)
_GEOMETRY = {  # tables of the bridge that are shown as they are
    "geometry.csv": (
        "What geometry adds",
        "Out-of-fold prediction of the recalled facts by the baseline, by geometry, and by both; "
        "gain is in nats per answer, above 0 if geometry adds information.",
    ),
    "locality.csv": (
        "Effect of a second training on the first facts",
        "Facts of a first training, before and after a second one on other facts alone.",
    ),
    "locality-shift.csv": (
        "Displacement of their embeddings",
        "Displacement before and after the best rotation; CKA is 1 if they were only rotated, "
        "shifted and scaled.",
    ),
}


def render_study(
    study: Study, data: dict[str, Any], bins: pd.DataFrame, commands: Sequence[str]
) -> str:
    """Return the page as HTML.

    Args:
        study: What its folder holds.
        data: What `page_data` gives of it.
        bins: See `knowledge.recall_by_feature`.
        commands: What makes the results and this page.
    """
    arms = knowledge.arms_of(study)
    answered = knowledge.answers(study, arms)
    differences = _differences(study)
    rule = study.settings.get("rule", {})
    lines = answered["lines"]
    return render_template(
        "knowledge_page.html",
        name=study.name,
        view="",
        first_section="facts",
        study=study,
        tiles=_tiles(study, len(arms)),
        cards=[
            knowledge.Card(one, rule.get("level", LEVEL), rule.get("margin", MARGIN))
            for one in study.verdicts
        ],
        rule={"margin": MARGIN, "trained_at": 90.0} | rule,
        arms=[(arm, *knowledge.look_of(arm, arms), knowledge.words_of(arm)) for arm in arms],
        has_types=any(name.startswith("types|") for name in data["figures"]),
        differences=differences,
        n_differences=len(study.differences),
        answered=answered,
        answer_forms=[
            (form, form) for form in knowledge.ordered([line[2] for line in lines], knowledge.FORMS)
        ],
        answer_facts=_counts({line[0] for line in lines}),
        answer_arms=[
            ("", "all"),
            *((i, arm) for i, arm in enumerate(arms) if any(line[-1][i] for line in lines)),
        ],
        busiest=knowledge.busiest(study.scores),
        main_form=knowledge.MAIN_FORM,
        run_columns=[
            {"key": key, "label": label, "kind": kind}
            for key, label, kind in _RUNS
            if key in study.runs
        ],
        runs=_plain(study.runs),
        streams=knowledge.streams(study),
        judged=knowledge.judged(study),
        features=knowledge.ordered(bins["feature"].tolist(), knowledge.FEATURES),
        recall_facts=_counts(set(bins["n_facts"])),
        tables=_geometry_tables(study),
        forms=[(form, words) for form, words in knowledge.FORMS.items() if _has(study, form)],
        scores=list(knowledge.SCORES.items()),
        left_out=_left_out(study),
        settings=facts([_numbered(study.settings)]),
        commands=commands,
        data=data | {"answers": {**answered, "arms": arms}},
    )


def page_data(
    study: Study, types: pd.DataFrame, bins: pd.DataFrame, arms: Sequence[str]
) -> dict[str, Any]:
    """Return what the script draws: figures for all choices, choices, and words beside them."""
    shown = study.scores[study.scores["score"].isin(knowledge.SCORES)]
    pairs = shown[["form", "score"]].drop_duplicates().itertuples(index=False, name=None)
    return {
        "template": plots.TEMPLATE,
        "figures": knowledge_plots.figures(shown, types, arms)
        | knowledge_plots.recall_figures(bins, arms),
        "choices": _choices(shown),
        "words": {f"{form}|{score}": _note(form, score) for form, score in pairs},
    }


def _note(form: str, score: str) -> str:
    """Return what stands above the figures of a form and a score."""
    words = f"{knowledge.FORMS.get(form, '')} Score: {knowledge.SCORES.get(score, score)}."
    return words.strip()


def _choices(scores: pd.DataFrame) -> dict[str, Any]:
    """Return what can be chosen together, the preferred first, and the order of each select."""
    rows = scores[["form", "score", "n_facts", "exposures"]].drop_duplicates()
    forms = knowledge.ordered(rows["form"].tolist(), knowledge.FORMS)
    names = knowledge.ordered(rows["score"].tolist(), knowledge.SCORES)
    best = {form: knowledge.busiest(scores[scores["form"] == form]) for form in forms}

    def rank(row: tuple[Any, ...]) -> tuple[Any, ...]:
        form, score, n_facts, exposures = row
        return (
            *(form != knowledge.MAIN_FORM, forms.index(form)),
            *(score != knowledge.MAIN_SCORE, names.index(score)),
            *(n_facts != best[form], n_facts, -exposures),
        )

    return {
        "names": ["form", "score", "n-facts", "exposures"],
        "orders": [forms, names, *(sorted(set(rows[n])) for n in ("n_facts", "exposures"))],
        "rows": sorted(rows.itertuples(index=False, name=None), key=rank),
    }


def _counts(values: Iterable[int]) -> list[tuple[int, str]]:
    """Return numbers for a select, in their order, with their words."""
    return [(int(n), f"{n:,}") for n in sorted(values)]


def _has(study: Study, form: str) -> bool:
    return bool((study.scores["form"] == form).any())


def _tiles(study: Study, n_arms: int) -> list[tuple[str, str, str]]:
    scores, runs = study.scores, study.runs
    counts = sorted(set(scores["n_facts"]))
    exposures = sorted(set(scores["exposures"]))
    found = [
        ("Arms", f"{n_arms}", "ways to read and to train"),
        ("Facts", " · ".join(map(number, counts)), "that each run was given"),
        ("Exposures", " · ".join(map(number, exposures)), "of each fact in a run"),
    ]
    if len(runs):
        seeds = runs["seed"].nunique()
        found.append(("Runs", number(len(runs)), f"of {seeds} seed{'s' if seeds > 1 else ''}"))
    if len(study.questions):
        asked = study.questions["question_id"].nunique()
        found.append(("Answers", number(len(study.questions)), f"to {number(asked)} questions"))
    return found


def _differences(study: Study) -> list[dict[Hashable, Any]]:
    table = study.differences
    if table.empty:
        return []
    rule = study.settings.get("rule", {})
    others = (table["first"] != rule.get("first")) | (table["second"] != rule.get("second"))
    first = table.assign(others=others).sort_values("others", kind="stable").drop(columns="others")
    shown = first[first["score"].isin(_SHOWN_SCORES)].head(MOST_DIFFERENCES)
    return shown.to_dict("records")


def _geometry_tables(study: Study) -> list[tuple[str, str, list[str], list[list[Any]]]]:
    found = [
        (title, words, *knowledge.as_it_is(study.geometry[name]))
        for name, (title, words) in _GEOMETRY.items()
    ]
    return [table for table in found if table[-1]]


def _left_out(study: Study) -> list[dict[Hashable, Any]]:
    """Return what a form cannot ask for, one line per form and number of facts."""
    table = study.asked
    if table.empty:
        return []
    names = ["n_facts", "form", "asked", "left_out", "reasons"]
    return table.loc[table["left_out"] > 0, names].drop_duplicates().to_dict("records")


def _numbered(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings with lists of tables as tables by number, which a list of facts shows."""
    return {
        name: {str(i): one for i, one in enumerate(value, 1)}
        if isinstance(value, list) and all(isinstance(one, dict) for one in value)
        else value
        for name, value in settings.items()
    }


def _plain(runs: pd.DataFrame) -> list[dict[Hashable, Any]]:
    lines = runs.to_dict("records")
    return [{key: _value(value) for key, value in line.items()} for line in lines]


def _value(value: Any) -> Any:
    """Return a cell: unknown is None, a truth value a word."""
    if isinstance(value, float) and math.isnan(value):
        return None
    return ("yes" if value else "no") if isinstance(value, bool) else value
