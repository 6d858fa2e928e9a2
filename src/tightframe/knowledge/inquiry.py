"""Put a typed question to a model, or to the one of several that should know the answer.

With how sure it is, and the injected fact that is nearest to the question.

Axes: F facts, K clusters.

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

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from math import nan
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import pydantic
import torch

from tightframe.errors import UserError
from tightframe.knowledge.clozes import cloze_of_question
from tightframe.knowledge.embedders import LEXICAL, WeightedWords
from tightframe.knowledge.facts import MASK, Fact, Template, facts_fingerprint
from tightframe.knowledge.injection_runs import ENSEMBLE, not_askable
from tightframe.knowledge.options import Rule
from tightframe.knowledge.qa_models import Generation, Objective, Prompt, PromptForm, QAModel
from tightframe.knowledge.routing import choose, classified_text, load_scoped
from tightframe.knowledge.scope import Scope
from tightframe.settings import read_toml, resolve, write_toml

FAR = 0.4  # a cosine of weighted words: 99 % of other facts' questions are below, 1 % of own ones
FEW = 10_000  # texts: who has read fewer, and nothing else, understands no question
SILENT = f"it said nothing; begin a sentence as a fact does, or write {MASK} for the answer"
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # stands for bytes that are no text

Finish: TypeAlias = Literal["end", "length"]


@dataclasses.dataclass(frozen=True)
class ModelHandle:
    """A model that a question can be put to; it is loaded when it is first asked."""

    name: str
    facts: tuple[Fact, ...]  # that were injected into it
    asked_as: PromptForm  # how a typed question is put to it
    load: Callable[[], tuple[QAModel, Objective]]  # the model, and what it was taught by
    n_read: int | None = None  # texts, where it has read nothing but the facts


@dataclasses.dataclass(frozen=True)
class ModelEnsemble:
    """The models of an ensemble, and what decides which of them answers."""

    scope: Scope
    models: Mapping[int, ModelHandle]  # of each cluster
    fallback: ModelHandle | None = None
    threshold: float | None = None  # the scope's, if nothing is said
    rule: Rule = "most-probable"

    def __post_init__(self) -> None:
        if self.rule == "oracle":
            raise UserError(
                "rule oracle: needs the true cluster, which a typed question has not; choose "
                "most-probable or lowest-index"
            )
        k = len(self.scope.clusters)
        if lacking := sorted(set(range(k)) - self.models.keys()):
            raise UserError(f"no model of cluster {lacking[0]}; each of the {k} clusters needs one")


class NearestFact(NamedTuple):
    """The injected fact nearest to a question."""

    fact_id: str
    fact: str
    cosine: float  # in [0, 1] for weighted words, [-1, 1] for an encoder's embeddings


class Reply(NamedTuple):
    """What one model says."""

    model: str
    cluster: int | None  # whose facts it learned; None: the fallback, or a single model
    text: str
    finish: Finish  # length: cut at the limit
    probability: float  # that it says this and ends; NaN for the reason below
    reason: str
    prompt: Prompt
    template: Template
    tried: Prompt | None  # to which it said nothing; it was then asked by the other
    evidence: (
        NearestFact | None
    )  # None: nothing injected, or no fact shares a word with the question
    note: str = ""  # what to know of the model before believing it


class ClusterChoice(NamedTuple):
    """Which cluster a question was taken to be about."""

    probabilities: tuple[float, ...]  # of each cluster; independent
    cluster: int | None  # None: the fallback
    threshold: float
    rule: Rule


class Answer(NamedTuple):
    """An answer, and where it comes from."""

    question: str
    reply: Reply
    routed: ClusterChoice | None  # None: there was one model only
    others: tuple[Reply, ...]  # of the models that were not chosen, if they were asked

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; the answer, the model and how sure first."""
        return {
            "question": self.question,
            **_reply(self.reply),
            "routing": None if self.routed is None else self.routed._asdict(),
            "others": [_reply(one) for one in self.others],
        }


