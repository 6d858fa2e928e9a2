"""Embeddings of facts where the first token of the answer is predicted: variants and question.

Axes: F facts, N variants of all facts, D embedding, B rows of a batch.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from studies.recall_geometry.variants import LEAST, Variant, answer_variants
from tightframe.errors import UserError
from tightframe.knowledge.clozes import MAX_SPAN, Span
from tightframe.knowledge.networks import Network
from tightframe.knowledge.qa_models import Prompt, TrainingExample
from tightframe.lm.frozen import left_as_found
from tightframe.lm.interface import IGNORE, Example, LanguageModel, collate

BATCH = 64  # rows at once; memory only


class AskedFact(NamedTuple):
    """A fact with its answer found in it, and the question that tests it."""

    fact_id: str
    answer: Span  # the fact without the whole words of its answer
    question: Prompt


@dataclasses.dataclass(frozen=True, eq=False)
class FactEmbeddings:
    """What one model makes of the facts; all where an answer's first token is predicted."""

    fact_ids: tuple[str, ...]
    variants: Float64[Tensor, "N D"]
    labels: Int64[Tensor, " N"]  # the fact of each variant, in [0, F)
    longer: Int64[Tensor, " F"]  # variants with longer spans than any in training
    questions: Float64[Tensor, "F D"]
    logit_margins: Float64[Tensor, " F"]  # at the question: the answer's first token, less the rest
    token_rows: Float64[Tensor, "F D"]  # of the classifier: that token's
    excluded: Mapping[str, str]  # facts that have too few variants, with the reason


class _Sample(NamedTuple):
    """A variant as the learner reads it, and where it predicts the answer's first token."""

    variant: Variant
    example: Example
    place: int


def embed_facts(
    learner: Network,
    facts: Sequence[AskedFact],
    *,
    max_span: int = MAX_SPAN,
    least: int = LEAST,
) -> FactEmbeddings:
    """The embeddings of all facts that have enough variants; two facts at least.

    A variant counts if the token predicted there is the one that begins the answer where the
    mask begins with it: tokens that would join the answer to the words before leave it out. A
    question that is the masked sentence word for word is no variant.

    Args:
        learner: Has learnt by spans: its prompts have masks.
        facts: Each id once.
        max_span: Words of the longest span that it was trained on.
        least: Variants of a fact.
    """
    examples: list[Example] = []
    places: list[int] = []
    labels: list[int] = []
    longer: list[int] = []
    tokens: list[int] = []
    kept: list[AskedFact] = []
    excluded: dict[str, str] = {}
    for fact in facts:
        token = _first_token(learner, fact)
        samples = _samples(learner, fact, token, max_span=max_span, least=least)
        if len(samples) < least:
            excluded[fact.fact_id] = f"{len(samples)} variants, fewer than {least}"
            continue
        examples += [one.example for one in samples]
        places += [one.place for one in samples]
        labels += [len(kept)] * len(samples)
        longer.append(sum(one.variant.n_words > max_span for one in samples))
        tokens.append(token)
        kept.append(fact)
    if len(kept) < 2:
        raise UserError(
            f"{learner.name}: {len(kept)} of {len(facts)} facts have {least} masks over their "
            "answer, expected two facts or more; give longer facts or more of them"
        )
    model = _language_model(learner)
    with left_as_found(learner.module), torch.no_grad():
        learner.module.eval()
        variants_at = _embedded(model, examples, places, pad=learner.pad)
        questions = learner.answer_embeddings([fact.question for fact in kept])
        logits = model.head(questions).double().cpu()  # (F, V)
    rows = torch.arange(len(kept))
    gold = logits[rows, torch.tensor(tokens)]
    logits[rows, torch.tensor(tokens)] = -torch.inf
    return FactEmbeddings(
        fact_ids=tuple(fact.fact_id for fact in kept),
        variants=variants_at,
        labels=torch.tensor(labels),
        longer=torch.tensor(longer),
        questions=questions.double().cpu(),
        logit_margins=gold - logits.amax(1),
        token_rows=model.classifier.detach()[torch.tensor(tokens)].double().cpu(),
        excluded=excluded,
    )


def _language_model(learner: Network) -> LanguageModel:
    if not isinstance(learner.module, LanguageModel):
        raise UserError(
            f"{learner.name}: its embeddings can't be looked at; give a run of one of our networks"
        )
    return learner.module


def _first_token(learner: Network, fact: AskedFact) -> int:
    """What is predicted first where the mask is the answer and nothing else."""
    example = learner.encode(
        TrainingExample(fact.fact_id, "sp", fact.answer.cloze, fact.answer.span)
    )
    return example.targets[_labelled(example)[0]]


def _samples(
    learner: Network, fact: AskedFact, token: int, *, max_span: int, least: int
) -> list[_Sample]:
    """The variants of a fact that predict `token` where its answer begins."""
    variants = answer_variants(
        fact.answer, without=fact.question.text, max_span=max_span, least=least
    )
    located = (_located(learner, fact, one, max_span) for one in variants)
    return [one for one in located if one and one.example.targets[one.place] == token]


def _located(learner: Network, fact: AskedFact, variant: Variant, max_span: int) -> _Sample | None:
    """A variant with the position that predicts the answer's first token.

    That is the first one whose target differs where the words before the answer are all that is
    predicted: the end stands there. None for a span that is longer than those of training and
    than the learner can say, in slots or positions.
    """
    try:
        whole = learner.encode(TrainingExample(fact.fact_id, "sp", variant.cloze, variant.target))
    except (UserError, ValueError):
        if variant.n_words <= max_span:
            raise
        return None
    labelled = _labelled(whole)
    if not variant.before:
        return _Sample(variant, whole, labelled[0])
    part = learner.encode(TrainingExample(fact.fact_id, "sp", variant.cloze, variant.before))
    ours = (whole.targets[place] for place in labelled)
    theirs = (part.targets[place] for place in _labelled(part))
    same = [one == other for one, other in zip(ours, theirs, strict=False)]
    return _Sample(variant, whole, labelled[same.index(False)])


def _labelled(example: Example) -> list[int]:
    return [place for place, target in enumerate(example.targets) if target != IGNORE]


def _embedded(
    model: LanguageModel, examples: Sequence[Example], places: Sequence[int], *, pad: int
) -> Float64[Tensor, "N D"]:
    """The embedding of each example at its place; rows of like length share a batch."""
    device = model.classifier.device
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].inputs))
    found = torch.empty(len(examples), model.classifier.shape[1], dtype=torch.float64)
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        batch = collate([examples[i] for i in chosen], pad=pad).to(device)
        embeddings = model.embed(batch)  # (B, T, D)
        at = torch.tensor([places[i] for i in chosen], device=device)
        rows = torch.arange(len(chosen), device=device)
        found[chosen] = embeddings[rows, at].double().cpu()
    return found
