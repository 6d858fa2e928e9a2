"""Base of question-answering models made from models of transformers: loss, scores, files.

Axes: B rows, T positions, V vocabulary, n labelled positions of a batch.
"""

import abc
import contextlib
import dataclasses
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import pydantic
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from tightframe.errors import UserError
from tightframe.files import sha256, whole_folder
from tightframe.formats import FileName, Record, Sha256, write_signed
from tightframe.knowledge.facts import MASK, Template
from tightframe.knowledge.qa_models import (
    HUB_NEW_TOKENS,
    Generation,
    Generators,
    Objective,
    Prompt,
    TrainingExample,
)
from tightframe.lm.interface import IGNORE, Batch, Example, collate
from tightframe.progress import tell

Kind: TypeAlias = Literal["causal", "seq2seq", "masked"]

RECORD = "learner.json"
N_MASKS = 10  # of an encoder-only model's answer, unless the data need more
AT_ONCE = 32  # rows of a forward pass; memory and speed only, never a result

_STRICT = pydantic.ConfigDict(extra="forbid")


@pydantic.dataclasses.dataclass(frozen=True, config=_STRICT)
class LoRA:
    """Settings of low-rank adapters beside all linear layers but the output; only they learn."""

    rank: pydantic.PositiveInt = 32
    alpha: pydantic.PositiveInt = 16  # their output is scaled by alpha / rank


@pydantic.dataclasses.dataclass(frozen=True, config=_STRICT)
class HubRecord:
    """Description of a saved model, beside its weights and its tokenizer."""

    kind: Kind
    objective: Objective  # decides how questions are put
    name: str
    base: str  # what it was made from: an absolute path or a name on the hub
    revision: str | None  # the commit of that name
    dtype: str  # of the weights, as "float32"
    lora: LoRA | None  # then the weights beside this file are the adapters only
    seed: int  # of what the model draws: adapters at first, masked tokens
    n_masks: int = N_MASKS  # of an answer (masked)
    paper_format: bool = False  # no end after a sentence (causal, ntp), as published


class SavedModel(Record):
    """Content of learner.json."""

    record: HubRecord
    files: dict[FileName, Sha256]  # weights and tokenizer
    fingerprint: str


