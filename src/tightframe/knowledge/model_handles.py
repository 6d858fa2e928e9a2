"""Models that can be asked a typed question: runs, models of transformers, ensembles of runs.

An ensemble is a TOML file, or a folder with one called ensemble.toml, as `write_ensemble` makes it;
paths in it are as seen from its folder:

    router = "router"                          # a folder of `tightframe knowledge router`
    runs = ["../runs/c0", "../runs/c1"]      # one run per cluster, in any order
    fallback = "../runs/all"                 # a run, or a model of transformers by folder or hub
                                             # name; may be left out, as may:
    rule = "most-probable"
    threshold = 0.5

The facts that were injected tell the cluster of a run, never its path. A model is loaded when it is
first asked.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import pydantic

from tightframe.errors import UserError
from tightframe.knowledge.facts import Fact, facts_fingerprint
from tightframe.knowledge.injection_runs import (
    ENSEMBLE,
    NETWORK,
    InjectionRun,
    check_answerable,
    not_askable,
)
from tightframe.knowledge.options import Rule
from tightframe.knowledge.qa_models import Objective, PromptForm, QAModel, continues
from tightframe.knowledge.router import Router
from tightframe.knowledge.routing import load_router
from tightframe.settings import read_toml, resolve, write_toml


@dataclasses.dataclass(frozen=True)
class ModelHandle:
    """A model that can be asked; it is loaded when it is first asked."""

    name: str
    facts: tuple[Fact, ...]  # that were injected into it
    asked_as: PromptForm  # form in which a typed question is put to it
    load: Callable[[], tuple[QAModel, Objective]]  # the model, and the objective of its training
    n_read: int | None = None  # number of texts, if it has read nothing but the facts


@dataclasses.dataclass(frozen=True)
class ModelEnsemble:
    """Models of an ensemble, and the classifier that decides which of them answers."""

    router: Router
    models: Mapping[int, ModelHandle]  # of each cluster
    fallback: ModelHandle | None = None
    threshold: float | None = None  # None: that of the router
    rule: Rule = "most-probable"

    def __post_init__(self) -> None:
        if self.rule == "oracle":
            raise UserError(
                "rule oracle: needs the true cluster, which a typed question does not have; choose "
                "most-probable or lowest-index"
            )
        k = len(self.router.clusters)
        if lacking := sorted(set(range(k)) - self.models.keys()):
            raise UserError(f"no model of cluster {lacking[0]}; each of the {k} clusters needs one")


@pydantic.dataclasses.dataclass(
    frozen=True, config=pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)
)
class EnsembleSettings:
    """Settings of an ensemble."""

    router: Path  # a folder of `tightframe knowledge router`
    runs: tuple[Path, ...]  # one run per cluster, in any order
    fallback: str = ""  # the run or model for questions about no cluster; "": none
    rule: Literal["most-probable", "lowest-index"] = "most-probable"
    threshold: float | None = None  # None: that of the router


def open_model(path: str | Path, *, device: str = "auto") -> ModelHandle | ModelEnsemble:
    """Open a run or an ensemble, whichever a path is; load nothing before it is asked."""
    path = Path(path)
    if path.is_file():
        return open_ensemble(path, device=device)
    if (path / ENSEMBLE).is_file():
        return open_ensemble(path / ENSEMBLE, device=device)
    if (path / "config.toml").is_file():
        return open_run(path, device=device)
    raise not_askable(path)


def open_run(path: str | Path, *, device: str = "auto") -> ModelHandle:
    """Open the model of an injection run."""
    run = InjectionRun.open(path)
    check_answerable(Path(path), device)
    ours = (run.checkpoint(run.kept()) / NETWORK).is_file()
    objective: Objective = run.facts["objective"]
    asked_as: PromptForm = "question"
    if ours:  # it has seen no questions
        asked_as = "continuation" if continues(objective) else "cloze"

    def load() -> tuple[QAModel, Objective]:
        from tightframe.knowledge.injection import load_qa_model  # imports torch

        return load_qa_model(path, device=device), objective

    facts = run.injected
    alone = ours and not run.settings.model  # it has read nothing before
    n_read = sum(len(run.settings.texts.of(fact)) for fact in facts) if alone else None
    return ModelHandle(str(path), facts, asked_as, load, n_read)


def base_model(source: str, *, device: str = "auto") -> ModelHandle:
    """Open a model of transformers without any injection, by folder or hub name."""

    def load() -> tuple[QAModel, Objective]:
        from tightframe.knowledge.injection import load_base_model  # imports torch

        model = load_base_model(source, device=device)
        return model, model.objective

    return ModelHandle(source, (), "question", load)


def open_ensemble(path: str | Path, *, device: str = "auto") -> ModelEnsemble:
    """Open the ensemble of a manifest; refuse runs of other facts than its clusters' by name."""
    path = Path(path)
    settings = resolve(EnsembleSettings, read_toml(path), source=str(path))
    try:
        return _ensemble(settings, path.parent, device)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def write_ensemble(folder: str | Path, settings: EnsembleSettings) -> Path:
    """Check an ensemble, and write its manifest; refuse one that exists.

    Args:
        folder: Folder for ensemble.toml; paths in it are as seen from there, so that all may be
            moved together.
        settings: With paths as seen from where the program runs.
    """
    folder = Path(folder)
    path = folder / ENSEMBLE
    if path.exists():
        raise UserError(f"{path}: already exists; remove it or choose another folder")
    _ensemble(settings, Path(), "cpu")
    there = folder.resolve()

    def seen(one: str | Path) -> str:
        return os.path.relpath(Path(one).expanduser().resolve(), there)

    fallback = settings.fallback
    values = {
        "router": seen(settings.router),
        "runs": [seen(run) for run in settings.runs],
        "fallback": seen(fallback)
        if fallback and Path(fallback).expanduser().exists()
        else fallback,
        "rule": settings.rule,
        "threshold": settings.threshold,
    }
    write_toml(path, {key: value for key, value in values.items() if value not in ("", None)})
    return path


def _ensemble(settings: EnsembleSettings, folder: Path, device: str) -> ModelEnsemble:
    """Open an ensemble whose paths are as seen from a folder."""
    router = load_router(folder / settings.router)
    runs = [open_run(folder / run, device=device) for run in settings.runs]
    return ModelEnsemble(
        router,
        _by_cluster(runs, router.clusters),
        _fallback(settings.fallback, folder, device),
        settings.threshold,
        settings.rule,
    )


def _fallback(source: str, folder: Path, device: str) -> ModelHandle | None:
    if not source:
        return None
    path = folder / source
    if (path / "config.toml").is_file():
        return open_run(path, device=device)
    if not path.exists() and (Path(source).is_absolute() or source.startswith(".")):
        raise UserError(f"{path}: no such folder; expected a run or a model as fallback")
    return base_model(str(path) if path.exists() else source, device=device)


def _by_cluster(handles: list[ModelHandle], clusters: tuple[str, ...]) -> Mapping[int, ModelHandle]:
    found: dict[int, ModelHandle] = {}
    for one in handles:
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
