"""The controlled experiment on injected facts: arms that differ in one thing, a fixed decision.

Beside what `knowledge.study` describes, a study's folder holds `plan/<run>.toml` (the settings of a
run), `logs/<run>.txt` (what it printed) and `reordered.jsonl` (the facts, where an arm learns them
with the answer last). A run is a process of its own with one thread: threads decide the bits of a
run, and many small networks train fastest side by side. It both injects and asks, since starting a
process costs more than the asking:

    python -m tightframe.jobs.knowledge_study PLAN.toml
"""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pydantic
from pydantic import NonNegativeInt, PositiveInt

from tightframe.errors import UserError, nearest
from tightframe.files import check_writable, exclusive
from tightframe.jobs import slurm
from tightframe.jobs.executors import Job, check_done, check_workers, cores, run_and_say
from tightframe.jobs.programs import endings_in_one_line
from tightframe.knowledge.benchmark import load_benchmark, write_facts
from tightframe.knowledge.clozes import with_reordered
from tightframe.knowledge.data_files import write_report
from tightframe.knowledge.decisions import DecisionRule
from tightframe.knowledge.facts import Fact, facts_fingerprint
from tightframe.knowledge.injection_runs import InjectOptions, check_network, choose_facts
from tightframe.knowledge.intervals import detectable
from tightframe.knowledge.qa_models import ARMS
from tightframe.knowledge.study import (
    ANSWERS,
    ASKED,
    REORDERED,
    RESULTS,
    RUNS,
    SETTINGS,
    StudyResults,
    StudyRun,
    collect,
)
from tightframe.knowledge.study_answers import ask_run
from tightframe.leases import held_by
from tightframe.lm.runs import may_have_gpu
from tightframe.settings import as_dict, read_toml, resolve, write_toml

if TYPE_CHECKING:
    pass

# Settings of an injection that the grid decides, or the study itself.
DECIDED = ("data", "out", "arm", "reordered", "n_facts", "balance_position", "exposures", "seed")
WITH_REORDERED = "reordered.jsonl"  # the facts, each with its answer at the end besides
TYPE = "reliability"  # the question that every fact has
GRID = ("arms", "n_facts", "seeds")  # settings that stand for a whole grid

_strict = pydantic.ConfigDict(extra="forbid")


@pydantic.dataclasses.dataclass(frozen=True, config=_strict)
class Grid:
    """Runs of every arm, number of facts and seed that it names."""

    arms: tuple[str, ...] = ("clm_sp", "bilm_sp")  # "<arm>_reordered" learns reordered facts
    n_facts: tuple[PositiveInt, ...] = (80, 200)
    seeds: tuple[NonNegativeInt, ...] = (0, 1, 2)  # of the weights and the order of lessons
    exposures: NonNegativeInt = 0  # of a fact; 0: those of the study


@pydantic.dataclasses.dataclass(frozen=True, config=_strict)
class StudySettings:
    """Settings of a study: its runs, what they share, and how they are judged."""

    grid: tuple[Grid, ...] = (Grid(),)
    exposures: PositiveInt = 500  # how often each fact is shown
    balance_position: bool = False  # as many answers in the back half of their fact as in the front
    base: dict[str, Any] = dataclasses.field(default_factory=dict)  # injection of every run
    rule: DecisionRule = dataclasses.field(default_factory=DecisionRule)


@dataclasses.dataclass(frozen=True)
class PlannedInjection:
    """A run of a study, before it is made or after."""

    name: str
    plan: Path  # the settings of its injection, a TOML file
    log: Path
    settings: InjectOptions

    @property
    def state(self) -> Literal["finished", "running", "started", "waiting"]:
        """State of the run; finished means injected, and asked in every form."""
        run = StudyRun(self.settings.out)
        begun = (run.path / "config.toml").exists()
        if begun and run.finished:
            return "finished"
        return "running" if self.holder else "started" if begun else "waiting"

    @property
    def holder(self) -> str:
        """The process that makes the run; "" if there is none."""
        return held_by(self.settings.out) or held_by(self.settings.out / ANSWERS)

    @property
    def job(self) -> Job:
        """The command that makes the run."""
        command = [sys.executable, "-m", "tightframe.jobs.knowledge_study", str(self.plan)]
        return Job(self.name, command, self.log)

    @property
    def arm(self) -> str:
        """Name of the arm, as the rule calls it."""
        return self.settings.arm + (REORDERED if self.settings.reordered else "")

    @property
    def n_facts(self) -> int:
        """Number of facts."""
        return self.settings.n_facts

    @property
    def seed(self) -> int:
        """Seed of the weights and of the order."""
        return self.settings.seed

    @property
    def lessons(self) -> int:
        """Number of examples that the network is shown; the time goes with it."""
        return self.settings.n_facts * self.settings.exposures


