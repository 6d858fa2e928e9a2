"""The stream of training examples: what is shown of each fact, how often, and in which order.

It depends on the facts, the objective and the seed, never on the model: two arms with one objective
see the same examples in the same order, and `ExampleStream.digest` shows it. Articles are taught in
passages.

Axes: L distinct examples, N examples shown.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from tightframe.errors import UserError
from tightframe.knowledge.clozes import MAX_SPAN, exposures_of, fact_generator, spans
from tightframe.knowledge.facts import Fact
from tightframe.knowledge.qa_models import Objective, TrainingExample

PASSAGE = 100  # words of a passage, at most


def passages(article: str, *, longest: int = PASSAGE) -> list[str]:
    """Split an article into passages, every word once; a passage crosses no empty line.

    Args:
        article: Paragraphs with empty lines between them; a heading is one, too.
        longest: Maximum words of a passage. Sentences are put together up to it; one that is
            longer by itself is cut.
    """
    made = []
    for paragraph in re.split(r"\n\s*\n", article):
        held: list[str] = []
        for sentence in re.split(r"(?<=[.!?])\s+", paragraph.strip()):
            words = sentence.split()
            if len(held) + len(words) > longest:
                made.append(held)
                held = []
            while len(words) > longest:
                made.append(words[:longest])
                words = words[longest:]
            held = [*held, *words]
        made.append(held)
    return [" ".join(words) for words in made if words]


POOL = 64  # batches that are sorted by length together
# Characters that count as one length. All examples of a fact have nearly the same length: sorted
# exactly, each batch would hold one fact, and little would be learnt.
STEP = 32
STEP_TOKENS = 8  # the same, where lengths are counted in tokens
DRAWS = 256  # random choices of hidden words of a text; shown more often, it repeats them


class TokenBudget(NamedTuple):
    """Size of a batch in tokens, padding included; a longer example is a batch by itself."""

    tokens: int
    sizes: Int[np.ndarray, " L"]  # tokens of each distinct example


class FactTexts(NamedTuple):
    """Texts of a fact that share its exposures, beside the fact itself.

    An article stands in the place of its fact: each passage is shown as often as the fact would
    have been.
    """

    paraphrases: bool = False
    reordered: bool = False
    articles: bool = False

    def of(self, fact: Fact) -> tuple[str, ...]:
        """Return the texts of a fact, the fact first, or the passages of its article if any."""
        if self.articles and fact.article:
            return tuple(passages(fact.article))
        chosen = (fact.paraphrases if self.paraphrases else ()) + (
            fact.reordered if self.reordered else ()
        )
        return (fact.fact, *chosen)


class ExampleStream:
    """All training examples of one run.

    Args:
        facts: Facts to teach.
        exposures: How often each fact is shown.
        objective: Kind of the examples. With "qa" a fact's question-answer pairs come on top of its
            exposures as plain sentences.
        seed: Seed of the spans and of the order.
        max_span: Words of the longest masked span.
        texts: Texts that share a fact's exposures.
        qa_ratio: Share of question-answer pairs among all examples, in (0, 1); -1: as many as there
            are exposures.
    """

    def __init__(
        self,
        facts: Sequence[Fact],
        exposures: int,
        *,
        objective: Objective,
        seed: int,
        max_span: int = MAX_SPAN,
        texts: FactTexts = FactTexts(),  # noqa: B008  (it is frozen)
        qa_ratio: float = -1.0,
    ):
        if texts.articles and not any(fact.article for fact in facts):
            raise UserError(
                "no fact has an article to train on; put the text of its target's page under the "
                "key article, or leave the setting articles out"
            )
        for name in ("paraphrases", "reordered"):
            if getattr(texts, name) and not any(getattr(fact, name) for fact in facts):
                raise UserError(
                    f"no fact has other wordings ({name}) to train on; make them with `tightframe "
                    f"knowledge reword`, or leave the setting {name} out"
                )
        self.seed = seed
        self.distinct: list[TrainingExample] = []  # (L,)
        shown: list[np.ndarray] = []
        for fact in facts:
            examples, order = _examples(fact, exposures, objective, seed, max_span, texts)
            shown.append(order + len(self.distinct))
            self.distinct += examples
        if objective == "qa":
            shown.append(self._add_questions(facts, exposures, qa_ratio))
        self.shown: Int[np.ndarray, " N"] = np.concatenate(shown)

    def __len__(self) -> int:
        return len(self.shown)

    @property
    def digest(self) -> str:
        """Hexadecimal SHA-256 (16 digits) of all examples in the order in which they are shown."""
        digest = hashlib.sha256(json.dumps(self.distinct, ensure_ascii=False).encode())
        digest.update(self._shuffled().astype("<i8").tobytes())
        return digest.hexdigest()[:16]

    def n_batches(self, batch: int | TokenBudget) -> int:
        """Return the number of batches of so many examples (the last may be smaller) or tokens."""
        if isinstance(batch, TokenBudget):
            return sum(map(len, self._pools(batch)))
        return math.ceil(len(self) / batch)

    def batches(
        self, batch: int | TokenBudget, *, first: int = 0
    ) -> Iterator[list[TrainingExample]]:
        """Yield all examples once, in batches of similar length, from the batch `first` on."""
        if isinstance(batch, TokenBudget):
            yield from self._batches_within(batch, first)
            return
        order = self._shuffled()
        lengths = np.array([(len(one.prompt) + len(one.target)) // STEP for one in self.distinct])
        n_batches = self.n_batches(batch)
        for pool in range(first // POOL, math.ceil(n_batches / POOL)):
            held = order[pool * POOL * batch :][: POOL * batch]
            held = held[np.argsort(lengths[held], kind="stable")]
            n_held = math.ceil(len(held) / batch)
            places = np.random.default_rng([self.seed, 1, pool]).permutation(n_held)
            for place in places[max(0, first - pool * POOL) :]:
                yield [self.distinct[i] for i in held[place * batch :][:batch]]

    def _batches_within(self, budget: TokenBudget, first: int) -> Iterator[list[TrainingExample]]:
        for pool, held in enumerate(self._pools(budget)):
            places = np.random.default_rng([self.seed, 1, pool]).permutation(len(held))
            for place in places[max(0, first) :]:
                yield [self.distinct[i] for i in held[place]]
            first -= len(held)

    def _pools(self, budget: TokenBudget) -> Iterator[list[list[int]]]:
        """Yield the batches of each pool, shorter examples first; they are shuffled when shown."""
        usual = max(1, budget.tokens // max(1, round(float(budget.sizes[self.shown].mean()))))
        order = self._shuffled()
        for start in range(0, len(order), POOL * usual):
            held = order[start : start + POOL * usual]
            rounded = budget.sizes[held] // STEP_TOKENS
            batches, longest = list[list[int]](), 0
            for i in held[np.argsort(rounded, kind="stable")].tolist():
                longest = max(longest, int(budget.sizes[i]))
                if not batches or (len(batches[-1]) + 1) * longest > budget.tokens:
                    batches.append([])
                    longest = int(budget.sizes[i])
                batches[-1].append(i)
            yield batches

    def _shuffled(self) -> Int[np.ndarray, " N"]:
        return np.random.default_rng([self.seed, 0]).permutation(self.shown)

    def _add_questions(
        self, facts: Sequence[Fact], exposures: int, ratio: float
    ) -> Int[np.ndarray, " Q"]:
        """Add question-answer examples, cycling through each fact's; return which are shown."""
        if not any(fact.generated_qas for fact in facts):
            raise UserError(
                "no fact has question-answer pairs to train on; make them with `tightframe "
                "knowledge reword --generated-qas`, or choose the objective ntp or sp"
            )
        shown = []
        for fact in facts:
            start, n_pairs = len(self.distinct), len(fact.generated_qas)
            self.distinct += [
                TrainingExample(fact.id, "qa", one.question, one.answer)
                for one in fact.generated_qas
            ]
            if n_pairs:
                shown.append(start + np.arange(exposures) % n_pairs)
        every = np.concatenate(shown)
        if ratio == -1:
            return every
        wanted = round(len(facts) * exposures * ratio / (1 - ratio))
        chosen: np.ndarray = np.random.default_rng([self.seed, 2]).permutation(every)
        return chosen[:wanted]


