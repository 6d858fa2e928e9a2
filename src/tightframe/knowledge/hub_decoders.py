"""Models of transformers that answer left to right: causal and sequence-to-sequence ones.

Axes: B rows, T positions.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from tightframe.corpus import hub
from tightframe.errors import UserError
from tightframe.knowledge.facts import MASK, Template
from tightframe.knowledge.hub import HubModel, HubRecord, logits_at, of_fact, of_prompt, real
from tightframe.knowledge.qa_models import Generation, Generators, Prompt, TrainingExample
from tightframe.knowledge.word_pieces import next_tokens
from tightframe.lm.interface import IGNORE, Batch, Example, continued, translated

# New tokens and the cache so far (None at first: all tokens are new) -> logits after the last
# token, and the cache (None from a model without one, which is then given all tokens each time).
Step = Callable[[Tensor, Any], tuple[Tensor, Any]]

MASKED_WORDS = "Predict the masked words in the following sentence: {}\nMasked words:\n"
ANSWER = "{}\nAnswer:"
BY_CONTEXT = "Based on the above contexts, answer the following question:{}\nAnswer:"
# In front of a chat template that asks for the date: no answer depends on the day.
TODAY = "{%- macro strftime_now(form) -%}26 Jul 2024{%- endmacro -%}"

OPEN, CLOSE = "<extra_id_0>", "<extra_id_1>"  # what stands for a span, and what follows it
_SENTINEL = re.compile(r"<extra_id_\d+>")


class DecoderQAModel(HubModel):
    """A model of transformers that generates its answer token by token, up to an end."""

    def __init__(self, model: Any, tokenizer: Any, record: HubRecord):
        super().__init__(model, tokenizer, record)
        if tokenizer.eos_token_id is None:
            raise UserError(
                f"{self.name}: its tokenizer has no end of sequence (eos_token), so the model "
                "cannot learn where an answer ends; name one in tokenizer_config.json"
            )
        self._end = int(tokenizer.eos_token_id)
        named = getattr(model.generation_config, "eos_token_id", None)  # one, several or None
        others = [] if named is None else [named] if isinstance(named, int) else list(named)
        self._ends = sorted({self._end, *others})

    def _continuations(
        self,
        step: Step,
        first: Int[Tensor, "B T"],
        max_new_tokens: int,
        generators: Generators | None,
    ) -> list[Generation]:
        """Generate token after token until every row has ended.

        Args:
            step: A forward pass.
            first: Tokens to continue; no padding.
            max_new_tokens: After which a row is left unfinished.
            generators: One for each row, to draw its tokens; None: the likeliest ones.
        """
        ids, cache = first, None
        stop = torch.tensor(self._ends, device=first.device)
        ended = torch.zeros(len(first), dtype=torch.bool, device=first.device)
        for _ in range(max_new_tokens):
            logits, cache = step(ids if cache is None else ids[:, -1:], cache)
            new = next_tokens(logits, generators)
            ids = torch.cat([ids, new[:, None]], 1)
            ended |= torch.isin(new, stop)
            if bool(ended.all()):
                break
        return [self._up_to_end(row) for row in ids[:, first.shape[1] :].tolist()]

    def _up_to_end(self, ids: Sequence[int]) -> Generation:
        n = next((place for place, token in enumerate(ids) if token in self._ends), None)
        finish: Literal["end", "length"] = "length" if n is None else "end"
        return Generation(self._text(ids[:n]), finish)


class CausalQAModel(DecoderQAModel):
    """Llama, Qwen, Gemma and similar models, whole or with adapters.

    Every sequence opens with the tokenizer's BOS; without one, with what the configuration
    calls so; else with EOS, which is what precedes a document in such a model's training.
    A question, to learn or to answer, is put in the tokenizer's chat template where it has one,
    unless its training was in the published format.
    """

    kind = "causal"
    objectives = ("ntp", "sp", "qa")

    def __init__(self, model: Any, tokenizer: Any, record: HubRecord):
        super().__init__(model, tokenizer, record)
        opens = (tokenizer.bos_token_id, model.config.get_text_config().bos_token_id, self._end)
        self._begin = int(next(one for one in opens if one is not None))
        self._chats = bool(tokenizer.chat_template) and not record.paper_format

    def encode(self, example: TrainingExample) -> Example:
        """Encode `BOS fact EOS` with every token predicted, or a prompt and the target after it."""
        whose = of_fact(example)
        prompt, target = (self._plain(text, whose) for text in (example.prompt, example.target))
        if example.objective == "ntp":
            end = () if self.record.paper_format else (self._end,)
            encoded = continued((self._begin,), (*self._ids(target), *end), bidirectional=False)
        elif example.objective == "sp":
            encoded = self._answered(MASKED_WORDS.format(prompt), target)
        elif example.objective == "qa":
            encoded = self._replied(Prompt("question", prompt), target)
        else:
            raise self._cannot_learn(example.objective)
        return self._fitting(encoded, whose)

    def _asking(self, prompt: Prompt, max_new_tokens: int) -> Example:
        ids = self._read(prompt, more=max_new_tokens)
        example = Example(ids, (IGNORE,) * len(ids))
        return self._fitting(example, of_prompt(prompt), more=max_new_tokens)

    def _generate(
        self, batch: Batch, max_new_tokens: int, generators: Generators | None
    ) -> list[Generation]:
        return self._continuations(self._step, batch.inputs, max_new_tokens, generators)

    def _template(self, prompt: Prompt) -> Template:
        return "chat" if self._in_chat(prompt) else "plain"

    def _scores(self, pairs: Sequence[tuple[Prompt, str]]) -> list[float]:
        """Score as the base does, but with `ntp` as `QAModel.log_probabilities` says.

        There it is log P(filled sentence) - log P(candidate after BOS), neither with its end.
        """
        if self.record.objective != "ntp":
            return super()._scores(pairs)
        filled = self._sums([self._sentence(self._filled(*pair), pair[0]) for pair in pairs])
        alone = self._sums([self._sentence(candidate, prompt) for prompt, candidate in pairs])
        return [one - other for one, other in zip(filled, alone, strict=True)]

    def _answered(self, prompt: str, target: str) -> Example:
        """Encode a target as it follows a prompt, whose own tokens stay as when asked."""
        before, whole = self._ids(prompt), self._ids(prompt + target)
        after = whole[len(before) :]
        if not after or whole[: len(before)] != before:  # a token lies across the border
            after = self._ids(target)
        return continued((self._begin, *before), (*after, self._end), bidirectional=False)

    def _put(self, prompt: Prompt) -> str:
        """Return the text that the model reads, without the BOS."""
        text = self._plain(prompt.text, of_prompt(prompt))
        if self.record.objective == "sp":
            masked = {"question": f"{text}\nAnswer: {MASK}", "continuation": f"{text} {MASK}"}
            return MASKED_WORDS.format(masked.get(prompt.form, text))
        if prompt.form == "question":
            form = BY_CONTEXT if prompt.context else ANSWER
            return (form.removesuffix("\nAnswer:") if self._chats else form).format(text)
        return text.partition(MASK)[0].rstrip()  # a blank at the end would be a token of its own

    def _in_chat(self, prompt: Prompt) -> bool:
        return self._chats and prompt.form == "question" and self.record.objective != "sp"

    def _read(self, prompt: Prompt, *, more: int = 0) -> tuple[int, ...]:
        """Return all tokens that the model reads before an answer of at most so `more` tokens."""
        put = self._put(prompt)
        if not self._in_chat(prompt):
            ids = self._with_context(self._ids(put), prompt, more=1 + more)
            return (self._begin, *ids)
        before, after = self._turn(put)
        if not prompt.context:
            return self._ids(before + put + after)
        begin = self._ids(before)
        ids = self._ids(put + after)
        return (*begin, *self._with_context(ids, prompt, more=len(begin) + more))

    def _turn(self, text: str) -> tuple[str, str]:
        """Return what the chat template puts before and after what a user says."""
        try:
            chat = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": text}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,
                chat_template=TODAY + self.tokenizer.get_chat_template(),
            )
        except Exception as error:  # a template is a program of strangers, run in a sandbox
            raise UserError(f"{self.name}: its chat template fails ({hub.reason(error)})") from None
        before, found, after = str(chat).rpartition(text)
        if not found:
            raise UserError(f"{self.name}: its chat template does not repeat a question as it is")
        return before, after

    def _replied(self, prompt: Prompt, target: str) -> Example:
        """Encode a question and its answer, each as when the question is asked."""
        if not self._in_chat(prompt):
            return self._answered(self._put(prompt), " " + target)
        answer = (*self._ids(target), self._end)
        return continued(self._read(prompt), answer, bidirectional=False)

    def _candidate(self, prompt: Prompt, candidate: str) -> Example:
        if prompt.form == "question" and self.record.objective != "sp":
            return self._replied(prompt, candidate)
        put = self._put(prompt)
        blank = " " if put and self.record.objective != "sp" else ""
        return self._answered(put, blank + candidate)

    def _filled(self, prompt: Prompt, candidate: str) -> str:
        if prompt.form == "cloze":
            return prompt.filled(candidate)
        return f"{self._put(prompt)} {candidate}"

    def _sentence(self, text: str, prompt: Prompt) -> Example:
        self._plain(text, of_prompt(prompt))
        example = continued((self._begin,), self._ids(text), bidirectional=False)
        return self._fitting(example, of_prompt(prompt))

    def _step(self, ids: Tensor, cache: Any) -> tuple[Tensor, Any]:
        given = {} if cache is None else {"past_key_values": cache}
        logits, output = logits_at(self.module, _last(ids), input_ids=ids, use_cache=True, **given)
        return logits, getattr(output, "past_key_values", None)

    def _inputs(self, batch: Batch) -> dict[str, Any]:
        return {**super()._inputs(batch), "use_cache": False}


class Seq2SeqQAModel(DecoderQAModel):
    """T5 and Flan-T5: the sentence with a sentinel goes in, the words behind it come out."""

    kind = "seq2seq"
    objectives = ("sp",)

    def __init__(self, model: Any, tokenizer: Any, record: HubRecord):
        super().__init__(model, tokenizer, record)
        if not {OPEN, CLOSE} <= set(tokenizer.get_vocab()):
            raise UserError(
                f"{self.name}: its tokenizer has no {OPEN} and {CLOSE}; expected a T5 model"
            )
        start = model.config.decoder_start_token_id
        self._start = int(start if start is not None else self.pad)

    def encode(self, example: TrainingExample) -> Example:
        """Encode the sentence with its span as a sentinel; the span between two sentinels, EOS."""
        if example.objective != "sp":
            raise self._cannot_learn(example.objective)
        whose = of_fact(example)
        source = OPEN.join(self._one_mask(example.prompt, whose))
        return self._fitting(self._example(source, self._plain(example.target, whose)), whose)

    def _asking(self, prompt: Prompt, max_new_tokens: int) -> Example:
        put = self._ids(self._put(prompt))
        read = (*self._with_context(put, prompt, more=1), self._end)
        example = Example((self._start,), (IGNORE,), source=read)
        return self._fitting(example, of_prompt(prompt), more=max_new_tokens)

    def _generate(
        self, batch: Batch, max_new_tokens: int, generators: Generators | None
    ) -> list[Generation]:
        """Generate greedily, as published: nothing is drawn."""
        assert batch.source is not None
        model: Any = self.module
        read = model.get_encoder()(input_ids=batch.source.inputs, attention_mask=real(batch.source))

        def step(ids: Tensor, cache: Any) -> tuple[Tensor, Any]:
            given = {} if cache is None else {"past_key_values": cache}
            given |= {"encoder_outputs": read, "decoder_input_ids": ids, "use_cache": True}
            logits, output = logits_at(model, _last(ids), **given)
            return logits, output.past_key_values

        return self._continuations(step, batch.inputs, max_new_tokens, None)

    def _candidate(self, prompt: Prompt, candidate: str) -> Example:
        """Encode the candidate, the sentinel that closes it and EOS, all three predicted."""
        example = self._example(self._put(prompt), candidate)
        after = (IGNORE, *example.targets[1:])  # the opening sentinel is given
        return example._replace(targets=after)

    def _example(self, source: str, target: str) -> Example:
        answer = self._ids(f"{OPEN} {target} {CLOSE}")
        return translated((*self._ids(source), self._end), (*answer, self._end), start=self._start)

    def _put(self, prompt: Prompt) -> str:
        """Return the text that the encoder reads, without the end."""
        whose = of_prompt(prompt)
        if prompt.form == "cloze":
            return OPEN.join(self._one_mask(prompt.text, whose))
        text = self._plain(prompt.text, whose)
        asked = (BY_CONTEXT if prompt.context else ANSWER).format(text)
        return f"{asked}{OPEN}" if prompt.form == "question" else f"{text} {OPEN}"

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


def _last(ids: Int[Tensor, "B T"]) -> Tensor:
    """Return a mask of the last position of each row."""
    where = torch.zeros_like(ids, dtype=torch.bool)
    where[:, -1] = True
    return where
