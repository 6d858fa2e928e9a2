"""The stream of lessons: what is shown of each fact how often, and in which order.

It depends on the facts, the objective and the seed, never on who learns: two arms with one
objective see the same lessons in the same order, and `Stream.digest` shows it. Articles are taught
in passages.

Axes: L distinct lessons, N lessons shown.
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
from tightframe.knowledge.exchanges import Lesson, Objective
from tightframe.knowledge.facts import Fact

PASSAGE = 100  # words of a passage, at most


def passages(article: str, *, longest: int = PASSAGE) -> list[str]:
    """The text in order, every word once; a passage crosses no empty line.

    Args:
        article: Paragraphs with empty lines between them; a heading is one, too.
        longest: Words of a passage. Sentences are put together up to it; one that is longer by
            itself is cut.
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
# Characters that count as one length. All lessons of a fact have nearly the same length: sorted
# exactly, batches would be of one fact each, and little would be learnt.
STEP = 32
STEP_TOKENS = 8  # the same, where lengths are counted in tokens


class Budget(NamedTuple):
    """How large a batch is in tokens, padding included; a longer lesson is a batch by itself."""

    tokens: int
    sizes: Int[np.ndarray, " L"]  # tokens of each distinct lesson


class Wordings(NamedTuple):
    """Which texts of a fact share its exposures; the fact itself does, unless its article stands
    in its place: then each passage is shown as often as the fact would have been."""

    paraphrases: bool = False
    reordered: bool = False
    articles: bool = False

    def of(self, fact: Fact) -> tuple[str, ...]:
        """The texts of one fact, the fact first; or the passages of its article, if it has one."""
        if self.articles and fact.article:
            return tuple(passages(fact.article))
        chosen = (fact.paraphrases if self.paraphrases else ()) + (
            fact.reordered if self.reordered else ()
        )
        return (fact.fact, *chosen)


class Stream:
    """The lessons of one run.

    Args:
        facts: What is taught.
        exposures: How often each fact is shown.
        objective: What a lesson is. With "qa" a fact's question-answer pairs come on top of its
            exposures as plain sentences.
        seed: Of the spans and of the order.
        max_span: Words of the longest masked run.
        wordings: Texts that share a fact's exposures.
        qa_ratio: Share of question-answer pairs among all lessons, in (0, 1); -1: as many as there
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
        wordings: Wordings = Wordings(),  # noqa: B008  (it is frozen)
        qa_ratio: float = -1.0,
    ):
        if wordings.articles and not any(fact.article for fact in facts):
            raise UserError(
                "no fact has an article to train on; put the text of its target's page under the "
                "key article, or leave the setting articles out"
            )
        for name in ("paraphrases", "reordered"):
            if getattr(wordings, name) and not any(getattr(fact, name) for fact in facts):
                raise UserError(
                    f"no fact has other wordings ({name}) to train on; make them with `tightframe "
                    f"knowledge reword`, or leave the setting {name} out"
                )
        self.seed = seed
        self.distinct: list[Lesson] = []  # (L,)
        shown: list[np.ndarray] = []
        for fact in facts:
            lessons, order = _lessons(fact, exposures, objective, seed, max_span, wordings)
            shown.append(order + len(self.distinct))
            self.distinct += lessons
        if objective == "qa":
            shown.append(self._add_questions(facts, exposures, qa_ratio))
        self.shown: Int[np.ndarray, " N"] = np.concatenate(shown)

    def __len__(self) -> int:
        return len(self.shown)

    @property
    def digest(self) -> str:
        """Hexadecimal SHA-256 (16 digits) of all lessons in the order in which they are shown."""
        digest = hashlib.sha256(json.dumps(self.distinct, ensure_ascii=False).encode())
        digest.update(self._shuffled().astype("<i8").tobytes())
        return digest.hexdigest()[:16]

    def n_batches(self, batch: int | Budget) -> int:
        """How many batches there are, of so many lessons (the last may be smaller) or tokens."""
        if isinstance(batch, Budget):
            return sum(map(len, self._pools(batch)))
        return math.ceil(len(self) / batch)

    def batches(self, batch: int | Budget, *, first: int = 0) -> Iterator[list[Lesson]]:
        """All lessons once, in batches of similar length, from the batch `first` on."""
        if isinstance(batch, Budget):
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

    def _batches_within(self, budget: Budget, first: int) -> Iterator[list[Lesson]]:
        for pool, held in enumerate(self._pools(budget)):
            places = np.random.default_rng([self.seed, 1, pool]).permutation(len(held))
            for place in places[max(0, first) :]:
                yield [self.distinct[i] for i in held[place]]
            first -= len(held)

    def _pools(self, budget: Budget) -> Iterator[list[list[int]]]:
        """The batches of each pool, shorter lessons first; they are shown in another order."""
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
        """Question-answer lessons, each fact's list cycled; which of the lessons are shown."""
        if not any(fact.generated_qas for fact in facts):
            raise UserError(
                "no fact has question-answer pairs to train on; make them with `tightframe "
                "knowledge reword --generated-qas`, or choose the objective ntp or sp"
            )
        shown = []
        for fact in facts:
            start, n_pairs = len(self.distinct), len(fact.generated_qas)
            self.distinct += [
                Lesson(fact.id, "qa", one.question, one.answer) for one in fact.generated_qas
            ]
            if n_pairs:
                shown.append(start + np.arange(exposures) % n_pairs)
        every = np.concatenate(shown)
        if ratio == -1:
            return every
        wanted = round(len(facts) * exposures * ratio / (1 - ratio))
        chosen: np.ndarray = np.random.default_rng([self.seed, 2]).permutation(every)
        return chosen[:wanted]


def _lessons(
    fact: Fact,
    exposures: int,
    objective: Objective,
    seed: int,
    max_span: int,
    wordings: Wordings,
) -> tuple[list[Lesson], Int[np.ndarray, " s"]]:
    """The distinct lessons of a fact, and which of them is shown at each of its exposures."""
    texts = wordings.of(fact)
    whole = wordings.articles and bool(fact.article)  # every passage, each as often as a fact
    lessons: list[Lesson] = []
    shown = []
    for i, text in enumerate(texts):
        share = exposures if whole else exposures // len(texts) + (i < exposures % len(texts))
        if share == 0:
            continue
        start = len(lessons)
        if objective == "sp":
            variants = spans(text, max_span)
            lessons += [Lesson(fact.id, "sp", one.cloze, one.span.strip()) for one in variants]
            generator = fact_generator(seed, fact.id if i == 0 else f"{fact.id}|{i}")
            shown.append(start + exposures_of(len(variants), share, generator))
        elif objective == "mlm":
            lessons += [Lesson(fact.id, "mlm", "", text, draw) for draw in range(share)]
            shown.append(start + np.arange(share))
        else:
            lessons.append(Lesson(fact.id, "ntp", "", text))
            shown.append(np.full(share, start))
    return lessons, np.concatenate(shown)