@dataclasses.dataclass(frozen=True)
class Plan:
    """All runs of a study, before they are made."""

    out: Path
    settings: dict[str, Any]  # content of `study.toml`
    facts: list[Fact]
    runs: list[PlannedInjection]  # the longest first
    rule: DecisionRule

    @property
    def detectable(self) -> list[str]:
        """Smallest detectable differences, one line for each pair of arms and number of facts."""
        runs = {(one.arm, one.n_facts, one.seed) for one in self.runs}
        judged, margin, lines = len(self.rule.judged), self.rule.margin, []
        for n_facts in sorted({n for _, n, _ in runs if n > 1}):
            for pair in self.rule.compared:
                of_arm = ({seed for a, n, seed in runs if (a, n) == (arm, n_facts)} for arm in pair)
                if not (seeds := set.intersection(*of_arm)):
                    continue
                found = detectable(n_facts, len(seeds), comparisons=judged, level=self.rule.level)
                can = "" if found <= margin else f"; it cannot detect its margin of {margin:g}"
                lines.append(
                    f"{pair[0]} less {pair[1]}, {n_facts:,} facts x {len(seeds)} seeds: finds a "
                    f"difference of {found:.1f} points in 80 %{can}"
                )
        return lines

    @property
    def threads(self) -> int:
        """Threads of the run that takes the most."""
        return max(run.settings.threads or cores() for run in self.runs)

    @property
    def environment(self) -> dict[str, str]:
        """Variables of the processes that make the runs."""
        return {"OMP_NUM_THREADS": str(self.threads)}

    def write(self) -> None:
        """Write settings and rule, once, then the settings of each unfinished run."""
        if not (self.out / SETTINGS).exists():
            write_toml(self.out / SETTINGS, self.settings)
        if any(run.settings.reordered for run in self.runs):
            write_facts(self.out / WITH_REORDERED, with_reordered(self.facts))
        for run in self.runs:
            if run.state != "finished":
                write_toml(run.plan, as_dict(run.settings))


def study_settings(config: Path | None, values: Mapping[str, Any]) -> StudySettings:
    """Return the settings of a file, with others in their place.

    Args:
        config: A TOML file of `StudySettings`; None: the defaults.
        values: Settings of the study, of an injection (they go to `base`), or `GRID`: what is
            given of these replaces the file's grid by a single one.
    """
    told = read_toml(config) if config is not None else {}
    ours = {field.name for field in dataclasses.fields(StudySettings)}
    base = {key: value for key, value in values.items() if key not in (*ours, *GRID)}
    if grid := {key: values[key] for key in GRID if key in values}:
        told = told | {"grid": [grid]}
    told = told | {key: value for key, value in values.items() if key in ours}
    if base or "base" in told:
        told = told | {"base": told.get("base", {}) | base}
    source = str(config) if config is not None else "settings"
    settings = resolve(StudySettings, told, source=source)
    for name in settings.base:
        if name in DECIDED:
            raise UserError(f"{source}: base sets {name}, which grid or study decide; leave it out")
    return settings


def plan(settings: StudySettings, data: Path, out: Path) -> Plan:
    """Check everything that can be checked before a run; nothing is written.

    Args:
        settings: Of the study. A folder that belongs to other settings is refused.
        data: Facts with questions, in any format.
        out: The study's folder.
    """
    planned = {run.name: run for run in _planned(settings, data, out)}
    wanted = sum(len(g.arms) * len(g.n_facts) * len(g.seeds) for g in settings.grid)
    if wanted == 0:
        raise UserError("grid: names no run; give arms, n_facts and seeds")
    if len(planned) < wanted:
        raise UserError(
            f"grid: names {wanted} runs, but only {len(planned)} different ones; name each once"
        )
    facts = load_benchmark(data)
    for run in {run.settings.n_facts: run for run in planned.values()}.values():
        choose_facts(facts, run.settings)
    recorded = as_dict(settings) | {"data": data.name, "facts": facts_fingerprint(facts)}
    _refuse_other(out / SETTINGS, recorded)
    check_writable(out)
    for run in planned.values():
        check_network(run.settings)
    runs = sorted(planned.values(), key=lambda run: -run.lessons)
    return Plan(out, recorded, facts, runs, settings.rule)


