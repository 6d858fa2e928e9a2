"""Scores of one arm on a benchmark: tables for people, rows and files for other programs.

results.jsonl     rows (tightframe.results)
scores.csv        one line per group of questions, with intervals
differences.csv   one line per group and score, against another arm or the base model
scores.json       both tables
scores.md         both tables, to read
"""

import dataclasses
import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from tightframe.errors import UserError
from tightframe.files import fingerprint, strict_json, whole_folder, write_text
from tightframe.knowledge.data_files import read_records
from tightframe.knowledge.facts import Fact, FactSet, Output
from tightframe.knowledge.intervals import RESAMPLES
from tightframe.knowledge.options import ScoreOptions
from tightframe.knowledge.scores import (
    PERCENT,
    WORDS,
    ArmComparison,
    ScoreGroup,
    average,
    compare,
    score_outputs,
)
from tightframe.results import Header, ResultTable, Row, write_csv, write_rows

if TYPE_CHECKING:
    import pandas as pd

NAME = "answers.jsonl"  # of the outputs in a run directory
FORMS = "answers"  # its folder of outputs by form of asking
DECIMALS = 1
ENDS = ("", "_low", "_high")  # of the columns of a score: its value, and its interval
# Outputs of the runs of one arm (its seeds): a file, several files, the outputs of one run, or the
# outputs of each run by name.
Arm: TypeAlias = (
    str | Path | Sequence[str | Path] | Sequence[Output] | Mapping[str, Sequence[Output]]
)


@dataclasses.dataclass(frozen=True, repr=False)
class Scores(ResultTable):
    """Scores of the outputs of one arm on a benchmark, with 95 % intervals over facts."""

    header: Header
    rows: list[Row]
    scores: list[dict[str, Any]]  # one record per group of questions, see `score_table`
    differences: list[dict[str, Any]]  # one record per group and score, see `difference_table`

    @property
    def one_line(self) -> str:
        """Name of the arm, number of questions, and the share of right answers."""
        first = self.scores[0]
        cell = _cell(*(first[f"match_norm{end}"] for end in ENDS))
        return f"{self.header.run}: match_norm {cell} % of {first['n']:,} questions"

    def to_pandas(self) -> "pd.DataFrame":
        """Return the scores as a table, one row per group of questions; NaN without interval."""
        import pandas as pd

        return pd.DataFrame(self.scores)

    def markdown(self) -> str:
        """Return the tables to read: percent with 95 % intervals, outputs in words."""
        missing = any(record["missing"] for record in self.scores)
        counts = ["n", "facts", *(["missing"] if missing else [])]
        run = _plain(self.header.run)
        lines = [f"Scores of {run} in percent, outputs in words [95 % interval over facts]", ""]
        lines += _head(["questions", *counts, WORDS, *PERCENT])
        for record in self.scores:
            cells = [record["group"], *(f"{record[name]:,}" for name in counts)]
            cells += [
                _cell(*(record[f"{name}{end}"] for end in ENDS)) for name in (WORDS, *PERCENT)
            ]
            lines.append(f"| {' | '.join(cells)} |")
        reasons = [f"- {one['group']}: {one['reason']}" for one in self.scores if one["reason"]]
        lines += ["", *reasons] if reasons else []
        for against in dict.fromkeys(record["against"] for record in self.differences):
            less = f"Less {_plain(against)}, in points: facts better and worse, p of their signs"
            lines += ["", less, ""]
            lines += _head(["questions", "score", "n", "difference", "better", "worse", "p"])
            for record in self.differences:
                if record["against"] == against:
                    cells = [record["group"], record["score"], f"{record['n']:,}"]
                    cells += [_cell(record["difference"], record["low"], record["high"], sign="+")]
                    cells += [f"{record['better']:,}", f"{record['worse']:,}"]
                    lines.append(f"| {' | '.join([*cells, format(record['p'], '.3g')])} |")
        return "\n".join(lines) + "\n"

    def write(self, out: Path) -> None:
        """Write all tables to a new folder, whole or not at all."""
        import pandas as pd

        with whole_folder(out) as folder:
            write_rows(folder / "results.jsonl", self.header, self.rows)
            write_csv(folder / "scores.csv", self.to_pandas())
            if self.differences:
                write_csv(folder / "differences.csv", pd.DataFrame(self.differences))
            tables = {"scores": self.scores, "differences": self.differences}
            content = strict_json({"run": self.header.run} | tables)
            text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
            write_text(folder / "scores.json", text)
            write_text(folder / "scores.md", self.markdown())