class HubModel(abc.ABC):
    """A model of transformers that is trained on facts and answers questions.

    Every batch is padded on the right by `collate`, whatever side the tokenizer pads on, and
    labels at padding are IGNORE. Nothing is ever cut.

    Args:
        model: With its output layer; a `PeftModel` where there are adapters.
        tokenizer: A fast one.
        record: Its description, as it is saved.
    """

    kind: ClassVar[Kind]
    objectives: ClassVar[tuple[Objective, ...]]  # the first one unless told

    def __init__(self, model: Any, tokenizer: Any, record: HubRecord):
        self.module: nn.Module = model
        self.tokenizer = tokenizer
        self.record = record
        self.name = record.name
        self.at_once = AT_ONCE
        if record.objective not in self.objectives:
            raise self._cannot_learn(record.objective)
        added = [one for one in tokenizer.added_tokens_decoder.values() if one.special]
        special = {*map(str, added), *tokenizer.all_special_tokens}
        self._special = re.compile("|".join(map(re.escape, sorted(special, key=len)[::-1])))
        self._longest = _longest_input(model, tokenizer)
        known = len(model.get_input_embeddings().weight)
        if (n_tokens := max(tokenizer.get_vocab().values()) + 1) > known:
            raise UserError(
                f"{self.name}: its tokenizer has {n_tokens:,} tokens, the model embeds {known:,}; "
                "they do not belong together"
            )

    @property
    def pad(self) -> int:
        """Id of the token that stands in padding; no result depends on it."""
        known = self.tokenizer.pad_token_id
        return int(known if known is not None else self.tokenizer.eos_token_id)

    @property
    def objective(self) -> Objective:
        """Objective of its training, which decides how questions are put."""
        return self.record.objective

    @property
    def n_parameters(self) -> int:
        """Number of parameters of the model, trained or not."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    @abc.abstractmethod
    def encode(self, example: TrainingExample) -> Example:
        """Encode a training example as tokens; refuse one that is too long, never cut it."""

    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = HUB_NEW_TOKENS,
        generators: Generators | None = None,
    ) -> list[Generation]:
        """Answer prompts, in their order; see `QAModel.answer`."""
        examples = [self._asking(prompt, max_new_tokens) for prompt in prompts]
        answers = [Generation("", "end")] * len(prompts)
        with self._evaluating():
            for rows, batch in self._equal_lengths(examples, "answers"):
                own = None if generators is None else [generators[row] for row in rows]
                for row, one in zip(rows, self._generate(batch, max_new_tokens, own), strict=True):
                    answers[row] = one._replace(template=self._template(prompts[row]))
        return answers

    def log_probabilities(
        self, prompts: Sequence[Prompt], candidates: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Return the log-probability of each candidate as the answer to its prompt, nats."""
        pairs = [
            (prompt, self._plain(candidate, of_prompt(prompt)))
            for prompt, some in zip(prompts, candidates, strict=True)
            for candidate in some
        ]
        scores = iter(self._scores(pairs))
        return [[next(scores) for _ in some] for some in candidates]

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Return the mean cross-entropy over the labelled positions, nats per token; in float32."""
        batch = batch.to(self._device)
        labelled = batch.targets != IGNORE
        if not bool(labelled.any()):
            raise ValueError("no labelled positions: every target is IGNORE")
        return functional.cross_entropy(self._logits(batch, labelled), batch.targets[labelled])

    def save(self, folder: Path) -> None:
        """Write weights (or those of the adapters), tokenizer and record to a new folder."""
        model: Any = self.module
        with whole_folder(folder) as temporary, quietly():
            if self.record.lora:
                model.save_pretrained(temporary, save_embedding_layers=False)
                (temporary / "README.md").unlink(missing_ok=True)  # peft's form to fill in
            else:
                model.save_pretrained(temporary)
            self.tokenizer.save_pretrained(temporary)
            files = {one.name: sha256(one) for one in sorted(temporary.iterdir()) if one.is_file()}
            record = dataclasses.asdict(self.record)
            write_signed(temporary / RECORD, {"record": record, "files": files})

    @abc.abstractmethod
    def _asking(self, prompt: Prompt, max_new_tokens: int) -> Example:
        """Encode a prompt; refuse one that leaves no room for an answer of so many tokens."""

    @abc.abstractmethod
    def _generate(
        self, batch: Batch, max_new_tokens: int, generators: Generators | None
    ) -> list[Generation]:
        """Answer a batch of prompts of equal length."""

    @abc.abstractmethod
    def _candidate(self, prompt: Prompt, candidate: str) -> Example:
        """Encode a prompt with a candidate as its answer, which alone is predicted."""

    def _template(self, prompt: Prompt) -> Template:
        """Return the kind of template in which the model reads a prompt."""
        return "plain"

    def _scores(self, pairs: Sequence[tuple[Prompt, str]]) -> list[float]:
        """Return the log-probability of each candidate after its prompt."""
        return self._sums(
            [self._fitting(self._candidate(*pair), of_prompt(pair[0])) for pair in pairs]
        )

    @property
    def _device(self) -> torch.device:
        return next(self.module.parameters()).device

    def _inputs(self, batch: Batch) -> dict[str, Any]:
        """Return the arguments of the model's forward pass."""
        return {"input_ids": batch.inputs, "attention_mask": real(batch)}

    def _logits(self, batch: Batch, where: Bool[Tensor, "B T"]) -> Float[Tensor, "n V"]:
        logits, _ = logits_at(self.module, where, **self._inputs(batch))
        return logits

    def _equal_lengths(
        self, examples: Sequence[Example], what: str
    ) -> Iterator[tuple[list[int], Batch]]:
        """Yield indices and batches of rows that need no padding, so that none sees its neighbours.

        Args:
            examples: The rows.
            what: Name of the rows in the progress bar, such as "answers".
        """
        lengths = [(len(one.inputs), len(one.source)) for one in examples]
        order = sorted(range(len(examples)), key=lambda index: lengths[index])
        while order:
            n = 1
            while n < min(len(order), self.at_once) and lengths[order[n]] == lengths[order[0]]:
                n += 1
            rows, order = order[:n], order[n:]
            batch = collate([examples[row] for row in rows], pad=self.pad)
            yield rows, batch.to(self._device)
            done = len(examples) - len(order)
            tell(what, done / len(examples), done)

    def _sums(self, examples: Sequence[Example]) -> list[float]:
        """Return the log-probability of all that each example predicts."""
        found = [0.0] * len(examples)
        with self._evaluating():
            for rows, batch in self._equal_lengths(examples, "candidates"):
                labelled = batch.targets != IGNORE
                losses = functional.cross_entropy(
                    self._logits(batch, labelled), batch.targets[labelled], reduction="none"
                )
                sums = torch.zeros(len(rows), dtype=torch.float64, device=losses.device)
                sums.index_add_(0, labelled.nonzero()[:, 0], losses.double())
                for row, total in zip(rows, sums.tolist(), strict=True):
                    found[row] = -total
        return found

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Set the model to evaluation mode, without gradients, while it lasts."""
        training = self.module.training
        self.module.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.module.train(training)

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _plain(self, text: str, whose: str) -> str:
        """Return a text unchanged; refuse special tokens: a stranger must not steer the model."""
        if found := self._special.search(text.replace(MASK, "")):
            raise UserError(
                f"{self.name}: {whose} holds '{found[0]}', a special token of this model; "
                "take it out of the text"
            )
        return text

    def _one_mask(self, text: str, whose: str) -> tuple[str, str]:
        """Split a text at its only mask."""
        if (n := text.count(MASK)) != 1:
            raise UserError(f"{self.name}: {whose} has {n} {MASK}, expected one")
        before, _, after = self._plain(text, whose).partition(MASK)
        return before, after

    def _fitting(self, example: Example, whose: str, *, more: int = 0) -> Example:
        """Return the example; refuse it if with `more` tokens it is too long for the model."""
        n = max(len(example.inputs) + more, len(example.source))
        if self._longest is not None and n > self._longest:
            answer = f" with {more} for the answer" if more else ""
            raise UserError(
                f"{self.name}: {whose} takes {n:,} tokens{answer}, the model reads at most "
                f"{self._longest:,}; shorten it or leave it out"
            )
        return example

    def _with_context(self, ids: Sequence[int], prompt: Prompt, *, more: int) -> tuple[int, ...]:
        """Put the context before the tokens of a prompt; cut its first tokens if there is no room.

        Args:
            ids: Tokens of the prompt.
            prompt: Its context stands before it, with an empty line between.
            more: Other tokens that need room, those of the answer included.
        """
        if not prompt.context:
            return tuple(ids)
        context = self._ids(self._plain(prompt.context, "the context of " + of_prompt(prompt)))
        break_ = self._ids("\n\n")
        if self._longest is not None:
            left = self._longest - len(ids) - len(break_) - more
            context = context[max(0, len(context) - max(0, left)) :]
        return (*context, *break_, *ids)

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def _cannot_learn(self, objective: str) -> UserError:
        return UserError(
            f"{self.name}: a {self.kind} model does not learn by '{objective}'; expected "
            f"{' or '.join(self.objectives)}"
        )


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep transformers and peft from printing bars and advice; errors are still raised."""
    from transformers.utils import logging as theirs

    verbosity, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity(logging.ERROR)
    theirs.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # one library's to the other's authors
            yield
    finally:
        theirs.set_verbosity(verbosity)
        if bars:
            theirs.enable_progress_bar()


