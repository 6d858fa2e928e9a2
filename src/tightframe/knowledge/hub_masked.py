"""Encoder-only models of transformers, which fill masks in one pass: RoBERTa, BERT, ModernBERT."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tightframe.errors import UserError
from tightframe.knowledge.clozes import fact_generator
from tightframe.knowledge.hub import HubModel, HubRecord, of_fact, of_prompt
from tightframe.knowledge.qa_models import Generation, Generators, Prompt, TrainingExample
from tightframe.lm.interface import IGNORE, Batch, Example

CHOSEN = 0.3  # share of a sentence's tokens that are predicted
LONGEST = 5  # tokens of a span
MASKED, RANDOM = 0.8, 0.1  # shares of what is chosen; the rest is left as it is


class MaskedQAModel(HubModel):
    """RoBERTa, BERT and ModernBERT: hidden tokens of a sentence are predicted in one pass."""

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
            (tokenizer.sep_token_id, tokenizer.eos_token_id),
        )
        begin, end = ([one for one in some if one is not None][:1] for some in ends)
        self._begin, self._end = tuple(begin), tuple(end)
        special = {*tokenizer.all_special_ids}
        special |= {id for id, one in tokenizer.added_tokens_decoder.items() if one.special}
        self._words = np.array(sorted({*tokenizer.get_vocab().values()} - special))

    def room_for(self, answers: Iterable[str]) -> None:
        """Give answers as many masks as the longest of these needs, and one more."""
        lengths = [len(self._ids(" " + answer)) for answer in answers]
        if lengths:
            self.record = dataclasses.replace(self.record, n_masks=max(lengths) + 1)

    def encode(self, example: TrainingExample) -> Example:
        """Encode the sentence; 30 % of its tokens, chosen by fact and draw, are predicted."""
        if example.objective != "mlm":
            raise self._cannot_learn(example.objective)
        whose = of_fact(example)
        ids = np.array(self._ids(self._plain(example.target, whose)))
        if not len(ids):
            raise UserError(f"{self.name}: {whose} has no tokens; leave it out")
        generator = fact_generator(self.record.seed, f"{example.fact_id}|{example.draw}")
        chosen = chosen_tokens(len(ids), generator)
        fate = generator.random(len(ids))
        others = generator.choice(self._words, len(ids))
        seen = np.where(chosen & (fate < MASKED), self._mask, ids)
        seen = np.where(chosen & (fate >= MASKED) & (fate < MASKED + RANDOM), others, seen)
        encoded = self._wrapped(seen.tolist(), np.where(chosen, ids, IGNORE).tolist())
        return self._fitting(encoded, whose)

    def _asking(self, prompt: Prompt, max_new_tokens: int) -> Example:
        return self._masked(prompt, [0] * min(self.record.n_masks, max_new_tokens))

    def _generate(
        self, batch: Batch, max_new_tokens: int, generators: Generators | None
    ) -> list[Generation]:
        """Return the likeliest token at each mask, without special ones; nothing is drawn.

        The model has no end of its own, so every answer is finished.
        """
        likeliest = self._logits(batch, batch.targets != IGNORE).argmax(-1)
        rows = likeliest.view(len(batch.inputs), -1).tolist()
        return [Generation(self._text(ids), "end") for ids in rows]

    def _candidate(self, prompt: Prompt, candidate: str) -> Example:
        """Encode a prompt with as many masks as the candidate has tokens, all predicted at once.

        Each token is predicted without the others, and there is no end: another rule than that of
        causal and sequence-to-sequence models, not to be compared with them.
        """
        return self._masked(prompt, self._ids(self._spoken(prompt, candidate)))

    def _masked(self, prompt: Prompt, answer: Sequence[int]) -> Example:
        """Encode a prompt with a mask for each token of the answer, which is what is predicted."""
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
        """Return a candidate with a blank in front if one precedes the masks; tokens hold it."""
        before, _ = self._around(prompt)
        blank = " " if before[-1:].isspace() else ""
        return blank + candidate

    def _wrapped(self, seen: Sequence[int], wanted: Sequence[int]) -> Example:
        inputs = (*self._begin, *seen, *self._end)
        targets = (*[IGNORE] * len(self._begin), *wanted, *[IGNORE] * len(self._end))
        return Example(inputs, targets, prefix=len(inputs))


def chosen_tokens(n: int, generator: np.random.Generator) -> np.ndarray:
    """Choose spans of 1 to 5 tokens until they hold 30 % of n; the last one is cut to that share.

    Returns:
        n booleans, of which the smallest number that is at least 30 % are true.
    """
    wanted = -(-n * round(100 * CHOSEN) // 100)
    chosen = np.zeros(n, dtype=bool)
    while (left := wanted - int(chosen.sum())) > 0:
        start, length = int(generator.integers(n)), int(generator.integers(1, LONGEST + 1))
        free = np.flatnonzero(~chosen[start : start + length])[:left]
        chosen[start + free] = True
    return chosen
