"""One run of a study: inject the facts, then ask for them in every form; what is done is kept.

    python -m tightframe.jobs.knowledge_run PLAN.toml

The plan holds the settings of the injection. One process for all of it: starting one costs more
than the asking.
"""

import sys
from pathlib import Path
from typing import Any, cast

from tightframe.jobs.programs import endings_in_one_line
from tightframe.knowledge.answering import write_answers
from tightframe.knowledge.arm_tables import RANKED
from tightframe.knowledge.asking import Asking, left_out, prompts
from tightframe.knowledge.clozes import with_reordered
from tightframe.knowledge.clusters import facts_fingerprint
from tightframe.knowledge.facts import write_report
from tightframe.knowledge.injection import InjectSettings, inject, load_learner
from tightframe.knowledge.learners import Learner
from tightframe.knowledge.ranking import rank_questions, save_ranks
from tightframe.knowledge.study_runs import ASKED, BACKWARDS, StudyRun, forms_of
from tightframe.lm import hardware
from tightframe.settings import read_toml, resolve

TYPE = "reliability"  # the question that every fact has


def run_one(settings: InjectSettings) -> StudyRun:
    """Inject and ask; a run that is finished is left as it is.

    Args:
        settings: Of the injection; their `out` is the run.
    """
    run = StudyRun(inject(settings).path)
    if run.finished:
        return run
    settings = run.injection.settings  # what was "auto" is chosen
    with hardware.prepared(settings.threads):
        learner = load_learner(run.path, device=settings.device)
        asked = {form: _ask(run, learner, form) for form in forms_of(run.about["arm"])}
    write_report(run.path / ASKED, {"forms": asked})
    return run


def _ask(run: StudyRun, learner: Learner, form: str) -> dict[str, Any]:
    """Ask in a form, unless that is done; how many questions were asked, and left out by reason."""
    facts, reordered = run.facts, form == BACKWARDS
    trained_on = facts_fingerprint(facts)
    # Ranked are the answers to the cloze question.
    asking = {RANKED: "cloze_question", BACKWARDS: "left_context"}.get(form, form)
    how: dict[str, Any] = {"types": (TYPE,), "reordered": reordered}
    told = with_reordered(facts) if reordered else facts
    asked = prompts(told, cast("Asking", asking), **how)
    counts = {"asked": len(asked), "left_out": left_out(told, cast("Asking", asking), **how)}
    if not asked or run.answered(form):
        return counts
    file = run.file(form)
    for half in (file, file.with_suffix(".json")):  # what a kill left between the two files
        half.unlink(missing_ok=True)
    if form == RANKED:
        ranks = rank_questions(learner, facts)
        save_ranks(file, ranks, model=learner.name, trained_on=trained_on, seed=0)
    else:
        write_answers(file, learner, asked, trained_on=trained_on)
    return counts


def main(arguments: list[str]) -> None:
    """Run one plan."""
    (plan,) = arguments
    with endings_in_one_line():
        run_one(resolve(InjectSettings, read_toml(Path(plan)), source=plan))


if __name__ == "__main__":
    main(sys.argv[1:])
