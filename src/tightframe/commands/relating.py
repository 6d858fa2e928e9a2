"""The command that relates geometry to generalization across models."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tightframe.analysis.options import RelateOptions, resolve_options, rules_of, with_rule
from tightframe.commands.console import Flag, Json, as_parameters, dumps, show
from tightframe.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from tightframe.analysis.relation import Relation

Table = Literal["lc-2024-05", "lc-2024-10"]
if TYPE_CHECKING:
    Options: TypeAlias = RelateOptions
else:
    Options = as_parameters(RelateOptions)
SHOWN = {
    "measure": "measure",
    "n": "n",
    "r": "r",
    "low": "low",
    "high": "high",
    "p": "p",
    "partial_r": "partial r",
    "partial_p": "partial p",
    "p_holm": "p Holm",
    "p_maxt": "p max-T",
    "within_r": "within runs",
    "gain_percent": "gain %",
    "verdict": "verdict",
}


def relate(
    *sources: Path,
    published: Table | None = None,
    table1: Flag = False,
    scores: Path | None = None,
    rule: Path | None = None,
    options: Options = Options(),  # noqa: B008
    out: Path | None = None,
    json: Json = False,
) -> None:
    """Relate measures of geometry to loss or scores across models, and say what holds.

    Parameters
    ----------
    sources
        Runs, sweeps or series with results, or tables with one row per model (.csv, .parquet).
    published
        The sources are this table of Wu & Papyan 2024 (or both tables), which is checked.
    table1
        Only the 21 rows of the published Table 1, and its columns.
    scores
        Scores of the models: results of lm-evaluation-harness, or a table with a column model.
    rule
        A TOML file whose table [relate] holds the options; those typed here come first. By default
        the file of the sweep, if it has such a table.
    out
        A new folder for the page (index.html), relation.json, relation.csv and the figures.
    json
        Print one JSON object on standard output.
    """
    from tightframe.analysis.relate import relate as relate_models

    options = resolve_options(options, {})
    rules = [rule] if rule is not None else rules_of(sources)
    if len(rules) > 1:
        raise UserError(f"{rules[0]} and {rules[1]} both hold a rule; choose one with --rule")
    if rules:
        options = with_rule(rules[0], options)
    relation = relate_models(
        list(sources), published=published or "", table1=table1, scores=scores, options=options
    )
    if out is not None:
        _write(relation, out)
    if json:
        show(dumps({"rows": _table1(relation)} if table1 else relation.to_dict()))
    else:
        show(_in_words(relation))


def _table1(relation: "Relation") -> list[dict[str, Any]]:
    columns = ["measure", "r2", "r", "p", "n", "p_plain", "p_holm", "p_bh"]
    return [dict(zip(columns, row, strict=True)) for row in relation.table[columns].to_numpy()]


def _in_words(relation: "Relation") -> str:
    """Return the relation for readers: what the design can find, the numbers, the verdicts."""
    options = relation.options
    lines = [
        f"{options.y} against {len(relation.table)} measures: {relation.n_rows} rows, "
        f"{relation.n_clusters} clusters; correlations from {relation.detectable:.2f} on are found "
        "with 80 % power"
    ]
    if relation.possible < 1000:
        lines.append(f"only {relation.possible:,} permutations are possible")
    if relation.collinear:
        lines.append(f"explained by other controls: {', '.join(relation.collinear)}")
    lines += ["", _text(relation.table), ""]
    for row in relation.table.itertuples():
        notes = "; ".join(filter(None, [str(row.flags), str(row.reason)]))
        lines += [f"{row.measure}: {notes}"] * bool(notes)
    if len(relation.strata):
        lines += ["", f"within {options.within}:", _frame(relation.strata)]
    lines += [f"left out: {one.what} ({one.why})" for one in relation.excluded[:10]]
    if len(relation.excluded) > 10:
        lines.append(f"left out: {len(relation.excluded) - 10} more; --json names all")
    return "\n".join([*lines, "", relation.conclusion, f"Decided before: rule {relation.digest}."])


def _text(table: "pd.DataFrame") -> str:
    known = [name for name in SHOWN if table[name].notna().any()]
    return _frame(table[known].rename(columns=SHOWN))


def _frame(table: "pd.DataFrame") -> str:
    return table.to_string(index=False, float_format=lambda value: f"{value:.3g}", na_rep="-")


def _write(relation: "Relation", out: Path) -> None:
    """Write the relation to a new folder, whole or not at all."""
    from tightframe.files import whole_folder, write_text
    from tightframe.report.relation_page import render_relation

    with whole_folder(out) as folder:
        (folder / "relation.json").write_text(dumps(relation.to_dict()) + "\n", "utf-8")
        relation.save(folder / "relation.csv")
        write_text(folder / "index.html", render_relation(relation, name=out.resolve().name))
        for name, figure in (
            ("relation", relation.plot()),
            ("scatter", relation.scatter()),
            ("scatter-log", relation.scatter(log=True)),
        ):
            figure.savefig(folder / f"{name}.png", dpi=150)