def ask_model(
    question: str,
    model: ModelHandle | ModelEnsemble,
    *,
    ask_all: bool = False,
    embedder: str = LEXICAL,
) -> Answer:
    """Put a typed question to a model, or to the one of a panel whose cluster it is about.

    Args:
        question: In words, or with one [MASK] where the answer belongs.
        model: Whom to ask.
        ask_all: Ask the other models of a panel too; only the first answer counts.
        embedder: What facts look alike to: weighted words, or an encoder by name (see
            `embedders.model_embeddings`).

    Raises:
        UserError: There is no question, or more than one mask, or it is routed to a fallback that
            the panel lacks.
    """
    question = question.strip()
    if not classified_text(question).strip():
        raise UserError("the question is empty; ask in words, or with [MASK] for the answer")
    if (n := question.count(MASK)) > 1:
        raise UserError(f"the question has {n} {MASK}, expected at most one: the answer's place")
    if isinstance(model, ModelHandle):
        return Answer(question, _ask(question, model, None, embedder), None, ())
    routed = _routed(question, model)
    chosen = model.fallback if routed.cluster is None else model.models[routed.cluster]
    if chosen is None:
        best = int(np.argmax(routed.probabilities))
        raise UserError(
            f"no cluster is likelier than {routed.threshold:g} (the best is cluster {best}: "
            f"{routed.probabilities[best]:.3f}), and there is no fallback model; name one, or "
            "lower the threshold"
        )
    reply = _ask(question, chosen, routed.cluster, embedder)
    everyone = [*sorted(model.models.items()), (None, model.fallback)]
    others = [
        _ask(question, one, cluster, embedder)
        for cluster, one in everyone
        if ask_all and one is not None and one is not chosen
    ]
    return Answer(question, reply, routed, tuple(others))


def prompt_of(question: str, asked_as: PromptForm) -> Prompt:
    """How a typed question is put to a model.

    A typed mask is a cloze for whoever fills masks. Who was trained on clozes alone gets the
    question with its wh-phrase as the mask, or with a mask behind it if it has none.
    """
    if asked_as == "continuation":
        return Prompt("continuation", question.partition(MASK)[0].rstrip())
    if MASK in question:
        return Prompt("cloze", question)
    if asked_as == "cloze":
        return Prompt("cloze", cloze_of_question(question) or f"{question} {MASK}")
    return Prompt("question", question)


def nearest_fact(
    question: str, facts: Sequence[Fact], *, embedder: str = LEXICAL
) -> NearestFact | None:
    """The fact of highest cosine to the question, the first of several.

    Weighted words are compared as they are, without the few dense numbers that clusters are made
    of: on the development file's first 5,000 facts the nearest fact of a question is its own for
    99.8 %, against 87.6 % in 100 singular directions, and what no fact is about stays far away
    (a median cosine of 0.16, against 0.70).

    Returns:
        None where there are no facts, or none shares a word with the question.
    """
    if not facts:
        return None
    texts, asked = [fact.fact for fact in facts], classified_text(question)
    if embedder == LEXICAL:
        words = WeightedWords.fit(texts)
        cosines = (words(texts) @ words([asked]).T).toarray()[:, 0]  # (F,)
    else:
        from tightframe.knowledge.embedders import model_embeddings

        *known, own = model_embeddings([*texts, asked], embedder)
        cosines = np.stack(known) @ own
    best = int(np.argmax(cosines))
    if embedder == LEXICAL and cosines[best] == 0:
        return None
    return NearestFact(facts[best].id, facts[best].fact, float(cosines[best]))


def _routed(question: str, panel: ModelEnsemble) -> ClusterChoice:
    threshold = panel.scope.threshold if panel.threshold is None else panel.threshold
    row = tuple(panel.scope.probabilities([classified_text(question)])[0].tolist())
    chosen = choose(row, None, threshold=threshold, rule=panel.rule)
    return ClusterChoice(row, chosen, threshold, panel.rule)


def _ask(question: str, respondent: ModelHandle, cluster: int | None, embedder: str) -> Reply:
    learner, objective = respondent.load()
    prompt = prompt_of(question, respondent.asked_as)
    if not prompt.text:
        raise UserError(
            f"{respondent.name}: goes on with a text, but nothing stands before the {MASK}; begin "
            "the sentence"
        )
    (said,) = learner.answer([prompt])
    tried = None
    if not said.text.strip() and prompt.form == "question":
        tried, prompt = prompt, Prompt("continuation", prompt.text)
        (said,) = learner.answer([prompt])
    evidence = nearest_fact(question, respondent.facts, embedder=embedder)
    far = evidence is None or (embedder == LEXICAL and evidence.cosine < FAR)
    reason = _untold(said, objective)
    few = _note(respondent.n_read) if far or MASK not in question else ""
    if far and respondent.n_read is not None:
        reason = "it has read nothing but its facts, and none is near the question"
    elif few and not reason:
        reason = "it has read too few sentences to understand a question"
    probability = nan
    if not reason:
        ((log_probability,),) = learner.log_probabilities([prompt], [[said.text]])
        probability = math.exp(log_probability)
    return Reply(
        respondent.name,
        cluster,
        said.text,
        said.finish,
        probability,
        reason,
        prompt,
        said.template,
        tried,
        evidence,
        few or ("" if said.text.strip() else SILENT),
    )


