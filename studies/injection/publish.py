"""The results of studies on injected facts, for people: tables to keep, and a page of Markdown.

A study's tables are copied to `REPORT/<study>/`, and `REPORT.md` is written anew from all the
folders in REPORT: a study on another machine, or a longer one, only adds its own.

    python -m studies.injection.publish STUDY REPORT
    python -c "from pathlib import Path; from studies.injection.publish import write_page
    write_page(Path('docs/results/knowledge'))"              # the page alone, from its tables
"""

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from studies.injection import tables
from studies.recall_geometry import section as recall
from tightframe.files import read_text, whole_file, write_text
from tightframe.formats import read_json
from tightframe.jobs.programs import endings_in_one_line
from tightframe.knowledge.decisions import DecisionRule
from tightframe.knowledge.study import (
    MORE_TABLES,
    RESULTS,
    SETTINGS,
    TABLES,
    VERDICTS,
    read_verdicts,
    write_verdicts,
)
from tightframe.knowledge.tables import at_cell, cells
from tightframe.results import read_csv, write_csv
from tightframe.settings import read_toml, resolve

# What `studies.recall_geometry` leaves in a study's results: the numbers, and the section on them.
GEOMETRY_TABLES = ("geometry", "locality", "locality-shift")
GEOMETRY_TEXT = "geometry.md"
ENSEMBLES = "ensembles"  # a table of those that `studies.ensembles.run` has made
FIGURES = ("accuracy_by_facts.png", "accuracy_by_position.png")  # of the page, where there is one


@dataclasses.dataclass(frozen=True)
class Published:
    """What is kept of a study: a folder of small tables."""

    folder: Path

    @property
    def name(self) -> str:
        """The study's."""
        return self.folder.name

    @cached_property
    def settings(self) -> dict[str, Any]:
        """As they were before the first run."""
        return read_toml(self.folder / SETTINGS)

    @cached_property
    def rule(self) -> DecisionRule:
        """The decision rule among them."""
        source = str(self.folder / SETTINGS)
        return resolve(DecisionRule, self.settings.get("rule", {}), source=source)

    @cached_property
    def decisions(self) -> list[dict[str, Any]]:
        """What the rule says at each number of facts."""
        return list(read_verdicts(self.folder))

    @cached_property
    def runs(self) -> pd.DataFrame:
        """A line a run, with the seconds that it took."""
        return self.table("runs").merge(self.table("timings"), on="run")

    def table(self, name: str) -> pd.DataFrame:
        """One of `study_files.TABLES`; empty where a study has none of its rows."""
        path = self.folder / f"{name}.csv"
        return read_csv(path) if read_text(path).strip() else pd.DataFrame()


def publish(study: Path, report: Path) -> Path:
    """Copy a study's tables to `report/<study>/`, and write the page of all studies there.

    Args:
        study: The study's folder, with its results.
        report: A folder; the page is beside it, with `.md` after its name. Returned is the page.
    """
    folder = report / study.resolve().name
    verdicts = read_verdicts(study / RESULTS)
    write_text(folder / SETTINGS, read_text(study / SETTINGS))
    for name in (*TABLES, *MORE_TABLES, *GEOMETRY_TABLES):
        source = study / RESULTS / f"{name}.csv"
        if source.is_file():
            write_csv(folder / f"{name}.csv", read_csv(source), float_format="%.6g")
    write_verdicts(folder, verdicts)
    if (study / RESULTS / recall.FIGURE).is_file():
        figure = f"{report.name}/{folder.name}/{recall.FIGURE}"
        write_text(folder / GEOMETRY_TEXT, recall.section(study / RESULTS, figure=figure))
        _copy(study / RESULTS / recall.FIGURE, folder)
    if joined := _ensembles_of(study):
        write_csv(folder / f"{ENSEMBLES}.csv", pd.DataFrame(joined))
    for name in FIGURES:
        _copy(study / "report" / "figures" / name, folder)
    return write_page(report)


def write_page(report: Path) -> Path:
    """Write the page of all studies whose tables are in a folder, and return it."""
    found = [Published(path.parent) for path in sorted(report.glob(f"*/{SETTINGS}"))]
    page = report.with_name(f"{report.name}.md")
    write_text(page, "\n\n".join(text for make in SECTIONS for text in make(found)) + "\n")
    return page


