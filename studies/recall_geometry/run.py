"""Does the geometry of facts tell which are recalled, and does injection move what should stay?

`python -m studies.recall_geometry.run STUDY` looks at every finished run of a study of facts
and writes into STUDY/results

    geometry.parquet        a line a run and fact: `tables.py`, and which run it is
    geometry.csv            what geometry adds to the model's own outputs: `recall.py`
    geometry.png            recall against geometry
    locality.csv            facts of a first training, before and after a second one on others
    locality-shift.csv      how far their embeddings have moved, beside two controls

For locality it trains two models for each span arm, in STUDY/locality: one on half of the facts of
the arm's smallest run, then the same one on the other half only. Finished ones are kept.
"""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from studies.recall_geometry.gain import PERMUTATIONS
from studies.recall_geometry.geometry import regressors
from studies.recall_geometry.locality import Shift, changes, half_split, shift_rows, shifts
from studies.recall_geometry.recall import recall_statistics
from studies.recall_geometry.section import FIGURE, draw
from studies.recall_geometry.tables import FactTable, fact_table
from tightframe.errors import UserError
from tightframe.files import whole_file
from tightframe.jobs.programs import endings_in_one_line, say
from tightframe.knowledge.benchmark import write_facts
from tightframe.knowledge.facts import Fact
from tightframe.knowledge.injection import inject, load_qa_model
from tightframe.knowledge.injection_runs import InjectionRun, InjectOptions
from tightframe.knowledge.networks import Network
from tightframe.report.figures import save
from tightframe.results import write_csv

RESULTS = "results"
LOCALITY = "locality"
ARMS = ("clm_sp", "bilm_sp")  # whose locality is looked at

Say = Callable[[str], None]


def run_recall_geometry(
    study: Path,
    *,
    permutations: int = PERMUTATIONS,
    train: bool = True,
    seed: int = 0,
    device: str = "cpu",
    say: Say,
) -> Path:
    """Measure the study's finished runs, then locality; returns the folder of results.

    Args:
        study: The folder of a study; its runs lie in `runs/`.
        permutations: For each p.
        train: Train the two models of each span arm that locality needs.
        seed: Of folds, permutations and resamples.
        device: Where models run.
        say: Gets a line for every step.
    """
    runs = span_runs(study, say)
    frames = []
    for run in runs:
        found = _measured(run, run.injected, device)
        frames.append(found.rows.assign(**_about(run)))
        say(f"{run.name}: {len(found.rows)} facts, {found.n_excluded} left out")
    table = pd.concat(frames, ignore_index=True)
    table = table[[*_about(runs[0]), *(name for name in table if name not in _about(runs[0]))]]
    results = study / RESULTS
    with whole_file(results / "geometry.parquet") as temporary:
        table.to_parquet(temporary, index=False)
    write_csv(
        results / "geometry.csv", recall_statistics(table, permutations=permutations, seed=seed)
    )
    save(draw(table), results / FIGURE)
    say(f"{results / 'geometry.csv'}: what geometry adds")
    if train:
        changed, moved = run_locality(study, runs, device=device, seed=seed, say=say)
        write_csv(results / "locality.csv", changed)
        write_csv(results / "locality-shift.csv", moved)
    return results


def span_runs(study: Path, say: Say) -> list[InjectionRun]:
    """The finished runs of our own networks that learnt by spans; others are named and left out."""
    found = []
    for path in sorted((study / "runs").glob("*/config.toml")):
        run = InjectionRun.open(path.parent)
        if not run.finished:
            say(f"{run.name}: is not finished, left out")
        elif run.facts["objective"] != "sp":
            say(f"{run.name}: has never seen a mask, so a fact is no class to it; left out")
        elif not run.settings.arm:
            say(f"{run.name}: is no network of ours, so its embeddings aren't looked at; left out")
        else:
            found.append(run)
    if not found:
        raise UserError(
            f"{study}: has no finished run of a span arm; run `tightframe knowledge study` first"
        )
    return found