def score(
    outputs: Arm,
    facts: Sequence[Fact],
    options: ScoreOptions = ScoreOptions(),  # noqa: B008
    *,
    against: Arm = (),
    base: Arm = (),
) -> Scores:
    """Score the outputs of one arm on a benchmark, beside another arm and the base model.

    Args:
        outputs: Outputs of the arm, one file per run (its seeds), or the outputs themselves.
        facts: The benchmark.
        options: Divisions of the questions, and what to do about missing outputs.
        against: Outputs of another arm, on the same questions.
        base: Outputs of the model before injection; locality is the change against them.
    """
    path = facts.path if isinstance(facts, FactSet) else None
    if base and not any(q.type == "locality" for fact in facts for q in fact.questions):
        raise UserError(
            f"{path or 'the benchmark'}: has no locality questions to compare with the base model; "
            "leave out --base, or make some with `tightframe knowledge questions --known FILE`"
        )
    runs = _runs(outputs)
    run = _name(runs)
    ours = score_outputs(facts, runs, allow_missing=options.allow_missing)
    groups = average(ours, options.by, seed=options.seed)
    rows, differences = score_rows(run, groups), []
    others, before = _runs(against), _runs(base)
    if others:
        theirs = score_outputs(facts, others, allow_missing=options.allow_missing)
        compared = compare(ours, theirs, options.by, seed=options.seed)
        rows += difference_rows(f"{run} less {_name(others)}", compared, "difference")
        differences += difference_table(_name(others), compared)
    if before:
        theirs = score_outputs(
            facts, before, allow_missing=options.allow_missing, types=("locality",)
        )
        mine = ours[ours["type"] == "locality"].reset_index(drop=True)
        changes = compare(mine, theirs, options.by, seed=options.seed)
        rows += difference_rows(run, changes, "change")
        differences += difference_table(f"{_name(before)} (base model)", changes)
    asked = [(q.id, q.answers) for fact in facts for q in fact.questions]
    header = Header(
        run=run,
        step=0,
        model={"name": run},
        tokens={
            "name": path.stem if path else "facts",
            "fingerprint": fingerprint(asked),
            "questions": len(asked),
        },
        settings={},
        measurement={
            "outputs": [Path(name).name for name in runs],
            "against": [Path(name).name for name in others],
            "base": [Path(name).name for name in before],
            "decoding": _decoding(runs),
            "template": sorted({one.template for outputs in runs.values() for one in outputs}),
            "empty": [empty_answers(outputs) for outputs in runs.values()],
            "allow_missing": options.allow_missing,
            "by": list(options.by),
            "resamples": RESAMPLES,
            "seed": options.seed,
        },
    )
    return Scores(header, rows, score_table(groups), differences)


def score_rows(run: str, groups: Sequence[ScoreGroup]) -> list[Row]:
    """Return one row per group and score; excluded are questions without output, over all runs."""
    rows = []
    for group in groups:
        missing = f"{group.missing:,} without output" if group.missing else ""
        for name, mean in group.scores.items():
            row = _row(run, group.name, name, mean.value, mean.n, group.missing)
            reason = _joined((missing, mean.reason))
            rows.append(dataclasses.replace(row, low=mean.low, high=mean.high, reason=reason))
    return rows


def difference_rows(run: str, comparisons: Sequence[ArmComparison], suffix: str) -> list[Row]:
    """Return two rows per group and score: the difference, and the p-value of the sign test."""
    rows = []
    for group in comparisons:
        for score, (mean, signs) in group.scores.items():
            name = f"{score}_{suffix}"
            row = _row(run, group.name, name, mean.value, mean.n, group.left_out)
            rows.append(dataclasses.replace(row, low=mean.low, high=mean.high, reason=mean.reason))
            decided = signs.better + signs.worse
            row = _row(run, group.name, f"{name}_p", signs.p, decided, mean.n_facts - decided)
            reason = f"sign test over facts, {signs.better:,} better, {signs.worse:,} worse"
            rows.append(dataclasses.replace(row, resampled="", reason=reason))
    return rows


def score_table(groups: Sequence[ScoreGroup]) -> list[dict[str, Any]]:
    """Return one record per group: counts, then each score with the ends of its interval."""
    table = []
    for group in groups:
        first = group.scores[WORDS]
        record: dict[str, Any] = {"group": group.name, "n": first.n, "facts": first.n_facts}
        record["missing"] = group.missing
        for score in (WORDS, *PERCENT):
            mean = group.scores[score]
            record |= {f"{score}{end}": value for end, value in zip(ENDS, mean[:3], strict=True)}
        record["reason"] = _joined(mean.reason for mean in group.scores.values())
        table.append(record)
    return table