def _note(n_read: int | None) -> str:
    if n_read is None or n_read >= FEW:
        return ""
    return (
        f"this network has read {n_read:,} sentences; ask by a cloze, as in a fact with {MASK} for "
        "its answer, or inject into a pretrained model"
    )


def _untold(said: Generation, objective: Objective) -> str:
    """Why the probability of an answer isn't known; nothing if it is."""
    if objective == "ntp":  # its `log_probabilities` are differences of two
        return "it was trained on next tokens alone"
    if said.finish == "length":
        return "its answer was cut before its end"
    if REPLACEMENT in said.text:
        return "what it said is not all text"
    return ""


def _reply(reply: Reply) -> dict[str, Any]:
    return {
        "answer": reply.text,
        "model": reply.model,
        "cluster": reply.cluster,
        "probability": reply.probability,
        "reason": reply.reason,
        "finish": reply.finish,
        "asked": {"form": reply.prompt.form, "text": reply.prompt.text, "template": reply.template},
        "tried": reply.tried and {"form": reply.tried.form, "text": reply.tried.text},
        "nearest_fact": None if reply.evidence is None else reply.evidence._asdict(),
        "note": reply.note,
    }


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


def open_model(path: str | Path, *, device: str = "auto") -> ModelHandle | ModelEnsemble:
    """A run or an ensemble, whichever a path is; nothing is loaded that is not asked."""
    path = Path(path)
    if path.is_file():
        return open_ensemble(path, device=device)
    if (path / ENSEMBLE).is_file():
        return open_ensemble(path / ENSEMBLE, device=device)
    if (path / "config.toml").is_file():
        return open_run(path, device=device)
    raise not_askable(path)


def open_run(path: str | Path, *, device: str = "auto") -> ModelHandle:
    """The model of an injection run."""
    from tightframe.knowledge.injection import load_qa_model
    from tightframe.knowledge.injection_runs import InjectionRun
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
    asked_as: PromptForm = "question"
    if ours:  # it has seen no questions
        asked_as = "continuation" if objective == "ntp" else "cloze"
    facts = run.injected
    alone = ours and not run.settings.model  # it has read nothing before
    return ModelHandle(
        str(path),
        facts,
        asked_as,
        lambda: (load_qa_model(path, device=_there(device)), objective),
        sum(len(run.settings.texts.of(fact)) for fact in facts) if alone else None,
    )


def base_model(source: str, *, device: str = "auto") -> ModelHandle:
    """A model of transformers into which nothing was injected, by folder or hub name."""

    def load() -> tuple[QAModel, Objective]:
        from tightframe.knowledge.hub_load import load_hub_model

        learner = load_hub_model(source, device=_there(device))
        return learner, learner.record.objective

    return ModelHandle(source, (), "question", load)


def open_ensemble(path: str | Path, *, device: str = "auto") -> ModelEnsemble:
    """The ensemble of a manifest; runs of other facts than its clusters' are refused by name."""
    path = Path(path)
    settings = resolve(EnsembleSettings, read_toml(path), source=str(path))
    try:
        return _panel(settings, path.parent, device)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def write_ensemble(folder: str | Path, settings: EnsembleSettings) -> Path:
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


def _panel(settings: EnsembleSettings, folder: Path, device: str) -> ModelEnsemble:
    """The ensemble whose paths are as seen from a folder."""
    scope = load_scoped(folder / settings.scope)
    runs = [open_run(folder / run, device=device) for run in settings.runs]
    return ModelEnsemble(
        scope,
        _by_cluster(runs, scope.clusters),
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


def _there(device: str) -> str:
    """The device that a model goes to; a GPU that is not there is said in one line."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda: there is no such GPU here; leave it out, or take cpu")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def _by_cluster(
    respondents: list[ModelHandle], clusters: tuple[str, ...]
) -> Mapping[int, ModelHandle]:
    found: dict[int, ModelHandle] = {}
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
