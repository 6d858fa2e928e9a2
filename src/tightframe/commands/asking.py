"""Commands that put a typed question to a model, or to the one of several that should know."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from tightframe.commands.console import Device, Flag, Json, done, dumps, show
from tightframe.errors import printable
from tightframe.files import check_writable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tightframe.knowledge.inquiry import Answer, Reply


def ask(
    model: Path,
    question: str,
    /,
    *,
    all_: Annotated[Flag, Parameter(name="--all")] = False,
    embedder: str = "tf-idf",
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Answer a question, and show which model said it, how sure, and the nearest injected fact.

    Parameters
    ----------
    model
        A run of `tightframe knowledge inject`, or an ensemble: a folder with ensemble.toml, which
        names a router, a run a cluster, and perhaps a fallback.
    question
        In words, or with one [MASK] where the answer belongs.
    all_
        Ask every model of an ensemble, and show what each says.
    embedder
        What makes a fact near: tf-idf, or an encoder by folder or hub name.
    device
        cpu, cuda, or auto.
    json
        Print one JSON object on standard output.
    """
    from tightframe.knowledge.injection_runs import check_askable

    check_askable(model, device)
    from tightframe.knowledge.inquiry import ask_model
    from tightframe.knowledge.model_handles import open_model

    found = ask_model(question, open_model(model, device=device), ask_all=all_, embedder=embedder)
    if json:
        show(dumps(found.to_dict()))
        return
    show("\n".join(_shown(found)))


def panel(
    router: Path,
    /,
    *,
    runs: Annotated[list[Path], Parameter(negative="", consume_multiple=True)],
    out: Path,
    fallback: str = "",
    rule: Literal["most-probable", "lowest-index"] = "most-probable",
    threshold: float | None = None,
    json: Json = False,
) -> None:
    """Write the ensemble.toml that `ask` needs to put a question to the models of clusters.

    Parameters
    ----------
    router
        A folder of `tightframe knowledge router`.
    runs
        One run of `tightframe knowledge inject` per cluster, in any order: the facts that each was
        trained on identify its cluster.
    out
        The folder for ensemble.toml.
    fallback
        Model for questions about no cluster: a run, or a model of transformers by folder or name.
    rule
        Which positive cluster answers; lowest-index is the published rule.
    threshold
        Probability above which a cluster is positive; the router's by default.
    json
        Print one JSON object on standard output.
    """
    from tightframe.knowledge.injection_runs import check_askable

    check_writable(out)
    for run in runs:
        check_askable(run, "cpu")
    from tightframe.knowledge.model_handles import EnsembleSettings, write_ensemble

    settings = EnsembleSettings(router, tuple(runs), fallback, rule, threshold)
    path = write_ensemble(out, settings)
    done(
        f"{path}: a model for each of {len(runs)} clusters, fallback: {fallback or 'none'}; ask it "
        f'with `tightframe knowledge ask {out} "..."`',
        json,
        ensemble=str(path),
        runs=[str(run) for run in runs],
        fallback=fallback or None,
    )


def _shown(found: "Answer") -> "Iterator[str]":
    """Models, facts and questions are strangers' words: nothing of them reaches a terminal raw."""
    yield from _lines(found.reply, found)
    if found.routed is not None:
        rows = ", ".join(f"{c}: {p:.3f}" for c, p in enumerate(found.routed.probabilities))
        yield f"clusters      {rows}; above {found.routed.threshold:g} counts, {found.routed.rule}"
    for reply in found.others:
        yield ""
        yield from _lines(reply, found)


def _lines(reply: "Reply", found: "Answer") -> "Iterator[str]":
    cut = "" if reply.finish == "end" else "  (cut at the limit)"
    yield f"answer        {printable(reply.text) or '(nothing)'}{cut}"
    yield f"model         {printable(reply.model)}{_place(reply, found)}"
    yield f"how sure      {_sure(reply, found)}"
    form = "question in the chat template" if reply.template == "chat" else reply.prompt.form
    tried = f"; asked as a {reply.tried.form} it said nothing" if reply.tried else ""
    yield f"asked as      {form}: {printable(reply.prompt.text)}{tried}"
    if reply.evidence is None:
        yield "nearest fact  (none: nothing was injected that shares a word with the question)"
    else:
        fact = reply.evidence
        yield f"nearest fact  {fact.cosine:.3f}  {printable(fact.fact_id)}: {printable(fact.fact)}"
    if reply.note:
        yield f"note          {reply.note}"


def _place(reply: "Reply", found: "Answer") -> str:
    if found.routed is None:
        return ""
    return ", the fallback" if reply.cluster is None else f", cluster {reply.cluster}"


def _sure(reply: "Reply", found: "Answer") -> str:
    says = f"{reply.probability:.3f} that it says exactly this"
    if reply.reason:
        says = f"no probability: {reply.reason}"
    if found.routed is None:
        return says
    if reply.cluster is None:
        return f"{says}; {max(found.routed.probabilities):.3f} at most that a cluster knows"
    return f"{says}; {found.routed.probabilities[reply.cluster]:.3f} that its cluster knows"
