"""What learners made of models of transformers share: loss, scores, length, files.

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
from tightframe.knowledge.exchanges import Draws, Lesson, Objective, Prompt, Said
from tightframe.knowledge.facts import MASK
from tightframe.lm.interface import IGNORE, Batch, Example, collate
from tightframe.progress import tell

Kind: TypeAlias = Literal["causal", "seq2seq", "masked"]

RECORD = "learner.json"
HUB_NEW_TOKENS = 64  # of an answer, at most
N_MASKS = 10  # of an encoder-only model's answer, unless the data need more
AT_ONCE = 32  # rows of a forward pass; memory and speed only, never a result

_STRICT = pydantic.ConfigDict(extra="forbid")


@pydantic.dataclasses.dataclass(frozen=True, config=_STRICT)
class LoRA:
    """Low-rank adapters beside every linear layer but the output; the rest is not trained."""

    rank: pydantic.PositiveInt = 32
    alpha: pydantic.PositiveInt = 16  # their output is scaled by alpha / rank


@pydantic.dataclasses.dataclass(frozen=True, config=_STRICT)
class HubRecord:
    """What a saved learner says of itself, beside its weights and its tokenizer."""

    kind: Kind
    objective: Objective  # decides how questions are put
    name: str
    base: str  # what it was made from: an absolute path or a name on the hub
    revision: str | None  # the commit of that name
    dtype: str  # of the weights, as "float32"
    lora: LoRA | None  # then the weights beside this file are the adapters only
    seed: int  # of what the learner draws: adapters at first, masked tokens
    n_masks: int = N_MASKS  # of an answer (masked)
    paper_format: bool = False  # no end after a sentence (causal, ntp), as published


class SavedLearner(Record):
    """What learner.json holds."""

    record: HubRecord
    files: dict[FileName, Sha256]  # weights and tokenizer
    fingerprint: str


class HubLearner(abc.ABC):
    """A model of transformers that facts are injected into.

    Every batch is padded on the right by `collate`, whatever side the tokenizer pads on, and
    labels at padding are IGNORE. Nothing is ever cut.

    Args:
        model: With its output layer; a `PeftModel` where there are adapters.
        tokenizer: A fast one.
        record: What it is, as it is saved.
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
        """The id that stands in padding; no result depends on it."""
        known = self.tokenizer.pad_token_id
        return int(known if known is not None else self.tokenizer.eos_token_id)

    @property
    def objective(self) -> Objective:
        """What it was trained on, which decides how questions are put."""
        return self.record.objective

    @property
    def n_parameters(self) -> int:
        """Numbers of the model, trained or not."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    @abc.abstractmethod
    def encode(self, lesson: Lesson) -> Example:
        """What the model reads and predicts; UserError where it is too long."""

    @abc.abstractmethod
    def answer(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = HUB_NEW_TOKENS,
        draws: Draws | None = None,
    ) -> list[Said]:
        """Answers, in the order of the prompts; see `Learner`."""

    @abc.abstractmethod
    def log_probabilities(
        self, prompts: Sequence[Prompt], candidates: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """How likely each candidate is as the answer to its prompt, nats."""

    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """Mean cross-entropy over the labelled positions, in float32; nats per token."""
        batch = batch.to(self._device)
        labelled = batch.targets != IGNORE
        if not bool(labelled.any()):
            raise ValueError("no labelled positions: every target is IGNORE")
        return functional.cross_entropy(self._logits(batch, labelled), batch.targets[labelled])

    def save(self, folder: Path) -> None:
        """Weights (of adapters only, where there are some), tokenizer and record; a new folder."""
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

    @property
    def _device(self) -> torch.device:
        return next(self.module.parameters()).device

    def _inputs(self, batch: Batch) -> dict[str, Any]:
        """Arguments of the model's forward pass."""
        return {"input_ids": batch.inputs, "attention_mask": real(batch)}

    def _logits(self, batch: Batch, where: Bool[Tensor, "B T"]) -> Float[Tensor, "n V"]:
        logits, _ = logits_at(self.module, where, **self._inputs(batch))
        return logits

    def _equal_lengths(
        self, examples: Sequence[Example], what: str
    ) -> Iterator[tuple[list[int], Batch]]:
        """Indices and batches of rows that need no padding, so that none sees its neighbours.

        Args:
            examples: The rows.
            what: Progress is told of, such as "answers".
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
        """Log-probability of all that each example predicts."""
        found = [0.0] * len(examples)
        with self._asked():
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
    def _asked(self) -> Iterator[None]:
        """While it lasts, the model is not being trained."""
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
        """The text, which is a stranger's and must not steer the model."""
        if found := self._special.search(text.replace(MASK, "")):
            raise UserError(
                f"{self.name}: {whose} holds '{found[0]}', a special token of this model; "
                "take it out of the text"
            )
        return text

    def _one_mask(self, text: str, whose: str) -> tuple[str, str]:
        """What stands before and after the mask."""
        if (n := text.count(MASK)) != 1:
            raise UserError(f"{self.name}: {whose} has {n} {MASK}, expected one")
        before, _, after = self._plain(text, whose).partition(MASK)
        return before, after

    def _fitting(self, example: Example, whose: str, *, more: int = 0) -> Example:
        """The example, unless it (and `more` tokens of an answer) is too long for the model."""
        n = max(len(example.inputs) + more, len(example.source))
        if self._longest is not None and n > self._longest:
            answer = f" with {more} for the answer" if more else ""
            raise UserError(
                f"{self.name}: {whose} takes {n:,} tokens{answer}, the model reads at most "
                f"{self._longest:,}; shorten it or leave it out"
            )
        return example

    def _with_context(self, ids: Sequence[int], prompt: Prompt, *, more: int) -> tuple[int, ...]:
        """Tokens of a prompt after its context, of which the first are cut where there is no room.

        Args:
            ids: Of the prompt.
            prompt: Whose context stands before it, with an empty line between.
            more: Tokens that the model needs besides, those of the answer among them.
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
    """While it lasts, transformers and peft print neither bars nor advice; errors are raised."""
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
    """Logits of some positions in float32, and the model's own output.

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
    """1 where there is a token, 0 in padding."""
    place = torch.arange(batch.inputs.shape[1], device=batch.inputs.device)
    return (place < batch.lengths[:, None]).long()


def of_fact(lesson: Lesson) -> str:
    """How an error calls a lesson."""
    return f"fact {lesson.fact_id}"


def of_prompt(prompt: Prompt) -> str:
    """How an error calls a prompt."""
    text = prompt.text if len(prompt.text) <= 60 else prompt.text[:57] + "..."
    return f"question '{text}'"


def _longest_input(model: Any, tokenizer: Any) -> int | None:
    """Tokens that the model reads at most; None where nothing says so."""
    limits = [tokenizer.model_max_length]  # a very large number where it is unknown
    limits.append(getattr(model.config.get_text_config(), "max_position_embeddings", None))
    for name, module in model.named_modules():
        embeds = name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
        if embeds and module.padding_idx is not None:  # RoBERTa counts on from its padding
            limits.append(module.num_embeddings - module.padding_idx - 1)
    return min((limit for limit in limits if limit is not None and limit < 10**9), default=None)
