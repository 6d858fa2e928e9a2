"""The command that runs the controlled experiment on injected facts."""

import os
from pathlib import Path

from tightframe.commands.console import Assignments, Json, Names, Numbers, done, say
from tightframe.errors import UserError


def study(
    config: Path | None = None,
    /,
    *,
    data: Path | None = None,
    out: Path,
    arms: Names = None,
    n_facts: Numbers = None,
    seeds: Numbers = None,
    exposures: int | None = None,
    batch_tokens: int | None = None,
    set_: Assignments = None,
    workers: int | None = None,
    json: Json = False,
) -> None:
    """Inject facts into several arms, ask for them, and decide by a rule fixed before.

    An arm is a way of reading and what it learns, see `tightframe knowledge
    inject --help`: by default the same network on the same examples, left to
    right (clm_sp) and both ways (bilm_sp). Every arm, number of facts and seed is
    a run of its own. What is finished is kept, so that the same command goes on
    after an interruption.

    Parameters
    ----------
    config
        The study's settings (TOML); see configs/knowledge-study.toml.
    data
        Facts with questions, in any format; wikidyk/dev.jsonl in TIGHTFRAME_DATA otherwise.
    out
        The study's folder.
    arms
        Instead of the file's grid, e.g. clm_sp,bilm_sp; ARM_reordered learns reordered facts.
    n_facts
        Instead of the file's grid, e.g. 80,200: the first so many.
    seeds
        Instead of the file's grid, e.g. 0,1,2.
    exposures
        How often each fact is shown.
    batch_tokens
        Tokens in a step, padding included, instead of 16 lessons. Arms that take as many tokens
        for a lesson (clm_sp and bilm_sp do) still see the same batches.
    set_
        key=value, a setting of the study or of every injection, e.g. width=64.
    workers
        Runs at a time; by default as many as there are cores, one on a GPU.
    json
        Print one JSON object on standard output.
    """
    from tightframe.jobs.knowledge_study import run_study, study_settings
    from tightframe.knowledge.intervals import power
    from tightframe.settings import overrides

    given = {"arms": arms, "n_facts": n_facts, "seeds": seeds, "exposures": exposures}
    given |= {"batch_tokens": batch_tokens}
    values = overrides(set_ or ()) | {k: value for k, value in given.items() if value is not None}
    facts = data if data is not None else _default_data()
    settings = study_settings(config, values)
    found = run_study(settings, facts, out, workers=workers, say=say)
    verdicts = [decision.to_dict() for decision in found.decisions]
    lines = []
    for one in found.decisions:
        could = power(
            one.low, one.high, one.n, level=settings.rule.level, margin=settings.rule.margin
        )
        interval = f" [{one.low:.1f}, {one.high:.1f}]" if one.low == one.low else ""
        lines.append(
            f"{one.first} less {one.second}: {one.d:+.1f}{interval} points: {one.verdict}"
            + (f" ({one.note})" if one.note else "")
        )
        if could.detectable == could.detectable:
            lines.append(
                f"  a difference of {could.detectable:.1f} points would be found in 80 %, equal "
                f"arms in {100 * could.none:.0f} % of such studies"
            )
    lines.append(f"{out}: written")
    done("\n".join(lines), json, out=str(out), verdicts=verdicts)


def _default_data() -> Path:
    path = Path(os.environ.get("TIGHTFRAME_DATA", "data")) / "wikidyk" / "dev.jsonl"
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; name facts with --data, or the folder of the development data "
            "with TIGHTFRAME_DATA (docs/data.md says where to get it)"
        )
    return path
