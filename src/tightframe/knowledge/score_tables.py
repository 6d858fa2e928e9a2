"""Scores as files: rows for other programs, tables for people.

results.jsonl     rows (tightframe.results)
scores.csv        a line a group of questions, with intervals
differences.csv   a line a group and score, against another arm or the untouched model
scores.json       both tables
scores.md         both tables, to read
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tightframe.errors import UserError
from tightframe.files import fingerprint, whole_folder, write_text
from tightframe.knowledge.answers import empty_answers, read_outputs
from tightframe.knowledge.facts import Fact, Output
from tightframe.knowledge.intervals import RESAMPLES
from tightframe.knowledge.scores import (
    PERCENT,
    WORDS,
    ArmComparison,
    By,
    ScoreGroup,
    average,
    compare,
    score_outputs,
)
from tightframe.results import Header, Row, write_csv, write_rows

DECIMALS = 1
ENDS = ("", "_low", "_high")  # of the columns of a score: its value, and its interval


@dataclasses.dataclass(frozen=True)
class Report:
    """What the outputs of one arm score on a benchmark."""

    header: Header
    rows: list[Row]
    scores: list[dict[str, Any]]  # see `score_table`
    differences: list[dict[str, Any]]  # see `difference_table`

    def markdown(self) -> str:
        """The tables to read: percent with 95 % intervals, outputs in words."""
        return _markdown(self.header.run, self.scores, self.differences)

    def write(self, out: Path) -> None:
        """Write the folder whole or not at all; one that exists is refused."""
        with whole_folder(out) as folder:
            write_rows(folder / "results.jsonl", self.header, self.rows)
            write_csv(folder / "scores.csv", pd.DataFrame(self.scores))
            if self.differences:
                write_csv(folder / "differences.csv", pd.DataFrame(self.differences))
            tables = {"scores": _finite(self.scores), "differences": _finite(self.differences)}
            content = {"run": self.header.run} | tables
            text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
            write_text(folder / "scores.json", text)
            write_text(folder / "scores.md", self.markdown())


def score_report(
    facts: Sequence[Fact],
    data: Path,
    outputs: Sequence[Path],
    *,
    by: Sequence[By] = ("type",),
    against: Sequence[Path] = (),
    untouched: Sequence[Path] = (),
    allow_missing: bool = False,
    seed: int = 0,
) -> Report:
    """Score files of outputs on a benchmark, beside another arm and the untouched model.

    Args:
        facts: The benchmark.
        data: Its file, for the record.
        outputs: Of one arm, a file a run: its seeds.
        by: What to divide the questions by, beside the type.
        against: Outputs of another arm, on the same questions.
        untouched: Outputs of the model before injection; locality is the change against them.
        allow_missing: Leave out questions without output.
        seed: Of the resamples of facts.
    """
    if untouched and not any(q.type == "locality" for fact in facts for q in fact.questions):
        raise UserError(
            f"{data}: has no locality questions to compare with the untouched model; leave out "
            "--untouched, or make some with `tightframe knowledge questions --known FILE`"
        )
    runs = _read(outputs)
    run = _name(runs)
    ours = score_outputs(facts, runs, allow_missing=allow_missing)
    groups = average(ours, by, seed=seed)
    rows, differences = score_rows(run, groups), []
    if against:
        others = _read(against)
        theirs = score_outputs(facts, others, allow_missing=allow_missing)
        compared = compare(ours, theirs, by, seed=seed)
        rows += difference_rows(f"{run} less {_name(others)}", compared, "difference")
        differences += difference_table(_name(others), compared)
    if untouched:
        before = _read(untouched)
        only = ("locality",)
        theirs = score_outputs(facts, before, allow_missing=allow_missing, types=only)
        mine = ours[ours["type"] == "locality"].reset_index(drop=True)
        changes = compare(mine, theirs, by, seed=seed)
        rows += difference_rows(run, changes, "change")
        differences += difference_table(f"{_name(before)} (untouched)", changes)
    asked = [(q.id, q.answers) for fact in facts for q in fact.questions]
    header = Header(
        run=run,
        step=0,
        model={"name": run},
        tokens={"name": data.stem, "fingerprint": fingerprint(asked), "questions": len(asked)},
        settings={},
        measurement={
            "outputs": [path.name for path in outputs],
            "against": [path.name for path in against],
            "untouched": [path.name for path in untouched],
            "decoding": _decoding(runs),
            "template": sorted({one.template for said in runs.values() for one in said}),
            "empty": [empty_answers(said) for said in runs.values()],
            "allow_missing": allow_missing,
            "by": list(by),
            "resamples": RESAMPLES,
            "seed": seed,
        },
    )
    return Report(header, rows, score_table(groups), differences)


def score_rows(run: str, groups: Sequence[ScoreGroup]) -> list[Row]:
    """A row a group and score; left out are the questions without output, counted for each run."""
    rows = []
    for group in groups:
        missing = f"{group.missing:,} without output" if group.missing else ""
        for score, found in group.scores.items():
            row = _row(run, group.name, score, found.value, found.n, group.missing)
            reason = "; ".join(filter(None, (missing, found.reason)))
            rows.append(dataclasses.replace(row, low=found.low, high=found.high, reason=reason))
    return rows


def difference_rows(run: str, comparisons: Sequence[ArmComparison], suffix: str) -> list[Row]:
    """Two rows a group and score: the difference, and the p of the sign test."""
    rows = []
    for compared in comparisons:
        for score, (found, signs) in compared.scores.items():
            row = _row(
                run, compared.name, f"{score}_{suffix}", found.value, found.n, compared.left_out
            )
            rows.append(
                dataclasses.replace(row, low=found.low, high=found.high, reason=found.reason)
            )
            told = signs.better + signs.worse
            row = _row(
                run, compared.name, f"{score}_{suffix}_p", signs.p, told, found.n_facts - told
            )
            reason = f"sign test over facts, {signs.better:,} better, {signs.worse:,} worse"
            rows.append(dataclasses.replace(row, resampled="", reason=reason))
    return rows


def score_table(groups: Sequence[ScoreGroup]) -> list[dict[str, Any]]:
    """A record a group: counts, then each score with the ends of its interval."""
    table = []
    for group in groups:
        first = group.scores[WORDS]
        record: dict[str, Any] = {"group": group.name, "n": first.n, "facts": first.n_facts}
        record["missing"] = group.missing
        for score in (WORDS, *PERCENT):
            found = group.scores[score]
            record |= {f"{score}{end}": value for end, value in zip(ENDS, found[:3], strict=True)}
        record["reason"] = _reasons(found.reason for found in group.scores.values())
        table.append(record)
    return table


def difference_table(against: str, comparisons: Sequence[ArmComparison]) -> list[dict[str, Any]]:
    """A record a group and score."""
    return [
        {
            "against": against,
            "group": compared.name,
            "score": score,
            "difference": found.value,
            "low": found.low,
            "high": found.high,
            "n": found.n,
            "facts": found.n_facts,
            "left_out": compared.left_out,
            **signs._asdict(),
            "reason": found.reason,
        }
        for compared in comparisons
        for score, (found, signs) in compared.scores.items()
    ]


def _reasons(reasons: Iterable[str]) -> str:
    """Return each reason once, in their order."""
    return "; ".join(dict.fromkeys(filter(None, reasons)))


def _read(paths: Sequence[Path]) -> dict[str, list[Output]]:
    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError(f"{paths[0]} and others: a file stands twice; name each run's once")
    return {str(path): read_outputs(path) for path in paths}


def _decoding(runs: Mapping[str, Sequence[Output]]) -> str:
    """How the tokens of an arm's answers were chosen; answers of two kinds are refused."""
    found = {output.decoding: path for path, outputs in runs.items() for output in outputs}
    if len(found) > 1:
        raise UserError(
            f"{found['paper']}: answers by --paper-decoding beside greedy ones of {found['greedy']}"
            " in one arm; score them apart, and compare them with --against"
        )
    return next(iter(found))