def run_locality(
    study: Path, runs: Sequence[InjectionRun], *, device: str, seed: int, say: Say
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What a second training on other facts does to the facts of a first one.

    Controls: class means of half of a fact's masks against the other half in the first model
    (noise), and two of the study's runs that differ in nothing but their seed (unrelated models).
    """
    changed, moved = [], []
    for arm in ARMS:
        own = [run for run in runs if run.settings.arm == arm and not run.settings.reordered]
        if not own:
            continue
        smallest = min(own, key=lambda run: (len(run.injected), run.settings.seed))
        kept, first, second = train_halves(study, smallest)
        say(f"{arm}: {len(kept)} facts, then others; {second.path}")
        before, after = (_measured(run, kept, device) for run in (first, second))
        found = changes(_changing(before), _changing(after), seed=seed)
        about: dict[str, Any] = {"arm": arm, "n_kept": len(kept), "n_new": len(second.injected)}
        changed.append(found.assign(**about)[[*about, *found]])
        compared: dict[str, dict[str, Shift]] = {
            "before and after": shifts(before.embeddings, after.embeddings),
            "two halves of the masks": {"class means": half_split(before.embeddings)},
        }
        others = [run for run in own if _but_seed(run) == _but_seed(smallest)]
        if len(others) > 1:
            pair = [_measured(run, kept, device).embeddings for run in others[:2]]
            compared["two seeds"] = shifts(*pair)
        rows = shift_rows(compared)
        moved.append(rows.assign(arm=arm)[["arm", *rows]])
    if not changed:
        raise UserError(
            f"{study}: has no finished run of {' or '.join(ARMS)} to start from; go on with the "
            "study, or leave locality out with --no-locality"
        )
    return pd.concat(changed, ignore_index=True), pd.concat(moved, ignore_index=True)


def train_halves(
    study: Path, run: InjectionRun
) -> tuple[tuple[Fact, ...], InjectionRun, InjectionRun]:
    """A model of the first half of a run's facts, and the same one trained on the others since.

    Every second fact is of the first half. All other settings are the run's.
    """
    folder = study / LOCALITY / run.settings.arm
    halves = run.injected[::2], run.injected[1::2]
    trained: list[InjectionRun] = []
    for name, facts in zip(("first", "second"), halves, strict=True):
        data = folder / f"{name}.jsonl"
        write_facts(data, facts)
        settings: InjectOptions = dataclasses.replace(
            run.settings,
            data=data,
            out=folder / name,
            model=str(trained[0].path) if trained else "",
            select="all",
            skip=0,
            n_facts=0,
            balance_position=False,
            checkpoints=(),
        )
        trained.append(inject(settings))
    return halves[0], trained[0], trained[1]


def _measured(run: InjectionRun, facts: Sequence[Fact], device: str) -> FactTable:
    learner = load_qa_model(run.path, device=device)
    if not isinstance(learner, Network):
        raise UserError(f"{run.path}: is no network of ours; its embeddings can't be looked at")
    return fact_table(learner, facts, max_span=run.settings.max_span)


def _about(run: InjectionRun) -> dict[str, Any]:
    settings = run.settings
    arm = f"{settings.arm}_reordered" if settings.reordered else settings.arm
    about = {"arm": arm, "n_facts": len(run.injected), "exposures": settings.exposures}
    return about | {"seed": settings.seed, "run": run.name}


def _but_seed(run: InjectionRun) -> dict[str, Any]:
    return {name: value for name, value in _about(run).items() if name not in ("seed", "run")}


def _changing(table: FactTable) -> pd.DataFrame:
    """The columns of `locality.CHANGES`."""
    rows, entering = table.rows, regressors(table.rows)
    return pd.DataFrame(
        {
            "fact_id": rows["fact_id"],
            "recalled": 100.0 * rows["recalled"],
            "seen": 100.0 * rows["seen"],
            "log_probability": rows["log_probability"],
            "ln_cdnv_mean": entering["cdnv_mean"],
            "ln_rank": entering["rank"],
            "nearest": 100.0 * (rows["rank"] == 1),
        }
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, run, and print where the answer is."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--permutations", type=int, default=PERMUTATIONS)
    parser.add_argument("--no-locality", action="store_true", help="train nothing")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with endings_in_one_line():
        out = run_recall_geometry(
            options.study,
            permutations=options.permutations,
            train=not options.no_locality,
            device=options.device,
            say=say,
        )
    print(out)


if __name__ == "__main__":
    main()