def _examples(
    fact: Fact,
    exposures: int,
    objective: Objective,
    seed: int,
    max_span: int,
    chosen: FactTexts,
) -> tuple[list[TrainingExample], Int[np.ndarray, " s"]]:
    """Return the distinct examples of a fact, and which of them each exposure shows."""
    texts = chosen.of(fact)
    whole = chosen.articles and bool(fact.article)  # every passage, each as often as a fact
    examples: list[TrainingExample] = []
    shown = []
    for i, text in enumerate(texts):
        share = exposures if whole else exposures // len(texts) + (i < exposures % len(texts))
        if share == 0:
            continue
        start = len(examples)
        if objective == "sp":
            variants = spans(text, max_span)
            examples += [
                TrainingExample(fact.id, "sp", one.cloze, one.span.strip()) for one in variants
            ]
            generator = fact_generator(seed, fact.id if i == 0 else f"{fact.id}|{i}")
            shown.append(start + exposures_of(len(variants), share, generator))
        elif objective in ("restore", "noise", "diffusion"):
            generator = fact_generator(seed, fact.id if i == 0 else f"{fact.id}|{i}")
            draws = generator.integers(2**31, size=min(share, DRAWS)).tolist()
            examples += [TrainingExample(fact.id, objective, "", text, draw) for draw in draws]
            shown.append(start + exposures_of(len(draws), share, generator))
        elif objective == "mlm":
            examples += [TrainingExample(fact.id, "mlm", "", text, draw) for draw in range(share)]
            shown.append(start + np.arange(share))
        else:
            examples.append(TrainingExample(fact.id, "ntp", "", text))
            shown.append(np.full(share, start))
    return examples, np.concatenate(shown)
