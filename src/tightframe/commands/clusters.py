"""Commands of ensembles: divide facts among models, route questions, join what the models said."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from cyclopts import Parameter

from tightframe.commands.console import (
    SEED,
    Assignments,
    Flag,
    Json,
    as_parameters,
    done,
    dumps,
    say,
    show,
)
from tightframe.errors import UserError
from tightframe.files import check_new, check_writable
from tightframe.knowledge.options import ClusterOptions, RouterOptions, Rule
from tightframe.progress import bar

if TYPE_CHECKING:
    Dividing: TypeAlias = ClusterOptions
    RouterTraining: TypeAlias = RouterOptions
else:
    Dividing = as_parameters(ClusterOptions, seed=SEED)
    RouterTraining = as_parameters(RouterOptions)


def cluster(
    facts: Path,
    /,
    *,
    k: int,
    out: Path,
    options: Dividing = Dividing(),  # noqa: B008
    strict: Flag = False,
    json: Json = False,
) -> None:
    """Divide facts into K clusters, each to be learned by a model of its own.

    By content: a Gaussian mixture over their embeddings. Next, train a model on
    each file in OUT/facts (`tightframe knowledge inject`), and train a classifier
    that routes questions (`tightframe knowledge router`).

    Parameters
    ----------
    facts
        Facts in any known format.
    k
        Number of clusters.
    out
        New folder: assignments.jsonl, clusters.json, and the facts of each cluster in facts/.
    strict
        Refuse facts with any fault.
    json
        Print one JSON object on standard output.
    """
    from tightframe.knowledge.benchmark import load_benchmark
    from tightframe.knowledge.clusters import cluster_facts, save_clusters
    from tightframe.knowledge.embedders import check_embedder

    check_new(out)
    check_writable(out.parent)
    check_embedder(options.embedder)
    loaded = load_benchmark(facts, strict=strict)
    with bar("texts"):
        clusters = cluster_facts(loaded, k, options)
    written = save_clusters(out, clusters)
    silhouette = clusters.reason or f"{clusters.silhouette:.4f}"
    done(
        f"{out}: {len(clusters.facts):,} facts in {k} clusters of "
        f"{', '.join(f'{size:,}' for size in clusters.sizes)}; silhouette: {silhouette}",
        json,
        clusters=str(out),
        **written,
    )


def router(
    clusters: Path,
    /,
    *,
    negatives: Path,
    out: Path,
    outside: Path | None = None,
    options: RouterTraining = RouterTraining(),  # noqa: B008
    encoder: str | None = None,
    set_: Assignments = None,
    json: Json = False,
) -> None:
    """Train a classifier of which cluster, if any, a question is about, and route every question.

    A classifier with one output per cluster is trained on the facts and on
    negatives, and used on questions. Printed are the shares of questions on
    injected facts that some cluster takes (routed) and that the right one takes,
    and of other questions, which none should take (accepted).

    Parameters
    ----------
    clusters
        A folder of `tightframe knowledge cluster`.
    negatives
        A file of facts that were not injected, to learn what is out of scope.
    out
        New folder: router.safetensors, routing.jsonl, router.json.
    outside
        Other facts that were not injected: their questions are routed too, to count false accepts.
    encoder
        Fine-tune this encoder of transformers (a folder or hub name), instead of a linear
        classifier on weighted words.
    set_
        With --encoder: learning_rate=2e-5, batch=128, epochs=10, clip=1.0, device=cpu.
    json
        Print one JSON object on standard output.
    """
    from tightframe.knowledge.benchmark import load_benchmark
    from tightframe.knowledge.clusters import load_clusters
    from tightframe.knowledge.routing import save_router, train_router

    check_new(out)
    settings = _encoder_settings(encoder, set_, options.seed)
    with bar("texts"):
        trained = train_router(
            load_clusters(clusters),
            load_benchmark(negatives),
            load_benchmark(outside) if outside else (),
            options,
            encoder=settings,
        )
    save_router(out, trained)
    if dropped := trained.report["negatives"]["injected_left_out"]:
        say(f"{negatives}: {dropped:,} facts are injected ones, not used as negatives")
    if json:
        show(dumps({"router": str(out)} | trained.report))
        return
    show(
        f"{out}: {len(trained.routings):,} questions routed, "
        f"threshold {trained.router.threshold:.3g}"
    )
    for name in ("questions", "statements"):
        show(_routed(name, trained.report[name]))
    show(_matrix(trained.report["questions"]["confusion"]))


def ensemble(
    router: Path,
    /,
    *,
    clusters: Path,
    outputs: Annotated[list[Path], Parameter(negative="", consume_multiple=True)],
    out: Path,
    fallback: Path | None = None,
    rule: Rule = "most-probable",
    threshold: float | None = None,
    json: Json = False,
) -> None:
    """Join the outputs of the clusters' models into one answer per question.

    The facts that a model was trained on tell which cluster its outputs are of.

    Parameters
    ----------
    router
        A folder of `tightframe knowledge router`.
    clusters
        The clusters' folder that it was made of.
    outputs
        Files of outputs of `tightframe knowledge answer`, one per cluster, in any order.
    out
        New folder: answers.jsonl, provenance.jsonl, report.json.
    fallback
        Outputs of the model that answers what is routed to no cluster.
    rule
        Cluster that answers among those above the threshold, as for `tightframe knowledge router`.
    threshold
        Probability above which a cluster takes a question (default: that of the router).
    json
        Print one JSON object on standard output.
    """
    from tightframe.knowledge.answers import load_answers
    from tightframe.knowledge.clusters import load_clusters
    from tightframe.knowledge.ensembles import assemble, save_ensemble
    from tightframe.knowledge.routing import load_routings, reroute

    check_new(out)
    divided = load_clusters(clusters)
    routings, own_threshold = load_routings(router, divided)
    threshold = own_threshold if threshold is None else threshold
    routings = reroute(routings, threshold=threshold, rule=rule)
    answers = [load_answers(path) for path in outputs]
    joined = assemble(routings, divided, answers, load_answers(fallback) if fallback else None)
    report: dict[str, Any] = {"rule": rule, "threshold": threshold} | joined.report
    save_ensemble(out, joined._replace(report=report))
    if json:
        show(dumps({"ensemble": str(out)} | report))
        return
    if "oracle_reason" in report:
        say(f"no upper bound: {report['oracle_reason']}")
    show(
        f"{out}: {len(joined.answers):,} answers; match_norm {report['score']:.2f} over "
        f"{report['n_scored']:,} questions, {report['oracle_score']:.2f} if routed perfectly"
    )
    for one in report["sources"]:
        show(
            f"{one['source']:<12} {one['n']:>7,} answers {one['share']:>8.1%}  match_norm "
            f"{one['score']:>6.2f} over {one['n_scored']:>7,}  {one['model'] or '(none)'}"
        )
    show(_routed("questions", report["routing"]))
    show(_matrix(report["routing"]["confusion"]))


def _encoder_settings(encoder: str | None, assignments: list[str] | None, seed: int) -> Any:
    """Return how to fine-tune the encoder, None where there is none."""
    from tightframe.knowledge.embedders import check_encoder

    if encoder is None:
        if assignments:
            raise UserError("--set: these are settings of --encoder; name one")
        return None
    check_encoder(encoder)
    from tightframe.knowledge.router import EncoderSettings
    from tightframe.settings import overrides, resolve

    values = {"encoder": encoder, "seed": seed} | overrides(assignments or [])
    return resolve(EncoderSettings, values, source="--set")


def _routed(name: str, report: dict[str, Any]) -> str:
    inside = report["in_scope"]
    parts = [
        f"{inside['n']:,} in scope: {inside['routed']:.1%} routed, {inside['right']:.1%} right"
    ]
    for kind in ("locality", "outside"):
        if report[kind]["n"]:
            parts.append(f"{report[kind]['n']:,} {kind}: {report[kind]['accepted']:.1%} accepted")
    return f"{name}: " + "; ".join(parts)


def _matrix(confusion: list[list[int]]) -> str:
    """Return true clusters down, chosen ones across; the last of each is none."""
    names = [*map(str, range(len(confusion) - 1)), "none"]
    lines = ["true \\ chosen" + "".join(f"{name:>8}" for name in names)]
    lines += [
        f"{name:>13}" + "".join(f"{n:>8,}" for n in row)
        for name, row in zip(names, confusion, strict=True)
    ]
    return "\n".join(lines)