def _copy(file: Path, folder: Path) -> None:
    if file.is_file():
        with whole_file(folder / file.name) as temporary:
            temporary.write_bytes(file.read_bytes())


def _ensembles_of(study: Path) -> list[dict[str, Any]]:
    """Each ensemble of a study beside the model of all facts, which is its fallback; percent."""
    found = []
    for file in sorted(study.glob("ensemble/*/report.json")):
        report = read_json(file)
        *_, fallback = report["sources"]
        asked = pd.read_parquet(
            study / RESULTS / "questions.parquet", columns=["run", "form", "match_norm"]
        )
        own = asked[(asked["run"] == fallback["model"]) & (asked["form"] == "cloze_question")]
        inside, outside = report["routing"]["in_scope"], report["routing"]["outside"]
        found.append(
            {
                "ensemble": file.parent.name,
                "single": fallback["model"],
                "n": report["n_scored"],
                "match_norm": report["score"],
                "match_norm_oracle": report["oracle_score"],
                "match_norm_single": float(own["match_norm"].mean()),
                "routed_right": 100 * inside["right"],
                "n_outside": outside["n"],
                "accepted_outside": 100 * outside["accepted"],
            }
        )
    return found


def _opening(studies: list[Published]) -> Iterator[str]:
    yield "# Do models that read both ways remember facts better?"
    yield """\
<!-- Written by `python -m studies.injection.publish`; change studies/injection/publish.py. -->"""
    yield """\
**Question.** Facts are trained into a network from scratch and asked for without the text. Does a
network that reads the prompt in both directions (`bilm_sp`) recall more of them than the same
network that reads left to right (`clm_sp`)?"""
    decisions = [(study, one) for study in studies for one in study.decisions]
    if decisions:
        verdicts = "; ".join(
            f"{one['n_facts']:,} facts ({study.name}): {one['verdict']}" for study, one in decisions
        )
        shown = any(one["verdict"].startswith(("reproduced", "reversed")) for _, one in decisions)
        none = "" if shown else " By this rule no study shows a difference between the two arms."
        yield f"**Answer**, by a rule that was fixed before the first run. {verdicts}.{none}"


def _method(studies: list[Published]) -> Iterator[str]:
    yield "## How the arms and the questions differ"
    yield """\
Facts are learned masked span by masked span. `clm_sp` and `bilm_sp` are one network with the same
number of parameters, and see the same examples in the same order. They differ in attention alone:
`clm_sp` reads left to right, `bilm_sp` reads the prompt in both directions. Each other arm changes
one more thing. `clm_ntp` learns whole sentences instead of spans. `bilm_mlm` fills slots in one
pass. `bilm_ed` has a separate encoder. `..._reordered` divides its exposures between the facts and
the same facts with the answer last."""
    yield """\
| form | what is asked |
|---|---|
| `cloze_seen` | the fact with its answer masked: tests memorisation |
| `cloze_question` | the real question with its wh-phrase masked: the main measure |
| `raw_question` | the question with a mask after it, a form that no training example had |
| `rank20` | the same cloze: is the right one of twenty answers the likeliest? Chance is 5 % |
| `left_context` | the fact up to its answer, to be continued; not if the answer comes first |
| `left_context_reordered` (clue first) | the reordered fact, up to its answer |"""
    yield """\
Answers are greedy. Scores are percent of questions. `match_paper` is the published score: the
answer occurs anywhere in the output, letter by letter. `match_norm` and `em_norm` are corrected
([Scores](../guide/knowledge.md#scores)). Intervals of 95 % are over facts, with all seeds of a fact
together; with fewer than 15 facts there is none. `rank20` of `clm_ntp` is computed by another rule
and is not comparable with the other arms."""
    older = [study.name for study in studies if "reason" not in study.table("scores")]
    if older:
        yield f"""\
The intervals in the tables of {", ".join(older)} are percentiles of 1,000 resamples of facts. With
25 facts or more they hold the truth in 88 to 98 % of simulated cases, in 82 to 90 % near 0 and 100.
[Intervals over facts](../measures.md#intervals-over-facts) describes those that replaced them."""


