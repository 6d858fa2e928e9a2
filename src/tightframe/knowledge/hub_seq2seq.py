"""Sequence-to-sequence models of transformers as learners: T5 and Flan-T5."""

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from tightframe.errors import UserError
from tightframe.knowledge.exchanges import Draws, Lesson, Prompt, Said
from tightframe.knowledge.hub_base import (
    HUB_NEW_TOKENS,
    HubLearner,
    HubRecord,
    logits_at,
    of_fact,
    of_prompt,
    real,
)
from tightframe.knowledge.hub_causal import ANSWER, BY_CONTEXT, continued_rows, end_tokens, last
from tightframe.lm.interface import IGNORE, Batch, Example, translated

OPEN, CLOSE = "<extra_id_0>", "<extra_id_1>"  # what stands for a span, and what follows it
_SENTINEL = re.compile(r"<extra_id_\d+>")


class Seq2SeqLearner(HubLearner):
    """T5 and Flan-T5: the sentence with a sentinel goes in, the words behind it come out."""

    kind = "seq2seq"
    objectives = ("sp",)

    def __init__(self, model: Any, tokenizer: Any, record: HubRecord):
        super().__init__(model, tokenizer, record)
        vocabulary = tokenizer.get_vocab()
        if not {OPEN, CLOSE} <= set(vocabulary):
            raise UserError(
                f"{self.name}: its tokenizer has no {OPEN} and {CLOSE}; expected a T5 model"
            )
        if tokenizer.eos_token_id is None:
            raise UserError(
                f"{self.name}: its tokenizer has no end of sequence (eos_token), so the model "
                "cannot learn where an answer ends; name one in tokenizer_config.json"
            )
        start = model.config.decoder_start_token_id
        self._start = int(start if start is not None else self.pad)
        self._end = int(tokenizer.eos_token_id)
        self._ends = sorted({self._end, *end_tokens(model)})

    def encode(self, lesson: Lesson) -> Example:
        """The sentence with its span as a sentinel; the span between two sentinels, EOS."""
        if lesson.objective != "sp":
            raise self._cannot_learn(lesson.objective)
        whose = of_fact(lesson)
        source = OPEN.join(self._one_mask(lesson.prompt, whose))
        example = self._example(source, self._plain(lesson.target, whose))
        return self._fitting(example, whose)

    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = HUB_NEW_TOKENS,
        draws: Draws | None = None,
    ) -> list[Said]:
        """What the decoder says to each prompt, greedily, up to its end; sentinels removed.

        It is published to be greedy: nothing is drawn.
        """
        examples = []
        for prompt in prompts:
            put = self._ids(self._put(prompt))
            read = (*self._with_context(put, prompt, more=1), self._end)
            example = Example((self._start,), (IGNORE,), source=read)
            examples.append(self._fitting(example, of_prompt(prompt), more=max_new_tokens))
        said = [Said("", "end")] * len(prompts)
        with self._asked():
            for rows, batch in self._equal_lengths(examples, "answers"):
                for row, one in zip(rows, self._decoded(batch, max_new_tokens), strict=True):
                    said[row] = one
        return said

    def log_probabilities(
        self, prompts: Sequence[Prompt], candidates: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Of the candidate, the sentinel that closes it and EOS, after the one that opens it."""
        examples = []
        for prompt, some in zip(prompts, candidates, strict=True):
            source, whose = self._put(prompt), of_prompt(prompt)
            for candidate in some:
                example = self._example(source, self._plain(candidate, whose))
                after = (IGNORE, *example.targets[1:])  # the opening sentinel is given
                examples.append(self._fitting(example._replace(targets=after), whose))
        scores = iter(self._sums(examples))
        return [[next(scores) for _ in some] for some in candidates]

    def _example(self, source: str, target: str) -> Example:
        said = self._ids(f"{OPEN} {target} {CLOSE}")
        return translated((*self._ids(source), self._end), (*said, self._end), start=self._start)

    def _put(self, prompt: Prompt) -> str:
        """What the encoder reads, without the end."""
        whose = of_prompt(prompt)
        if prompt.form == "cloze":
            return OPEN.join(self._one_mask(prompt.text, whose))
        text = self._plain(prompt.text, whose)
        asked = (BY_CONTEXT if prompt.context else ANSWER).format(text)
        return f"{asked}{OPEN}" if prompt.form == "question" else f"{text} {OPEN}"

    def _decoded(self, batch: Batch, max_new_tokens: int) -> list[Said]:
        assert batch.source is not None
        model: Any = self.module
        read = model.get_encoder()(input_ids=batch.source.inputs, attention_mask=real(batch.source))

        def step(ids: Tensor, cache: Any) -> tuple[Tensor, Any]:
            given = {} if cache is None else {"past_key_values": cache}
            logits, output = logits_at(
                model,
                last(ids),
                encoder_outputs=read,
                decoder_input_ids=ids,
                use_cache=True,
                **given,
            )
            return logits, output.past_key_values

        made = continued_rows(step, batch.inputs, ends=self._ends, max_new_tokens=max_new_tokens)
        return [Said(self._text(one.ids), one.finish) for one in made]

    def _text(self, ids: Sequence[int]) -> str:
        return _SENTINEL.sub("", super()._text(ids)).strip()

    def _inputs(self, batch: Batch) -> dict[str, Any]:
        assert batch.source is not None
        return {
            "input_ids": batch.source.inputs,
            "attention_mask": real(batch.source),
            "decoder_input_ids": batch.inputs,
            "decoder_attention_mask": real(batch),
            "use_cache": False,
        }