def _name(runs: Mapping[str, Sequence[Output]]) -> str:
    """The models of the runs; that of outputs of several models is their file's name."""
    names = []
    for path, outputs in runs.items():
        models = {output.model for output in outputs}
        names.append(models.pop() if len(models) == 1 else Path(path).stem)
    return " + ".join(dict.fromkeys(names))


def _markdown(
    run: str, scores: Sequence[dict[str, Any]], differences: Sequence[dict[str, Any]]
) -> str:
    missing = any(record["missing"] for record in scores)
    counts = ["n", "facts", *(["missing"] if missing else [])]
    lines = [f"Scores of {_plain(run)} in percent, outputs in words [95 % interval over facts]", ""]
    lines += _header(["questions", *counts, WORDS, *PERCENT])
    for record in scores:
        cells = [record["group"], *(f"{record[name]:,}" for name in counts)]
        cells += [_cell(*(record[f"{name}{end}"] for end in ENDS)) for name in (WORDS, *PERCENT)]
        lines.append(f"| {' | '.join(cells)} |")
    told = [f"{one['group']}: {one['reason']}" for one in scores if one["reason"]]
    lines += ["", *(f"- {line}" for line in told)] if told else []
    for against in dict.fromkeys(record["against"] for record in differences):
        lines += [
            "",
            f"Less {_plain(against)}, in points: facts better and worse, p of their signs",
            "",
        ]
        lines += _header(["questions", "score", "n", "difference", "better", "worse", "p"])
        for record in differences:
            if record["against"] == against:
                cells = [record["group"], record["score"], f"{record['n']:,}"]
                cells += [_cell(record["difference"], record["low"], record["high"], sign="+")]
                cells += [f"{record['better']:,}", f"{record['worse']:,}", f"{record['p']:.3g}"]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _row(run: str, subset: str, metric: str, value: float, n: int, excluded: int) -> Row:
    """Of questions asked without a text: no step, layer or least number of samples applies."""
    return Row(
        run=run,
        step=0,
        split="questions",
        layer=0,
        labels="fact",
        subset=subset,
        metric=metric,
        value=value,
        n=n,
        min_count=1,
        excluded=excluded,
        resampled="facts",
    )


def _header(names: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]


def _cell(value: float, low: float, high: float, *, sign: str = "-") -> str:
    """A value with its interval, where there is one."""
    if math.isnan(value):
        return ""
    told = low < high  # not NaN
    interval = f" [{low:.{DECIMALS}f}, {high:.{DECIMALS}f}]" if told else ""
    return f"{value:{sign}.{DECIMALS}f}{interval}"


def _plain(name: str) -> str:
    """A model's name on one line, without what Markdown would make of it."""
    return "`" + " ".join(name.replace("`", "'").split()) + "`"


def _finite(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """NaN as null: JSON has no word for it."""
    return [
        {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in record.items()
        }
        for record in records
    ]