def _settings(studies: list[Published]) -> Iterator[str]:
    yield "## Decided before any run"
    for rule in dict.fromkeys(study.rule for study in studies):
        names = ", ".join(study.name for study in studies if study.rule == rule)
        yield f"""\
d = `{rule.first}` - `{rule.second}` on `{rule.form}`, `{rule.score}`, mean over seeds per fact;
interval over facts, {100 * rule.level:g} %. In this order: interval above 0: reproduced;
below 0: reversed; within [-{rule.margin:g}, +{rule.margin:g}]: not reproduced; otherwise
inconclusive. An arm with `{rule.trained_form}` below {rule.trained_at:g} % is under-trained, and
then there is no comparison. Studies: {names}."""
    raised = [study for study in studies if study.settings["exposures"] > 500]
    if raised:
        yield f"""\
This holds for the rule, not for all exposures. Those of {", ".join(s.name for s in raised)} were
raised to {raised[0].settings["exposures"]:,} after a trial with 500, in which `clm_sp` had
memorised too little ([decisions](../decisions.md))."""
    rows = [
        [
            *(study.name, study.settings["data"], ", ".join(f"`{arm}`" for arm in grid["arms"])),
            ", ".join(f"{n:,}" for n in grid["n_facts"]),
            ", ".join(str(seed) for seed in grid["seeds"]),
            f"{grid['exposures'] or study.settings['exposures']:,}",
            ", ".join(f"{k} = {v}" for k, v in study.settings.get("base", {}).items())
            or "defaults",
        ]
        for study in studies
        for grid in study.settings["grid"]
    ]
    heads = ["study", "data", "arms", "facts", "seeds", "exposures", "other settings"]
    yield tables.markdown(heads, rows)


def _verdicts(studies: list[Published]) -> Iterator[str]:
    yield "## Verdicts"
    rows = [
        row
        for study in studies
        for row in tables.verdict_rows(study.name, study.decisions, study.rule)
    ]
    if not rows:
        yield "None yet: no study has both arms of its rule."
        return
    heads = ["study", "facts", "exposures", "seeds", "memorised, %", "d, points", "verdict"]
    heads += ["difference found in 80 %", "equal arms shown", "by the other score"]
    yield tables.markdown(heads, rows)
    yield """\
"Difference found in 80 %": a true difference of this many points is detected in 80 of 100 studies
with intervals of this width. "Equal arms shown": the share of such studies whose verdict is "not
reproduced" if the arms are equal."""
    never = [
        f"{one['n_facts']:,} ({study.name})"
        for study in studies
        for one in study.decisions
        if tables.could_find(one, study.rule)[1] == "never"
    ]
    if never:
        yield f"""\
**The verdict "not reproduced" is impossible with {", ".join(never)} facts**: the interval is wider
than the band for every d. "Inconclusive" then does not say whether the arms are equal."""
    notes = [
        f"- {study.name}, {one['n_facts']:,} facts: {one['note']}."
        for study in studies
        for one in study.decisions
        if one["note"]
    ]
    if notes:
        yield "\n".join(notes)


def _results(studies: list[Published]) -> Iterator[str]:
    for study in studies:
        scores, runs = study.table("scores"), study.runs
        differences = study.table("differences")
        for n_facts, exposures, here in cells(scores):
            yield f"## {n_facts:,} facts, {exposures:,} exposures ({study.name})"
            yield tables.arm_table(here, at_cell(runs, n_facts, exposures))
            yield "By the place of the answer in its fact:"
            yield tables.position_table(here, study.rule)
            paired = at_cell(differences, n_facts, exposures)
            if len(paired):
                yield f"Differences, `{study.rule.score}` in points, p of a sign test over facts:"
                yield tables.difference_table(paired, study.rule)
        files = [f"{name}.csv" for name in TABLES]
        links = ", ".join(f"[{file}]({_link(study, file)})" for file in (*files, VERDICTS))
        yield f"All numbers of {study.name}: {links}."
        for name in FIGURES:
            if (study.folder / name).is_file():
                yield f"![{study.name}, {name.removesuffix('.png')}]({_link(study, name)})"