def logits_at(
    model: Any, where: Bool[Tensor, "B T"], **inputs: Any
) -> tuple[Float[Tensor, "n V"], Any]:
    """Return the logits of some positions in float32, and the model's own output.

    Only these positions go through the output layer: logits of all would be most of the memory.
    """
    hook = model.get_output_embeddings().register_forward_pre_hook(
        lambda _, given: (given[0][where],)
    )
    try:
        output = model(**inputs)
    finally:
        hook.remove()
    return output.logits.float(), output


def real(batch: Batch) -> Int[Tensor, "B T"]:
    """Return a mask that is 1 at tokens and 0 in padding."""
    place = torch.arange(batch.inputs.shape[1], device=batch.inputs.device)
    return (place < batch.lengths[:, None]).long()


def of_fact(example: TrainingExample) -> str:
    """Return the name of a training example in errors."""
    return f"fact {example.fact_id}"


def of_prompt(prompt: Prompt) -> str:
    """Return the name of a prompt in errors."""
    text = prompt.text if len(prompt.text) <= 60 else prompt.text[:57] + "..."
    return f"question '{text}'"


def _longest_input(model: Any, tokenizer: Any) -> int | None:
    """Return the maximum number of tokens that the model reads; None if nothing says so."""
    limits = [tokenizer.model_max_length]  # a very large number where it is unknown
    limits.append(getattr(model.config.get_text_config(), "max_position_embeddings", None))
    for name, module in model.named_modules():
        embeds = name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
        if embeds and module.padding_idx is not None:  # RoBERTa counts on from its padding
            limits.append(module.num_embeddings - module.padding_idx - 1)
    return min((limit for limit in limits if limit is not None and limit < 10**9), default=None)
