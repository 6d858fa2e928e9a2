"""Do several small models with a router remember more than one model of all facts?

`python -m studies.ensembles.run STUDY` takes a finished run of a study, divides its
facts among K models by what they are about, trains each on its share with the run's own settings,
learns from the facts and from others of the same file which model a question belongs to, and joins
the answers. In STUDY:

    ensemble/semantic-K/            the joined answers and their report: what the page shows
    ensembles/semantic-K/           clusters, scope classifier, the runs of the models, and
                                    ensemble.toml, for `tightframe knowledge ask`
    ensembles/single.jsonl          what the model of all facts says to the same questions

The questions of facts that nobody was trained on are asked, too: how many are accepted all the
same. The model of all facts answers what is routed to no cluster.
"""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from tightframe.errors import UserError
from tightframe.jobs.programs import endings_in_one_line, say
from tightframe.knowledge.answers import Answers, load_answers, write_answers
from tightframe.knowledge.asking import prompts
from tightframe.knowledge.benchmark import load_benchmark
from tightframe.knowledge.clusters import (
    Clusters,
    facts_of,
    load_clusters,
    save_clusters,
    semantic_clusters,
)
from tightframe.knowledge.ensembles import assemble, save_ensemble
from tightframe.knowledge.facts import Fact, facts_fingerprint, study_eligible
from tightframe.knowledge.injection import inject, load_qa_model
from tightframe.knowledge.injection_runs import ENSEMBLE, InjectionRun
from tightframe.knowledge.model_handles import EnsembleSettings, write_ensemble
from tightframe.knowledge.options import QuestionForm
from tightframe.knowledge.routing import save_router, train_router
from tightframe.lm import hardware

FORM: QuestionForm = "cloze_question"
N_NEGATIVES = 1000  # facts that nobody was trained on, to learn what is out of scope
N_OUTSIDE = 300  # more of them, to ask about

Say = Callable[[str], None]


def run_ensembles(study: Path, *, run: str, ks: Sequence[int], say: Say) -> list[Path]:
    """Make and judge an ensemble of each size; what is there already is kept.

    Args:
        study: The folder of a study.
        run: The name of the run whose facts are divided, and whose settings the models take.
        ks: Numbers of models.
        say: Gets a line for every step.
    """
    single = InjectionRun.open(study / "runs" / run)
    if not single.finished:
        raise UserError(f"{single.path}: is not finished; run `tightframe knowledge study` first")
    negatives, outside = _others(single)
    asked = (*single.injected, *outside)
    work = study / "ensembles"
    fallback = _answered(single, asked, work / "single.jsonl")
    made = []
    for k in ks:
        folder, name = study / "ensemble" / f"semantic-{k}", f"semantic-{k}"
        if not folder.exists():
            clusters = _divided(single, k, work / name / "clusters")
            answers = [
                _answered(
                    _trained(single, work / name, cluster),
                    asked,
                    work / name / f"answers-{cluster}.jsonl",
                )
                for cluster in range(k)
            ]
            trained = train_router(clusters, negatives, outside)
            if not (work / name / "router").exists():
                save_router(work / name / "router", trained)
            _write_manifest(work / name, k, single)
            found = assemble(trained.routings, clusters, answers, fallback)
            report = {"rule": "most-probable", "threshold": trained.router.threshold} | found.report
            save_ensemble(folder, found._replace(report=report))
            say(
                f"{name}: match_norm {report['score']:.1f}, routed perfectly "
                f"{report['oracle_score']:.1f}, over {report['n_scored']:,} questions"
            )
        made.append(folder)
    return made


def _others(single: InjectionRun) -> tuple[list[Fact], list[Fact]]:
    """Facts that were not injected: to learn what is out of scope, and to ask about."""
    injected = {fact.id for fact in single.injected}
    facts = load_benchmark(single.settings.data)
    others = [fact for fact in facts if fact.id not in injected and study_eligible(fact)]
    n_negatives = min(N_NEGATIVES, len(others) * 3 // 4)
    if n_negatives < 1:
        raise UserError(
            f"{single.settings.data}: all of its study-eligible facts are injected; a router needs "
            "others, to learn what is out of scope"
        )
    return others[:n_negatives], others[n_negatives : n_negatives + N_OUTSIDE]


def _divided(single: InjectionRun, k: int, folder: Path) -> Clusters:
    if not folder.exists():
        save_clusters(folder, semantic_clusters(single.injected, k))
    return load_clusters(folder)


def _trained(single: InjectionRun, folder: Path, cluster: int) -> InjectionRun:
    """The model of one cluster, with the settings of the model of all facts."""
    return inject(
        dataclasses.replace(
            single.settings,
            data=facts_of(folder / "clusters", cluster),
            out=folder / f"run-{cluster}",
            select="all",
            skip=0,
            n_facts=0,
            balance_position=False,
            checkpoints=(),
        )
    )


def _write_manifest(folder: Path, k: int, single: InjectionRun) -> None:
    """What `tightframe knowledge ask` needs to put a question to the ensemble."""
    if not (folder / ENSEMBLE).exists():
        runs = tuple(folder / f"run-{cluster}" for cluster in range(k))
        write_ensemble(folder, EnsembleSettings(folder / "router", runs, str(single.path)))


def _answered(run: InjectionRun, facts: Sequence[Fact], path: Path) -> Answers:
    """What a model says to the cloze questions of all facts; a file that is there is kept."""
    if not path.with_suffix(".json").exists():
        path.unlink(missing_ok=True)  # what a kill left between the two files
        with hardware.prepared(run.settings.threads):
            learner = load_qa_model(run.path, device=run.settings.device)
            trained_on = facts_fingerprint(run.injected)
            write_answers(path, learner, prompts(facts, FORM), trained_on=trained_on)
    return load_answers(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, run, and print where the ensembles are."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--run", default="bilm_sp-n200-s0")
    parser.add_argument("--k", type=int, nargs="+", default=[3, 5])
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with endings_in_one_line():
        made = run_ensembles(options.study, run=options.run, ks=options.k, say=say)
    for folder in made:
        print(folder)


if __name__ == "__main__":
    main()
