"""Whom a typed question can be put to, from disk: the run of an injection, or an ensemble of runs.

An ensemble is a TOML file, or a folder with one called ensemble.toml, as `write_panel` makes it;
paths in it are as seen from its folder:

    scope = "scope"                          # a folder of `tightframe knowledge scope`
    runs = ["../runs/c0", "../runs/c1"]      # a run a cluster, in any order
    fallback = "../runs/all"                 # a run, or a model of transformers by folder or hub
                                             # name; may be left out, as may:
    rule = "most-probable"
    threshold = 0.5

Which run is of which cluster is told by the facts that were injected, never by a path.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pydantic
import torch

from tightframe.errors import UserError
from tightframe.knowledge.clusters import facts_fingerprint
from tightframe.knowledge.exchanges import Form, Objective
from tightframe.knowledge.injection_runs import ENSEMBLE, not_askable
from tightframe.knowledge.inquiry import Panel, Respondent
from tightframe.knowledge.learners import Learner
from tightframe.knowledge.routing import load_scoped
from tightframe.settings import read_toml, resolve, write_toml


@pydantic.dataclasses.dataclass(
    frozen=True, config=pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)
)
class EnsembleSettings:
    """What an ensemble is made of."""

    scope: Path  # a folder of `tightframe knowledge scope`
    runs: tuple[Path, ...]  # a run a cluster, in any order
    fallback: str = ""  # the run or model that answers what is about no cluster; "": none
    rule: Literal["most-probable", "lowest-index"] = "most-probable"
    threshold: float | None = None  # the scope's, if nothing is said


def open_model(path: str | Path, *, device: str = "auto") -> Respondent | Panel:
    """A run or an ensemble, whichever a path is; nothing is loaded that is not asked."""
    path = Path(path)
    if path.is_file():
        return open_panel(path, device=device)
    if (path / ENSEMBLE).is_file():
        return open_panel(path / ENSEMBLE, device=device)
    if (path / "config.toml").is_file():
        return open_respondent(path, device=device)
    raise not_askable(path)


def open_respondent(path: str | Path, *, device: str = "auto") -> Respondent:
    """The model of an injection run."""
    from tightframe.knowledge.injection import InjectionRun, load_learner
    from tightframe.knowledge.networks import ABOUT

    run = InjectionRun.open(path)
    _ = run.settings  # another kind of run is refused here
    if not run.finished:
        raise UserError(
            f"{path}: its injection has not come to its end; go on with it by `{run.MADE_BY}`, "
            "then ask"
        )
    ours = (run.checkpoint(run.kept()) / ABOUT).is_file()
    objective: Objective = run.facts["objective"]
    asked_as: Form = "question"
    if ours:  # it has seen no questions
        asked_as = "continuation" if objective == "ntp" else "cloze"
    facts = run.injected
    alone = ours and not run.settings.model  # it has read nothing before
    return Respondent(
        str(path),
        facts,
        asked_as,
        lambda: (load_learner(path, device=_there(device)), objective),
        sum(len(run.settings.wordings.of(fact)) for fact in facts) if alone else None,
    )


def untouched(source: str, *, device: str = "auto") -> Respondent:
    """A model of transformers into which nothing was injected, by folder or hub name."""

    def load() -> tuple[Learner, Objective]:
        from tightframe.knowledge.hub_learners import load_hub_learner

        learner = load_hub_learner(source, device=_there(device))
        return learner, learner.record.objective

    return Respondent(source, (), "question", load)


def open_panel(path: str | Path, *, device: str = "auto") -> Panel:
    """The ensemble of a manifest; runs of other facts than its clusters' are refused by name."""
    path = Path(path)
    settings = resolve(EnsembleSettings, read_toml(path), source=str(path))
    try:
        return _panel(settings, path.parent, device)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def write_panel(folder: str | Path, settings: EnsembleSettings) -> Path:
    """Check an ensemble, and write its manifest; one that exists is refused.

    Args:
        folder: Where ensemble.toml goes; paths in it are as seen from there, so that all may be
            moved together.
        settings: With paths as seen from where the program runs.
    """
    folder = Path(folder)
    path = folder / ENSEMBLE
    if path.exists():
        raise UserError(f"{path}: already exists; remove it or choose another folder")
    _panel(settings, Path(), "cpu")
    there = folder.resolve()

    def seen(one: str | Path) -> str:
        return os.path.relpath(Path(one).expanduser().resolve(), there)

    fallback = settings.fallback
    values = {
        "scope": seen(settings.scope),
        "runs": [seen(run) for run in settings.runs],
        "fallback": seen(fallback)
        if fallback and Path(fallback).expanduser().exists()
        else fallback,
        "rule": settings.rule,
        "threshold": settings.threshold,
    }
    write_toml(path, {key: value for key, value in values.items() if value not in ("", None)})
    return path


def _panel(settings: EnsembleSettings, folder: Path, device: str) -> Panel:
    """The ensemble whose paths are as seen from a folder."""
    scope = load_scoped(folder / settings.scope)
    runs = [open_respondent(folder / run, device=device) for run in settings.runs]
    return Panel(
        scope,
        _by_cluster(runs, scope.clusters),
        _fallback(settings.fallback, folder, device),
        settings.threshold,
        settings.rule,
    )


def _fallback(source: str, folder: Path, device: str) -> Respondent | None:
    if not source:
        return None
    path = folder / source
    if (path / "config.toml").is_file():
        return open_respondent(path, device=device)
    if not path.exists() and (Path(source).is_absolute() or source.startswith(".")):
        raise UserError(f"{path}: no such folder; expected a run or a model as fallback")
    return untouched(str(path) if path.exists() else source, device=device)


def _there(device: str) -> str:
    """The device that a model goes to; a GPU that is not there is said in one line."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda: there is no such GPU here; leave it out, or take cpu")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def _by_cluster(
    respondents: list[Respondent], clusters: tuple[str, ...]
) -> Mapping[int, Respondent]:
    found: dict[int, Respondent] = {}
    for one in respondents:
        own = facts_fingerprint(one.facts)
        if own not in clusters:
            raise UserError(
                f"{one.name} was trained on facts {own}, which are no cluster's "
                f"({', '.join(clusters)}); inject the facts of a cluster, or make it the fallback"
            )
        cluster = clusters.index(own)
        if cluster in found:
            raise UserError(
                f"{found[cluster].name} and {one.name} are both of cluster {cluster}; name one"
            )
        found[cluster] = one
    return found
