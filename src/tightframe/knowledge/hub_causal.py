"""Causal models of transformers as learners: next tokens, masked words, greedy answers."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from tightframe.corpus import hub
from tightframe.errors import UserError
from tightframe.knowledge.decodable import next_tokens
from tightframe.knowledge.exchanges import Draws, Lesson, Prompt, Said
from tightframe.knowledge.facts import MASK, Template
from tightframe.knowledge.hub_base import (
    HUB_NEW_TOKENS,
    HubLearner,
    HubRecord,
    logits_at,
    of_fact,
    of_prompt,
)
from tightframe.lm.interface import IGNORE, Batch, Example, continued

# New tokens and the cache so far (None at first: all tokens are new) -> logits after the last
# token, and the cache (None from a model without one, which is then given all tokens each time).
Step = Callable[[Tensor, Any], tuple[Tensor, Any]]


class Continued(NamedTuple):
    """What a model went on with."""

    ids: tuple[int, ...]  # without the end
    finish: Literal["end", "length"]


def continued_rows(
    step: Step,
    first: Int[Tensor, "B T"],
    *,
    ends: Sequence[int],
    max_new_tokens: int,
    draws: Draws | None = None,
) -> list[Continued]:
    """The next token, again and again, until every row has come to an end.

    Args:
        step: A forward pass.
        first: What is given; no padding.
        ends: Tokens that end a row.
        max_new_tokens: After which a row is left unfinished.
        draws: A generator a row to draw its tokens with; None: the likeliest ones.
    """
    ids, cache = first, None
    stop = torch.tensor(ends, device=first.device)
    ended = torch.zeros(len(first), dtype=torch.bool, device=first.device)
    for _ in range(max_new_tokens):
        logits, cache = step(ids if cache is None else ids[:, -1:], cache)
        said = next_tokens(logits, draws)
        ids = torch.cat([ids, said[:, None]], 1)
        ended |= torch.isin(said, stop)
        if bool(ended.all()):
            break
    return [_until_end(row, frozenset(ends)) for row in ids[:, first.shape[1] :].tolist()]


def _until_end(ids: Sequence[int], ends: frozenset[int]) -> Continued:
    for place, token in enumerate(ids):
        if token in ends:
            return Continued(tuple(ids[:place]), "end")
    return Continued(tuple(ids), "length")


MASKED_WORDS = "Predict the masked words in the following sentence: {}\nMasked words:\n"
ANSWER = "{}\nAnswer:"
BY_CONTEXT = "Based on the above contexts, answer the following question:{}\nAnswer:"
# In front of a chat template that tells the model the date: no answer depends on the day.
TODAY = "{%- macro strftime_now(form) -%}26 Jul 2024{%- endmacro -%}"


class CausalLearner(HubLearner):
    """Llama, Qwen, Gemma and their like, whole or with adapters.

    Every sequence opens with the tokenizer's BOS; without one, with what the configuration
    calls so; else with EOS, which is what precedes a document in such a model's training.
    A question, to learn or to answer, is put in the tokenizer's chat template where it has one,
    unless its training was in the published format.
    """

    kind = "causal"
    objectives = ("ntp", "sp", "qa")

    def __init__(self, model: Any, tokenizer: Any, record: HubRecord):
        super().__init__(model, tokenizer, record)
        if tokenizer.eos_token_id is None:
            raise UserError(
                f"{self.name}: its tokenizer has no end of sequence (eos_token), so the model "
                "cannot learn where an answer ends; name one in tokenizer_config.json"
            )
        self._end = int(tokenizer.eos_token_id)
        opens = (tokenizer.bos_token_id, model.config.get_text_config().bos_token_id, self._end)
        self._begin = int(next(one for one in opens if one is not None))
        self._ends = sorted({self._end, *end_tokens(model)})
        self._chats = bool(tokenizer.chat_template) and not record.paper_format

    def encode(self, lesson: Lesson) -> Example:
        """`BOS fact EOS` with every token predicted, or a prompt and the target after it."""
        whose = of_fact(lesson)
        prompt, target = (self._plain(text, whose) for text in (lesson.prompt, lesson.target))
        if lesson.objective == "ntp":
            end = () if self.record.paper_format else (self._end,)
            example = continued((self._begin,), (*self._ids(target), *end), bidirectional=False)
        elif lesson.objective == "sp":
            example = self._answered(MASKED_WORDS.format(prompt), target)
        elif lesson.objective == "qa":
            example = self._replied(Prompt("question", prompt), target)
        else:
            raise self._cannot_learn(lesson.objective)
        return self._fitting(example, whose)

    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = HUB_NEW_TOKENS,
        draws: Draws | None = None,
    ) -> list[Said]:
        """What the model goes on with after each prompt, up to its end; drawn, where told."""
        examples = []
        for prompt in prompts:
            ids = self._read(prompt, more=max_new_tokens)
            example = Example(ids, (IGNORE,) * len(ids))
            examples.append(self._fitting(example, of_prompt(prompt), more=max_new_tokens))
        said = [Said("", "end")] * len(prompts)
        with self._asked():
            for rows, batch in self._equal_lengths(examples, "answers"):
                made = continued_rows(
                    self._step,
                    batch.inputs,
                    ends=self._ends,
                    max_new_tokens=max_new_tokens,
                    draws=None if draws is None else [draws[row] for row in rows],
                )
                for row, one in zip(rows, made, strict=True):
                    template: Template = "chat" if self._in_chat(prompts[row]) else "plain"
                    said[row] = Said(self._text(one.ids), one.finish, template)
        return said

    def log_probabilities(
        self, prompts: Sequence[Prompt], candidates: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Of candidate and EOS after the prompt; of an `ntp` learner as `Learner` says.

        There it is log P(filled sentence) - log P(candidate after BOS), neither with its end.
        """
        pairs = [
            (prompt, self._plain(candidate, of_prompt(prompt)))
            for prompt, some in zip(prompts, candidates, strict=True)
            for candidate in some
        ]
        if self.record.objective == "ntp":
            filled = self._sums([self._sentence(self._filled(*pair), pair[0]) for pair in pairs])
            alone = self._sums([self._sentence(said, prompt) for prompt, said in pairs])
            scores = iter([one - other for one, other in zip(filled, alone, strict=True)])
        else:
            scores = iter(self._sums([self._candidate(*pair) for pair in pairs]))
        return [[next(scores) for _ in some] for some in candidates]

    def _answered(self, prompt: str, target: str) -> Example:
        """Tokens of the target as they follow the prompt, whose own tokens stay as when asked."""
        before, whole = self._ids(prompt), self._ids(prompt + target)
        after = whole[len(before) :]
        if not after or whole[: len(before)] != before:  # a token lies across the border
            after = self._ids(target)
        return continued((self._begin, *before), (*after, self._end), bidirectional=False)

    def _put(self, prompt: Prompt) -> str:
        """What the model reads, without the BOS."""
        text = self._plain(prompt.text, of_prompt(prompt))
        if self.record.objective == "sp":
            asked = {"question": f"{text}\nAnswer: {MASK}", "continuation": f"{text} {MASK}"}
            return MASKED_WORDS.format(asked.get(prompt.form, text))
        if prompt.form == "question":
            form = BY_CONTEXT if prompt.context else ANSWER
            return (form.removesuffix("\nAnswer:") if self._chats else form).format(text)
        return text.partition(MASK)[0].rstrip()  # a blank at the end would be a token of its own

    def _in_chat(self, prompt: Prompt) -> bool:
        return self._chats and prompt.form == "question" and self.record.objective != "sp"

    def _read(self, prompt: Prompt, *, more: int = 0) -> tuple[int, ...]:
        """Tokens of all that the model reads before an answer of at most so `more` tokens."""
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
        """What the chat template puts before and after what a user says."""
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
        """A question and its answer, each put as when it is asked."""
        if not self._in_chat(prompt):
            return self._answered(self._put(prompt), " " + target)
        answer = (*self._ids(target), self._end)
        return continued(self._read(prompt), answer, bidirectional=False)

    def _candidate(self, prompt: Prompt, candidate: str) -> Example:
        if prompt.form == "question" and self.record.objective != "sp":
            example = self._replied(prompt, candidate)
        else:
            put = self._put(prompt)
            blank = " " if put and self.record.objective != "sp" else ""
            example = self._answered(put, blank + candidate)
        return self._fitting(example, of_prompt(prompt))

    def _filled(self, prompt: Prompt, candidate: str) -> str:
        if prompt.form == "cloze":
            return prompt.text.replace(MASK, candidate)
        return f"{self._put(prompt)} {candidate}"

    def _sentence(self, text: str, prompt: Prompt) -> Example:
        self._plain(text, of_prompt(prompt))
        example = continued((self._begin,), self._ids(text), bidirectional=False)
        return self._fitting(example, of_prompt(prompt))

    def _step(self, ids: Tensor, cache: Any) -> tuple[Tensor, Any]:
        given = {} if cache is None else {"past_key_values": cache}
        logits, output = logits_at(self.module, last(ids), input_ids=ids, use_cache=True, **given)
        return logits, getattr(output, "past_key_values", None)

    def _inputs(self, batch: Batch) -> dict[str, Any]:
        return {**super()._inputs(batch), "use_cache": False}


def last(ids: Tensor) -> Tensor:
    """The last position of each row."""
    where = torch.zeros_like(ids, dtype=torch.bool)
    where[:, -1] = True
    return where


def end_tokens(model: Any) -> list[int]:
    """Tokens that the model's own files call an end; there may be several."""
    named = getattr(model.generation_config, "eos_token_id", None)
    return [] if named is None else [named] if isinstance(named, int) else list(named)