def run_study(
    settings: StudySettings,
    data: Path,
    out: Path,
    *,
    workers: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> StudyResults:
    """Run the unfinished runs of a study, then collect the results.

    Args:
        settings: Settings of the study.
        data: Facts with questions.
        out: The study's folder.
        workers: Maximum number of runs at a time; by default as many as have a core for each of
            their threads, and one on a GPU.
        say: Gets a line for every run that starts, ends or fails.

    Raises:
        PartlyDoneError: Some runs failed, or others are at work on them; the rest is collected.
    """
    check_workers(workers)
    planned = plan(settings, data, out)
    for line in planned.detectable:
        say(line)
    planned.write()
    runs = planned.runs
    left = [run for run in runs if run.state != "finished"]
    if len(left) < len(runs):
        say(f"{len(runs) - len(left)} of {len(runs)} runs are finished already")
    failed = run_and_say(
        [run.job for run in left],
        workers=workers or _workers(left, planned.threads),
        say=say,
        environment=planned.environment,
    )
    held = {run.name: run.holder for run in left if run.state == "running"}
    found = None
    if any(run.state == "finished" for run in runs):
        with exclusive(out / RESULTS, what="study's results"):
            found = collect(out)
    check_done(failed, n_runs=len(runs), held=held)
    assert found is not None
    return found


def submit_study(
    settings: StudySettings, data: Path, out: Path, options: slurm.SlurmOptions
) -> slurm.Array:
    """Write a Slurm array of the runs that are missing, and submit it unless it is a dry run.

    `run_study` collects the results once they are done.
    """
    planned = plan(settings, data, out)
    planned.write()
    jobs = [run.job for run in planned.runs if run.state in ("started", "waiting")]
    return slurm.submit(
        jobs, out, options, threads=planned.threads, environment=planned.environment
    )


def _planned(settings: StudySettings, data: Path, out: Path) -> Iterator[PlannedInjection]:
    for grid in settings.grid:
        for arm in grid.arms:
            _check_arm(arm)
        for n_facts in grid.n_facts:
            for arm in grid.arms:
                reordered = arm.endswith(REORDERED)
                for seed in grid.seeds:
                    name = f"{arm}-n{n_facts}-s{seed}"
                    if grid.exposures not in (0, settings.exposures):
                        name += f"-e{grid.exposures}"
                    values = {
                        **{"threads": 1, "select": "eligible"},
                        **settings.base,
                        "data": str(out / WITH_REORDERED if reordered else data),
                        "out": str(out / RUNS / name),
                        "arm": arm.removesuffix(REORDERED),
                        "reordered": reordered,
                        "n_facts": n_facts,
                        "balance_position": settings.balance_position,
                        "exposures": grid.exposures or settings.exposures,
                        "seed": seed,
                    }
                    of_run = resolve(InjectOptions, values, source="base")
                    files = out / "plan" / f"{name}.toml", out / "logs" / f"{name}.txt"
                    yield PlannedInjection(name, *files, of_run)


def _check_arm(arm: str) -> None:
    names = [one.name for one in ARMS]
    known = [*names, *(name + REORDERED for name in names)]
    if arm not in known:
        raise UserError(
            f"grid: unknown arm '{arm}'{nearest(arm, known)}; known: {', '.join(names)}, each with "
            f"{REORDERED} too"
        )


def _refuse_other(path: Path, settings: dict[str, Any]) -> None:
    if not path.exists():
        return
    recorded = read_toml(path)
    for name in settings:
        if recorded.get(name) != settings[name]:
            raise UserError(
                f"{path.parent}: belongs to a study with {name} = {recorded.get(name)}, not "
                f"{settings[name]}; choose another --out, or remove the folder"
            )


def _workers(runs: list[PlannedInjection], threads: int) -> int:
    """Return how many runs have a core for each of their threads; a GPU takes one at a time."""
    devices = {run.settings.device for run in runs}
    if "cuda" in devices or ("auto" in devices and _gpu_found()):
        return 1
    return max(1, cores() // threads)


def _gpu_found() -> bool:
    if not may_have_gpu():
        return False
    import torch

    return torch.cuda.is_available()


def run_one(settings: InjectOptions) -> StudyRun:
    """Inject and ask; a run that is finished is left as it is.

    Args:
        settings: Of the injection; their `out` is the run.
    """
    from tightframe.knowledge.injection import inject, load_qa_model
    from tightframe.lm import hardware

    run = StudyRun(inject(settings).path)
    if run.finished:
        return run
    settings = run.injection.settings  # what was "auto" is chosen
    with exclusive(run.path / ANSWERS, what="run"), hardware.prepared(settings.threads):
        model = load_qa_model(run.path, device=settings.device)
        counts = ask_run(run, model)
    write_report(run.path / ASKED, {"forms": counts})
    return run


def main(arguments: list[str]) -> None:
    """Run one plan."""
    (plan,) = arguments
    with endings_in_one_line():
        run_one(resolve(InjectOptions, read_toml(Path(plan)), source=plan))


if __name__ == "__main__":
    main(sys.argv[1:])
