"""Answers of the runs of a study: every form of its arm, and the entries of both directions."""

from typing import Any, cast

from tightframe.knowledge.answers import write_answers
from tightframe.knowledge.asking import left_out, prompts
from tightframe.knowledge.clozes import with_reordered
from tightframe.knowledge.data_files import write_records
from tightframe.knowledge.directions import entry_distances
from tightframe.knowledge.facts import facts_fingerprint
from tightframe.knowledge.options import DIRECTIONS, QuestionForm
from tightframe.knowledge.qa_models import QAModel
from tightframe.knowledge.ranking import RANKED, Ranks, rank_questions
from tightframe.knowledge.study import BACKWARDS, ENTRIES, FactEntries, StudyRun, forms_of

TYPE = "reliability"  # the question that every fact has


def ask_run(run: StudyRun, model: QAModel) -> dict[str, dict[str, Any]]:
    """Ask a run in every form of its arm; return what was asked, and left out by reason."""
    counts = {form: _ask(run, model, form) for form in forms_of(run.about["arm"])}
    _compare_entries(run, model)
    return counts


def _compare_entries(run: StudyRun, model: QAModel) -> None:
    """Compare the entries of each fact that is asked in both directions, if there are any."""
    from tightframe.knowledge.networks import Network  # imports torch

    asked = [
        {one.fact_id: one.prompt for one in prompts(run.facts, cast("QuestionForm", k))}
        for k in DIRECTIONS
    ]
    both = [id_ for id_ in asked[0] if id_ in asked[1]]
    if len(both) < 2 or not isinstance(model, Network):
        return
    embeddings = [model.answer_embeddings([of[id_] for id_ in both]).numpy() for of in asked]
    distances = zip(both, *(one.tolist() for one in entry_distances(*embeddings)), strict=True)
    write_records(run.path / ENTRIES, (vars(FactEntries(*one)) for one in distances))


def _ask(run: StudyRun, model: QAModel, form: str) -> dict[str, Any]:
    """Ask in a form, unless that is done; return how much was asked, and left out by reason."""
    reordered = form == BACKWARDS
    facts = with_reordered(run.facts) if reordered else run.facts
    # Ranked are the answers to the cloze question.
    named = {RANKED: "cloze_question", BACKWARDS: "left_context"}.get(form, form)
    options: dict[str, Any] = {"types": (TYPE,), "reordered": reordered}
    asked = prompts(facts, cast("QuestionForm", named), **options)
    excluded = left_out(facts, cast("QuestionForm", named), **options)
    counts = {"asked": len(asked), "left_out": excluded}
    if not asked or run.answered(form):
        return counts
    file, trained_on = run.file(form), facts_fingerprint(run.facts)
    for half in (file, file.with_suffix(".json")):  # what a kill left between the two files
        half.unlink(missing_ok=True)
    if form == RANKED:
        ranks = rank_questions(model, run.facts)
        Ranks(tuple(ranks), model.name, trained_on).save(file)
    else:
        write_answers(file, model, asked, trained_on=trained_on)
    return counts
