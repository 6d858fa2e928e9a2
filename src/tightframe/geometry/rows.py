"""States -> rows: every measure of a layer, losses, published columns; and their header."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from tightframe.corpus.shards import SPLITS, TokenShards
from tightframe.geometry.closed_forms import strata
from tightframe.geometry.decisions import Decisions
from tightframe.geometry.intervals import of_positions
from tightframe.geometry.measures import Measure, metrics
from tightframe.geometry.moments import ClassMoments
from tightframe.geometry.options import PREFIXES
from tightframe.geometry.passes import LabelRequest, PassConfig
from tightframe.geometry.resampling import FEWEST_DOCUMENTS
from tightframe.geometry.stream import layer_name
from tightframe.geometry.subject import Subject, model_facts, token_facts
from tightframe.geometry.values import Value
from tightframe.lm.folders import gguf_of
from tightframe.lm.load import Model
from tightframe.lm.transformer import Transformer
from tightframe.results import Header, Row


def header_of(
    subject: Subject, shards: TokenShards, request: LabelRequest, moments: ClassMoments
) -> Header:
    """Return the header of rows: the model, the tokens, and how it was measured."""
    model = subject.model
    n_classes = int(moments.seen(request.min_count).sum())
    facts = model_facts(model, shards) | {
        "n_classes": n_classes,
        "classes_per_dimension": n_classes / moments.dim,
    }
    machine = {
        "dtype": str(model.classifier.dtype).removeprefix("torch."),
        "device": str(model.classifier.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    if not isinstance(model, Transformer):
        machine |= {name: version(name) for name in ("transformers", "huggingface_hub")}
    if subject.snapshot is not None:
        snapshot = subject.snapshot._asdict()
        machine |= {name: snapshot[name] for name in ("revision", "commit", "subfolder")}
        facts |= {name: snapshot[name] for name in ("revision", "commit")}
    if subject.trained_tokens is not None:
        facts["trained_tokens"] = subject.trained_tokens
    if isinstance(subject.source, str | Path) and (file := gguf_of(subject.source)) is not None:
        machine["dequantized_from"] = file.name
    if subject.loading.device_map is not None:
        machine["device_map"] = str(subject.loading.device_map)
    return Header(
        run=subject.name,
        step=subject.step,
        model={"name": subject.name, **facts},
        tokens={**token_facts(shards), "unigram_entropy": _entropy(moments.counts)},
        settings=subject.settings,
        measurement={**request.key, **machine},
    )


def _entropy(counts: Int64[Tensor, " C"]) -> float:
    """Return the entropy of these counts, in nats: about the loss of a model that knows no more."""
    shares = counts[counts > 0].double() / counts.sum()
    return float(-(shares * shares.log()).sum())


def sinks(moments: Mapping[int, ClassMoments]) -> str | None:
    """Return a sentence on layers where a few positions outweigh all others, if there are any."""
    found = {layer: few for layer, state in moments.items() if (few := state.norms.sinks())}
    if not found:
        return None
    layers = ", ".join(map(layer_name, found))
    far = max(found.values(), key=lambda few: few.times)
    return (
        f"attention sinks: at layer{'s' * (len(found) > 1)} {layers} a few positions (up to "
        f"{max(few.share for few in found.values()):.2%}) have norms up to {far.times:.0f} "
        "times the median and outweigh all others: the measures there describe them; "
        "--skip-positions and --skip-special leave such positions out"
    )


def rows_of_layer(
    header: Header,
    request: LabelRequest,
    wanted: PassConfig,
    model: Model,
    layer: int,
    moments: ClassMoments,
    decisions: Decisions,
    ood: ClassMoments | None,
) -> list[Row]:
    """All measures of a layer, over all classes and where asked over each stratum of them."""
    classifier, note = classifier_at(model, layer, moments.dim, wanted)
    measures = request.of_layer(last=layer == model.depth, dual=classifier is not None)
    if classifier is None:
        classifier = torch.zeros(()).expand(moments.n_classes, moments.dim)  # of no measure left
    if not measures:
        return []
    shared = wanted.shared
    whole = "all" if shared is None else shared.subset
    subsets: dict[str, Tensor | None] = {whole: None if shared is None else shared.classes}
    if request.options.by_frequency:
        of_them = "" if shared is None else f"{whole}, "
        subsets |= {f"{of_them}{name}": mask for name, mask in strata(moments.counts).items()}
    rows = []
    for subset, classes in subsets.items():
        values = metrics(
            moments,
            classifier,
            decisions,
            measures=[measure.name for measure in measures],
            min_count=request.min_count,
            classes=classes,
            ood=ood,
        )
        for measure in measures:
            value = values[measure.name]
            if note:
                reason = "; ".join(part for part in (value.reason, note) if part)
                value = dataclasses.replace(value, reason=reason)
            least = least_count(measure, request.min_count)
            rows.append(
                row_of(header, request, layer, measure.split, subset, least, measure.name, value)
            )
    return rows


def classifier_at(
    model: Model, layer: int, dim: int, wanted: PassConfig
) -> tuple[Tensor | None, str]:
    """Return the classifier beside the means of a layer, and a remark on the values there.

    None where the layer has another width than what the classifier multiplies.
    """
    classifier = model.classifier.detach()
    if layer == model.depth:
        return classifier, ""
    if wanted.projection is not None:
        matrix = wanted.projection.matrix(classifier.shape[1]).to(classifier.device)
        note = f"randomly projected to {dim} dimensions"
        return classifier.float() @ matrix, note
    return (classifier if classifier.shape[1] == dim else None), ""


def published(
    header: Header, request: LabelRequest, model: Model, moments: ClassMoments, decisions: Decisions
) -> Iterator[Row]:
    """Return the requested columns of the published tables, in their order."""
    from tightframe.geometry.published import published_values

    if moments.n_groups > 1:
        moments, decisions = moments.without(), decisions.without()
    for table in request.compat:
        columns = published_values(table, moments, model.classifier, decisions)
        columns["n_params"] = Value(float(model.n_parameters), model.n_parameters, 0)
        for column, value in columns.items():
            name = f"{PREFIXES[table]}.{column}"
            yield row_of(header, request, model.depth, "train", "all", 1, name, value)


def loss_functions(shards: TokenShards, *, whole: bool) -> dict[str, Callable[[Decisions], float]]:
    """Return what tells losses and accuracy of decisions, by name.

    What is said of the text, such as bits per byte, needs the `whole` of its positions.
    """

    def perplexity(of: Decisions) -> float:
        return math.exp(of.loss) if of.loss < 700 else math.inf

    read: dict[str, Callable[[Decisions], float]] = {
        "val_loss": lambda of: of.loss,
        "val_accuracy": lambda of: of.accuracy,
        "val_perplexity": perplexity,
    }
    if whole:
        read["val_bits_per_byte"] = lambda of: shards.split("val").bits_per_byte(of.loss)
    return read


def losses(
    decisions: Decisions, shards: TokenShards, *, whole: bool
) -> Iterator[tuple[str, Value]]:
    """Return losses and accuracy, and the entropy floor where it is known.

    All positions that the model predicts count, also those that the geometry leaves out: other
    people's losses are of all.
    """
    for name, value_of in loss_functions(shards, whole=whole).items():
        share = name == "val_accuracy"
        value = of_positions(
            decisions, value_of, range="[0, 1]" if share else "[0, inf)", log=not share
        )
        n, reasons = decisions.n + decisions.n_passed, [value.reason]
        if decisions.n_passed:
            reasons.append(f"over all {n:,} predicted positions, none left out")
        reason = "; ".join(filter(None, reasons))
        yield name, dataclasses.replace(value, n=n, reason=reason)
    if whole and (floor := shards.entropy_floor) is not None:
        n = int(floor["positions"])
        yield "entropy_floor", Value(floor["mean_conditional_entropy"], n, 0)
        yield "realised_floor", Value(floor["realised_nll"], n, 0)


def with_documents(rows: Sequence[Row], shards: TokenShards, groups: int) -> list[Row]:
    """Return the rows with the number of documents that they are of, and what was resampled.

    An interval from fewer documents than `FEWEST_DOCUMENTS` is refused.
    """
    splits = {name: shards.split(name) for name in SPLITS}
    units = {name: split.groups(groups).unit for name, split in splits.items()}
    out = []
    for row in rows:
        n = splits[row.split].n_documents
        least = FEWEST_DOCUMENTS[row.split]
        if row.resampled and units[row.split] == "documents" and n < least:
            why = (
                f"no interval: from {n} documents, and intervals are tested from {least} on; "
                "more documents give one"
            )
            reason = "; ".join(filter(None, [row.reason, why]))
            row = dataclasses.replace(
                row, low=math.nan, high=math.nan, centre=math.nan, resampled="", reason=reason
            )
        resampled = units[row.split] if row.resampled else ""
        out.append(dataclasses.replace(row, resampled=resampled, documents=n))
    return out


def least_count(measure: Measure, min_count: int) -> int:
    """Return the number of samples that a class needs for this measure."""
    return max(min_count, measure.least_count)


def row_of(
    header: Header,
    request: LabelRequest,
    layer: int,
    split: str,
    subset: str,
    min_count: int,
    metric: str,
    value: Value,
) -> Row:
    """Return a value as a row."""
    return Row(
        run=header.run,
        step=header.step,
        split=split,
        layer=layer,
        labels=request.labels,
        subset=subset,
        metric=metric,
        value=value.value,
        n=value.n,
        min_count=min_count,
        excluded=value.excluded,
        low=value.low,
        high=value.high,
        centre=value.centre,
        resampled=value.resampled,
        reason=value.reason,
    )