def difference_table(against: str, comparisons: Sequence[ArmComparison]) -> list[dict[str, Any]]:
    """Return one record per group and score: the difference, its interval and its sign test."""
    return [
        {
            "against": against,
            "group": group.name,
            "score": score,
            "difference": mean.value,
            "low": mean.low,
            "high": mean.high,
            "n": mean.n,
            "facts": mean.n_facts,
            "left_out": group.left_out,
            **signs._asdict(),
            "reason": mean.reason,
        }
        for group in comparisons
        for score, (mean, signs) in group.scores.items()
    ]


def _runs(arm: Arm) -> dict[str, list[Output]]:
    """Return the outputs of each run of an arm by its name."""
    if isinstance(arm, Mapping):
        return {name: list(outputs) for name, outputs in arm.items()}
    paths = [arm] if isinstance(arm, str | Path) else arm
    if any(isinstance(one, Output) for one in paths):
        return {"outputs": [one for one in paths if isinstance(one, Output)]}
    files = [Path(one) for one in paths if not isinstance(one, Output)]
    if len({path.resolve() for path in files}) < len(files):
        raise UserError(f"{files[0]} and others: a file stands twice; name each run's once")
    return {str(path): read_outputs(path) for path in files}


def _decoding(runs: Mapping[str, Sequence[Output]]) -> str:
    """Return how the tokens of an arm's answers were chosen; refuse answers of two kinds."""
    found = {output.decoding: path for path, outputs in runs.items() for output in outputs}
    if len(found) > 1:
        raise UserError(
            f"{found['paper']}: answers by --paper-decoding beside greedy ones of {found['greedy']}"
            " in one arm; score them apart, and compare them with --against"
        )
    return next(iter(found))


def _name(runs: Mapping[str, Sequence[Output]]) -> str:
    """Return the names of the runs' models; outputs of several models go by their file's name."""
    names = []
    for path, outputs in runs.items():
        models = {output.model for output in outputs}
        names.append(models.pop() if len(models) == 1 else Path(path).stem)
    return " + ".join(dict.fromkeys(names))


def _row(run: str, subset: str, metric: str, value: float, n: int, excluded: int) -> Row:
    """Return a row of questions, to which no step, layer or minimum number of samples applies."""
    about = {"run": run, "step": 0, "split": "questions", "layer": 0, "labels": "fact"}
    numbers = {"value": value, "n": n, "min_count": 1, "excluded": excluded}
    return Row(**about, subset=subset, metric=metric, **numbers, resampled="facts")  # type: ignore[arg-type]


def _joined(reasons: Iterable[str]) -> str:
    """Return each reason once, in their order."""
    return "; ".join(dict.fromkeys(filter(None, reasons)))


def _head(names: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]


def _cell(value: float, low: float, high: float, *, sign: str = "-") -> str:
    """Return a value with its interval, if it has one."""
    if math.isnan(value):
        return ""
    interval = f" [{low:.{DECIMALS}f}, {high:.{DECIMALS}f}]" if low < high else ""  # not NaN
    return f"{value:{sign}.{DECIMALS}f}{interval}"


def _plain(name: str) -> str:
    """Return a model's name on one line, without what Markdown would make of it."""
    return "`" + " ".join(name.replace("`", "'").split()) + "`"


def read_outputs(path: str | Path) -> list[Output]:
    """Read the outputs of a file, or of a run directory's answers.jsonl; name a broken line."""
    path = _file_of(Path(path))
    outputs: list[Output] = read_records(path, Output, what="an output, as models are answered")
    if not outputs:
        raise UserError(f"{path}: empty, expected one output per line; answer the questions first")
    return outputs


def empty_answers(outputs: Collection[Output]) -> str:
    """Return how many answers hold nothing, and what to do; nothing where each holds something."""
    n = sum(not output.text.strip() for output in outputs)
    if not n:
        return ""
    return (
        f"{n:,} of {len(outputs):,} answers are empty: the model ended at once; ask it in another "
        "form, e.g. by `tightframe knowledge answer --form left_context`"
    )


def _file_of(path: Path) -> Path:
    """Return the file of outputs that a path means; a run asked in other forms names them."""
    if not path.is_dir() or (path / NAME).is_file():
        return path / NAME if path.is_dir() else path
    asked = sorted(path.glob(f"{FORMS}/*.jsonl"))
    if not asked:
        raise UserError(
            f"{path}: holds no {NAME}; ask the model first, with `tightframe knowledge answer`"
        )
    raise UserError(
        f"{path}: holds answers in several forms of asking; name the file of one: "
        + ", ".join(map(str, asked))
    )
