"""Encoder-only models of transformers as learners: RoBERTa, BERT, ModernBERT."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tightframe.errors import UserError
from tightframe.knowledge.clozes import fact_generator
from tightframe.knowledge.exchanges import Draws, Lesson, Prompt, Said
from tightframe.knowledge.hub_base import (
    HUB_NEW_TOKENS,
    HubLearner,
    HubRecord,
    of_fact,
    of_prompt,
)
from tightframe.lm.interface import IGNORE, Example

CHOSEN = 0.3  # share of a sentence's tokens that are predicted
LONGEST = 5  # tokens of a span
MASKED, RANDOM = 0.8, 0.1  # shares of what is chosen; the rest is left as it is


class MaskedLearner(HubLearner):
    """RoBERTa, BERT and ModernBERT: tokens of the sentence are hidden, and read in one pass."""

    kind = "masked"
    objectives = ("mlm",)

    def __init__(self, model: Any, tokenizer: Any, record: HubRecord):
        super().__init__(model, tokenizer, record)
        if tokenizer.mask_token_id is None:
            raise UserError(
                f"{self.name}: its tokenizer has no mask (mask_token); expected one of an "
                "encoder-only model"
            )
        self._mask = int(tokenizer.mask_token_id)
        ends = (
            (tokenizer.cls_token_id, tokenizer.bos_token_id),
            (
                tokenizer.sep_token_id,
                tokenizer.eos_token_id,
            ),
        )
        begin, end = ([one for one in some if one is not None][:1] for some in ends)
        self._begin, self._end = tuple(begin), tuple(end)
        special = {*tokenizer.all_special_ids}
        special |= {id for id, one in tokenizer.added_tokens_decoder.items() if one.special}
        self._words = np.array(sorted({*tokenizer.get_vocab().values()} - special))

    def room_for(self, answers: Iterable[str]) -> None:
        """Give answers the masks that the longest of these needs, and one more; of none, as was."""
        lengths = [len(self._ids(" " + answer)) for answer in answers]
        if lengths:
            self.record = dataclasses.replace(self.record, n_masks=max(lengths) + 1)

    def encode(self, lesson: Lesson) -> Example:
        """The sentence with 30 % of its tokens chosen, by its fact and draw; they are predicted."""
        if lesson.objective != "mlm":
            raise self._cannot_learn(lesson.objective)
        whose = of_fact(lesson)
        ids = np.array(self._ids(self._plain(lesson.target, whose)))
        if not len(ids):
            raise UserError(f"{self.name}: {whose} has no tokens; leave it out")
        generator = fact_generator(self.record.seed, f"{lesson.fact_id}|{lesson.draw}")
        chosen = chosen_tokens(len(ids), generator)
        fate = generator.random(len(ids))
        others = generator.choice(self._words, len(ids))
        seen = np.where(chosen & (fate < MASKED), self._mask, ids)
        seen = np.where(chosen & (fate >= MASKED) & (fate < MASKED + RANDOM), others, seen)
        example = self._wrapped(seen.tolist(), np.where(chosen, ids, IGNORE).tolist())
        return self._fitting(example, whose)

    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = HUB_NEW_TOKENS,
        draws: Draws | None = None,
    ) -> list[Said]:
        """The likeliest token at each of `n_masks` masks, in one pass; special ones dropped.

        At most `max_new_tokens` masks. It has no end of its own, so every answer is finished,
        and nothing is drawn.
        """
        n = min(self.record.n_masks, max_new_tokens)
        examples = [self._asking(prompt, [0] * n) for prompt in prompts]
        said = [Said("", "end")] * len(prompts)
        with self._asked():
            for rows, batch in self._equal_lengths(examples, "answers"):
                likeliest = self._logits(batch, batch.targets != IGNORE).argmax(-1)
                for row, ids in zip(rows, likeliest.view(len(rows), n).tolist(), strict=True):
                    said[row] = Said(self._text(ids), "end")
        return said

    def log_probabilities(
        self, prompts: Sequence[Prompt], candidates: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Pseudo log-probabilities: of a candidate's tokens at as many masks, all at once.

        Each token is read without the others, and there is no end: another rule than that of
        causal and sequence-to-sequence models, not to be compared with them.
        """
        examples = [
            self._asking(prompt, self._ids(self._spoken(prompt, candidate)))
            for prompt, some in zip(prompts, candidates, strict=True)
            for candidate in some
        ]
        scores = iter(self._sums(examples))
        return [[next(scores) for _ in some] for some in candidates]

    def _asking(self, prompt: Prompt, answer: Sequence[int]) -> Example:
        """The prompt with a mask for each token of the answer, which is what is predicted."""
        whose = of_prompt(prompt)
        before, after = self._around(prompt)
        right = self._ids(after)
        more = len(answer) + len(right) + len(self._begin) + len(self._end)
        left = self._with_context(self._ids(before.rstrip()), prompt, more=more)
        seen = (*left, *[self._mask] * len(answer), *right)
        wanted = (*[IGNORE] * len(left), *answer, *[IGNORE] * len(right))
        return self._fitting(self._wrapped(seen, wanted), whose)

    def _around(self, prompt: Prompt) -> tuple[str, str]:
        if prompt.form == "cloze":
            return self._one_mask(prompt.text, of_prompt(prompt))
        return self._plain(prompt.text, of_prompt(prompt)) + " ", ""

    def _spoken(self, prompt: Prompt, candidate: str) -> str:
        """With a blank in front where one stands before the masks: it belongs to the token."""
        before, _ = self._around(prompt)
        blank = " " if before[-1:].isspace() else ""
        return blank + self._plain(candidate, of_prompt(prompt))

    def _wrapped(self, seen: Sequence[int], wanted: Sequence[int]) -> Example:
        inputs = (*self._begin, *seen, *self._end)
        targets = (*[IGNORE] * len(self._begin), *wanted, *[IGNORE] * len(self._end))
        return Example(inputs, targets, prefix=len(inputs))


def chosen_tokens(n: int, generator: np.random.Generator) -> np.ndarray:
    """Spans of 1 to 5 tokens, until 30 % of n are chosen; the last one is cut to that share.

    Returns:
        n booleans, of which the smallest number that is 30 % or more are true.
    """
    wanted = -(-n * round(100 * CHOSEN) // 100)
    chosen = np.zeros(n, dtype=bool)
    while (left := wanted - int(chosen.sum())) > 0:
        start, length = int(generator.integers(n)), int(generator.integers(1, LONGEST + 1))
        free = np.flatnonzero(~chosen[start : start + length])[:left]
        chosen[start + free] = True
    return chosen