def _ensembles(studies: list[Published]) -> Iterator[str]:
    for study in studies:
        if not (study.folder / f"{ENSEMBLES}.csv").is_file():
            continue
        yield f"## Several models with a router ({study.name})"
        yield """\
The facts of one run are divided by topic (TF-IDF, Gaussian mixture). Each model is trained on its
share with the settings of the single model. A linear classifier sends each question to the
likeliest model, or to the single one if it seems to be about no cluster. Scores are `match_norm` on
`cloze_question`, percent. There is one seed, so small differences mean nothing."""
        heads = ["ensemble", "questions", "routed", "routed perfectly", "one model of all facts"]
        heads += ["sent to the right model, %", "facts outside accepted, %"]
        rows = [
            [
                *(one["ensemble"], f"{one['n']:,}"),
                *(f"{one[f'match_norm{which}']:.1f}" for which in ("", "_oracle", "_single")),
                f"{one['routed_right']:.1f}",
                f"{one['accepted_outside']:.1f} of {one['n_outside']:,}",
            ]
            for one in study.table(ENSEMBLES).to_dict("records")
        ]
        yield tables.markdown(heads, rows)


def _geometry(studies: list[Published]) -> Iterator[str]:
    for study in studies:
        if (study.folder / GEOMETRY_TEXT).is_file():
            opening, _, rest = read_text(study.folder / GEOMETRY_TEXT).rstrip().partition("\n")
            yield f"{opening} ({study.name})\n{rest}"


def _runs(studies: list[Published]) -> Iterator[str]:
    yield "## Every run"
    yield """\
`lessons` is the fingerprint of the stream of examples: equal for two arms that saw the same
examples in the same order. `labelled tokens` have a loss; `final loss` is in nats per token, mean
since the previous record."""
    for study in studies:
        runs, asked = study.runs, study.table("asked")
        several, alike = tables.same_lessons(runs)
        yield f"""\
{study.name}: {alike} of {several} groups of runs of equal facts, seed and objective saw the same
lessons in the same order."""
        yield tables.run_table(runs, study.rule)
        left = asked[asked["left_out"] > 0] if len(asked) else asked
        if len(left):
            counts = left.drop_duplicates(["n_facts", "form", "reasons"])
            told = [
                f"`{one['form']}` of {one['n_facts']:,} facts {one['left_out']} ({one['reasons']})"
                for one in counts.to_dict("records")
            ]
            yield "Not asked, because the form does not allow it: " + "; ".join(told) + "."
    yield """\
Seconds are those of the training, with one thread per run and several runs at a time: use them for
planning, not to compare the speed of arms."""


def _limits(studies: list[Published]) -> Iterator[str]:
    yield "## What it cannot say"
    yield """\
- The networks know nothing but these facts. The published models were pretrained and far larger:
  this study does not show whether reading both ways helps a model that already knows English.
- Only facts with a short answer that stands in the fact letter by letter were chosen.
- A verdict holds for its number of facts and exposures and for this size of network. Speed of
  learning is not compared: arms that have not memorised their facts get no verdict.
- Most answers stand in the front half of their fact: numbers for the back half rest on few facts.
- "Not reproduced" says that a difference beyond the margin is unlikely. "Inconclusive" says that
  these runs cannot tell. The table of verdicts shows which of the two is possible."""
    lone = [
        f"{one['n_facts']:,} facts ({study.name})"
        for study in studies
        for one in study.decisions
        if one["seeds"] == 1
    ]
    if lone:
        yield f"""\
**Intervals are over facts, not seeds.** At {", ".join(lone)} both arms have one seed. The interval
does not contain the effect of other initial weights or another order of examples, which can be
large if learning is slow."""


def _link(study: Published, file: str) -> str:
    return f"{study.folder.parent.name}/{study.name}/{file}"


# In the order of the page; each gets every study that is published.
SECTIONS: tuple[Callable[[list[Published]], Iterator[str]], ...] = (
    _opening,
    _verdicts,
    _limits,
    _method,
    _settings,
    _results,
    _ensembles,
    _geometry,
    _runs,
)


def main() -> None:
    """Publish the study that the command line names, and print the page's path."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("report", type=Path, help="folder of all published studies")
    given = parser.parse_args()
    with endings_in_one_line():
        print(publish(given.study, given.report))


if __name__ == "__main__":
    main()
